//! `Mcp-Param-…` headers: the arguments of a tool call that must be repeated in headers according to the tool's
//! input schema (SEP-2243).

use serde_json::Value;

use super::check::{Fault, Request};
use super::header::{Field, Fields, NOT_TEXT, OwnedParams, REPEATED, decode};
use crate::offload::{LARGE, Offload};
use crate::protocol::{members, object};

/// The keyword in a schema.
const KEYWORD: &str = "x-mcp-header";
/// Maximum size of a schema with the keyword, in bytes. A parsed text can need a hundred times as much memory.
const MAX_SCHEMA: usize = 256 << 10;
/// Maximum number of headers that one tool can require.
const MAX_RULES: usize = 64;
/// Maximum total length of the member names on the path to one value and of the header name, in bytes.
const MAX_PATH: usize = 1024;
/// Keywords with subschemas that cannot be reached through `properties` alone.
const ELSEWHERE: [&str; 18] = [
    "items",
    "contains",
    "unevaluatedItems",
    "additionalProperties",
    "propertyNames",
    "unevaluatedProperties",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
    "allOf",
    "anyOf",
    "oneOf",
    "prefixItems",
    "patternProperties",
    "dependentSchemas",
    "$defs",
];

/// The headers that one tool requires.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParamHeaders(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// The names of the members on the path from the arguments to the value.
    path: Vec<String>,
    /// The header name without the prefix, in lower case.
    token: String,
    is_integer: bool,
}

impl ParamHeaders {
    /// Reads the rules from an input schema. An invalid schema has no rules, because clients ignore such a
    /// tool.
    pub fn of(schema: &Value) -> Self {
        let mut rules = Vec::new();
        if gather(schema, &mut Vec::new(), &mut rules).is_none() {
            return Self::default();
        }
        for (index, rule) in rules.iter().enumerate() {
            if rules.iter().skip(index + 1).any(|other: &Rule| other.token == rule.token) {
                return Self::default();
            }
        }
        Self(rules)
    }

    /// Reads the rules from the text of a schema. A schema that exceeds the limits has no rules either.
    pub fn of_text(schema: &str) -> Self {
        // Most schemas do not contain the keyword, so they need not be parsed.
        let may_have_rules = schema.contains(KEYWORD) || schema.contains('\\');
        if !may_have_rules || schema.len() > MAX_SCHEMA {
            return Self::default();
        }
        serde_json::from_str(schema).map_or_else(|_| Self::default(), |schema| Self::of(&schema))
    }

    /// The approximate memory size of the rules, in bytes.
    pub(super) fn size(&self) -> usize {
        let size = |rule: &Rule| rule.length() + size_of::<Rule>() + rule.path.len() * size_of::<String>();
        self.0.iter().map(size).sum()
    }

    /// Whether the tool requires no headers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that each header equals its argument, and that neither is present without the other. Large arguments
    /// are searched on other threads, because each rule reads all of them.
    pub async fn check_request(
        &self,
        offload: &Offload,
        owner: &str,
        request: &Request<'_>,
        fields: &Fields<'_>,
    ) -> Result<(), Fault> {
        let large = request.arguments.filter(|arguments| arguments.len() >= LARGE && !self.is_empty());
        let Some(arguments) = large else { return self.check(request.arguments, fields) };
        let (rules, arguments) = (self.clone(), request.message.shared(arguments));
        let params = OwnedParams::of(fields);
        let checked = offload.run(owner, move || rules.check(Some(&arguments), &params.fields())).await;
        checked.unwrap_or_else(|| Err(Fault::Malformed("The arguments could not be read.".to_owned())))
    }

    /// Checks that each header equals its argument, and that neither is present without the other.
    fn check(&self, arguments: Option<&str>, fields: &Fields<'_>) -> Result<(), Fault> {
        self.0.iter().try_for_each(|rule| rule.check(arguments, fields))
    }
}

/// Collects the rules of a schema. Returns `None` if the keyword is used where it is not allowed.
fn gather(schema: &Value, path: &mut Vec<String>, rules: &mut Vec<Rule>) -> Option<()> {
    let Some(schema) = schema.as_object() else { return Some(()) };
    if let Some(token) = schema.get(KEYWORD) {
        let kind = schema.get("type").and_then(Value::as_str)?;
        let token = token.as_str().filter(|token| is_token(token))?;
        if path.is_empty() || !["string", "integer", "boolean"].contains(&kind) {
            return None;
        }
        let length = path.iter().map(String::len).sum::<usize>() + token.len();
        if rules.len() >= MAX_RULES || length > MAX_PATH {
            return None;
        }
        rules.push(Rule {
            path: path.clone(),
            token: token.to_ascii_lowercase(),
            is_integer: kind == "integer",
        });
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        path.push(name.clone());
        gather(property, path, rules)?;
        path.pop();
    }
    let is_clean = ELSEWHERE.iter().filter_map(|name| schema.get(*name)).all(|value| !mentions(value));
    is_clean.then_some(())
}

/// Whether the keyword is used anywhere in a value.
fn mentions(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.contains_key(KEYWORD) || members.values().any(mentions),
        Value::Array(items) => items.iter().any(mentions),
        _ => false,
    }
}

/// Whether the text is a token (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

impl Rule {
    /// The length of all names.
    fn length(&self) -> usize {
        self.path.iter().map(String::len).sum::<usize>() + self.token.len()
    }

    /// Compares a header with `arguments`, which is JSON text. It is an error if any key on the path to the
    /// value occurs twice or with different case, because a server might use the other member.
    fn check(&self, arguments: Option<&str>, fields: &Fields<'_>) -> Result<(), Fault> {
        let fault = |why: &str| Err(Fault::Header(format!("The Mcp-Param-{} header {why}.", self.token)));
        let mut value = arguments;
        for name in &self.path {
            let [member] = object(value).map_or(Ok([None]), |text| members(text, [name.as_str()]))?;
            value = member;
        }
        // Arrays and objects cannot be written in a header, so they are not parsed.
        let single = value.filter(|text| !text.starts_with(['{', '[']));
        let value: Option<Value> = single.and_then(|text| serde_json::from_str(text).ok());
        let field = fields.params.iter().find(|(token, _)| *token == self.token);
        match (value.as_ref().and_then(shown), field.map_or(Field::Absent, |(_, field)| *field)) {
            (_, Field::Repeated) => fault(REPEATED),
            (_, Field::NotText) => fault(NOT_TEXT),
            (None, Field::Absent) => Ok(()),
            (None, Field::One(_)) => fault("has a value that the body does not have"),
            (Some(_), Field::Absent) => fault("is missing, but the body has the value"),
            (Some(shown), Field::One(header)) => match decode(header) {
                None => fault("is marked as base64, but is not base64"),
                Some(header) if header == shown => Ok(()),
                Some(header) if self.is_integer && is_same_integer(&header, &shown) => Ok(()),
                Some(_) => fault("differs from the body"),
            },
        }
    }
}

/// The header form of a value. Returns `None` for `null`, arrays and objects.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Whether two numbers are equal: `42` equals `42.0`. They are compared as text and not as floats, so that
/// large numbers are compared digit by digit.
fn is_same_integer(one: &str, other: &str) -> bool {
    matches!((whole(one), whole(other)), (Some(one), Some(other)) if one == other)
}

fn whole(text: &str) -> Option<(bool, &str)> {
    let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let digits = match digits.split_once('.') {
        Some((digits, fraction)) if !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0') => {
            digits
        }
        Some(_) => return None,
        None => digits,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let digits = digits.trim_start_matches('0');
    is_number.then_some((is_negative && !digits.is_empty(), digits))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields<'a>(params: &[(&str, &'a str)]) -> Fields<'a> {
        let params = params.iter().map(|(name, value)| ((*name).to_owned(), Field::One(value))).collect();
        Fields { version: Field::Absent, method: Field::Absent, name: Field::Absent, params }
    }

    fn rules() -> ParamHeaders {
        ParamHeaders::of(&json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "where": {"type": "object", "properties": {"shard": {"type": "integer", "x-mcp-header": "Shard"}}},
            "dry": {"type": "boolean", "x-mcp-header": "Dry"}}}))
    }

    #[test]
    fn header_and_argument_agree_or_are_both_absent() {
        let good = |arguments: &str, params: &[(&str, &str)]| {
            rules().check(Some(arguments), &fields(params)).is_ok()
        };
        assert!(good("{}", &[]));
        assert!(good(r#"{"region":null}"#, &[("other", "x")]));
        assert!(good(r#"{"region":"eu"}"#, &[("region", "eu")]));
        assert!(good(r#"{"region":"ë"}"#, &[("region", "=?base64?w6s=?=")]));
        assert!(good(r#"{"where":{"shard":42}}"#, &[("shard", "42.0")]));
        assert!(good(r#"{"where":{"shard":9007199254740993}}"#, &[("shard", "9007199254740993")]));
        assert!(!good(r#"{"where":{"shard":9007199254740993}}"#, &[("shard", "9007199254740992")]));
        assert!(good(r#"{"dry":true}"#, &[("dry", "true")]));
        assert!(!good(r#"{"dry":true}"#, &[("dry", "True")]));
        assert!(!good(r#"{"region":"eu"}"#, &[]));
        assert!(!good("{}", &[("region", "eu")]));
        assert!(!good(r#"{"region":"eu"}"#, &[("region", "us")]));
        assert!(!good(r#"{"region":"Hello"}"#, &[("region", "=?base64?SGVsbG8?=")]));
    }

    #[test]
    fn a106_an_argument_that_stands_there_twice_agrees_with_no_header() {
        for arguments in [
            r#"{"region":"us","region":"eu"}"#,
            r#"{"region":"us","Region":"eu"}"#,
            r#"{"region":"eu","r\u0065gion":"us"}"#,
            r#"{"region":"eu","reg\u0131on":"us"}"#,
        ] {
            for value in ["us", "eu"] {
                assert!(
                    rules().check(Some(arguments), &fields(&[("region", value)])).is_err(),
                    "{arguments}"
                );
            }
        }
    }

    #[test]
    fn a109_a_schema_beyond_the_limits_asks_for_nothing() {
        let headers = |count: usize, name: &str, more: &str| {
            let rules: Vec<String> = (0..count)
                .map(|number| format!(r#""p{number}":{{"type":"string","x-mcp-header":"H{number}"}}"#))
                .collect();
            let text = format!(
                r#"{{"properties":{{"{name}":{{"type":"object","properties":{{{}}}}}}}{more}}}"#,
                rules.join(",")
            );
            ParamHeaders::of_text(&text)
        };
        assert_eq!(headers(MAX_RULES, "a", "").0.len(), MAX_RULES);
        assert!(headers(MAX_RULES + 1, "a", "").is_empty());
        assert!(!headers(2, &"a".repeat(MAX_PATH - 8), "").is_empty());
        assert!(headers(2, &"a".repeat(MAX_PATH), "").is_empty());
        let large = format!(r#","description":"{}""#, "x".repeat(MAX_SCHEMA));
        assert!(headers(2, "a", &large).is_empty());
        assert!(headers(2, "a", "").size() > 2 * size_of::<Rule>());
        // The keyword can be written with an escape sequence.
        let escaped = r#"{"properties":{"a":{"type":"string","x-\u006dcp-header":"A"}}}"#;
        assert!(!ParamHeaders::of_text(escaped).is_empty());
    }

    #[test]
    fn a_schema_that_misuses_the_keyword_asks_for_nothing() {
        for schema in [
            json!({"type": "string", "x-mcp-header": "A"}),
            json!({"properties": {"a": {"type": "number", "x-mcp-header": "A"}}}),
            json!({"properties": {"a": {"type": "string", "x-mcp-header": "not a token"}}}),
            json!({"properties": {"a": {"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}}}),
            json!({"properties": {"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}}}),
        ] {
            assert!(ParamHeaders::of(&schema).is_empty(), "{schema}");
        }
        assert!(!rules().is_empty());
    }
}
