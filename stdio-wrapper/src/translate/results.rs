//! Converts requests, results and errors of one era to the format of the other. Unrelated parts stay unchanged.
//! This module is pure.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::modern::{MAX_CAPABILITIES, META_PREFIX, SERVER_INFO, VERSION};
use crate::protocol::{Members, add_member, edit_members, object};

/// Methods whose results specify how long they can be cached (2026-07-28, "Caching").
const CACHEABLE: [&str; 6] = [
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
];
/// The error code of the earlier revisions for a resource that does not exist.
const RESOURCE_NOT_FOUND: i64 = -32002;
/// The error code for invalid params. The stateless revision also uses it for a resource that does not exist.
const INVALID_PARAMS: i64 = -32602;
/// The error code for a capability that the server needs and the client did not declare.
const MISSING_CAPABILITY: i64 = -32021;

/// Capabilities that a question can need, with their optional parts.
const ASKABLE: [(&str, &[&str]); 3] =
    [("elicitation", &["form", "url"]), ("roots", &[]), ("sampling", &["context", "tools"])];
/// Maximum length of the URI of a watched resource, in bytes. The URI is kept as long as the client watches the
/// resource.
pub(super) const MAX_URI: usize = 4096;
/// Names of log levels, the least severe first (RFC 5424).
pub(super) const LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// Maximum size of a server's description of itself, in bytes. It is kept as long as the session.
pub(super) const MAX_GREETING: usize = 256 << 10;

/// The capabilities of a client are too large to be kept.
#[derive(Debug, thiserror::Error)]
#[error("The client's capabilities have {0} bytes. At most {MAX_CAPABILITIES} are accepted.")]
pub(super) struct TooLarge(usize);

/// The child's response to `initialize`.
#[derive(Debug, Clone, Default)]
pub(super) struct Greeting {
    pub(super) capabilities: Value,
    /// The `serverInfo`, as JSON text.
    pub(super) server_info: String,
    instructions: Option<String>,
}

impl Greeting {
    /// Parses the result of `initialize`. The error describes why it cannot be used.
    pub(super) fn parse(result: &str) -> Result<Self, String> {
        if result.len() > MAX_GREETING {
            let length = result.len();
            return Err(format!(
                "The MCP server's response to initialize has {length} bytes. At most {MAX_GREETING} are translated."
            ));
        }
        let missing = || "The MCP server's response to initialize has no `capabilities`.".to_owned();
        let members = Members::parse(result).ok_or_else(missing)?;
        let capabilities = members.get("capabilities").ok_or_else(missing)?;
        Ok(Self {
            capabilities: tree("capabilities", capabilities)?,
            server_info: members.get("serverInfo").unwrap_or("{}").to_owned(),
            instructions: members.get("instructions").map(str::to_owned),
        })
    }

    /// Whether the child has declared a capability, such as `/resources/subscribe`.
    pub(super) fn has(&self, pointer: &str) -> bool {
        self.capabilities.pointer(pointer).is_some_and(|value| *value != Value::Bool(false))
    }

    /// The equivalent result for `server/discover`.
    pub(super) fn discover(&self) -> String {
        let mut capabilities = self.capabilities.clone();
        if let Some(capabilities) = capabilities.as_object_mut() {
            // Tasks of 2025-11-25 are a different protocol from the tasks extension of this revision.
            capabilities.remove("tasks");
        }
        let mut result = Members::default();
        result.set("supportedVersions", json!([VERSION]).to_string());
        result.set("capabilities", capabilities.to_string());
        if let Some(instructions) = &self.instructions {
            result.set("instructions", instructions.as_str());
        }
        self.complete("server/discover", &result.to_string())
    }

    /// Adds the members of the stateless revision to a result of the child.
    pub(super) fn complete(&self, method: &str, result: &str) -> String {
        let mut missing = vec![("resultType", r#""complete""#)];
        if CACHEABLE.contains(&method) {
            missing.extend([("ttlMs", "0"), ("cacheScope", r#""private""#)]);
        }
        missing.push(("_meta", "{}"));
        let edited = edit_members(result, |name, value| {
            missing.retain(|(known, _)| *known != name);
            match name {
                "resultType" => Some(r#""complete""#.into()),
                "_meta" => Some(self.meta(value).into()),
                _ => Some(value.into()),
            }
        });
        let Some(mut edited) = edited else { return result.to_owned() };
        for (name, value) in missing {
            if name == "_meta" {
                add_member(&mut edited, name, &self.meta(value));
            } else {
                add_member(&mut edited, name, value);
            }
        }
        edited
    }

    /// The `_meta` of a result, with the server's name added.
    fn meta(&self, given: &str) -> String {
        let mut meta = object(Some(given)).and_then(Members::parse).unwrap_or_default();
        meta.set_default(SERVER_INFO, self.server_info.as_str());
        meta.to_string()
    }
}

/// Parses a part of a server's description into a tree, which can need a hundred times as much memory as the
/// text.
pub(super) fn tree(name: &str, text: &str) -> Result<Value, String> {
    let length = text.len();
    if length > MAX_CAPABILITIES {
        return Err(format!(
            "`{name}` of the MCP server has {length} bytes. At most {MAX_CAPABILITIES} are translated."
        ));
    }
    serde_json::from_str(text).map_err(|_| format!("`{name}` of the MCP server cannot be read."))
}

/// Normalizes a client's capabilities: keeps only those that a question can need, without any other content.
/// Therefore few different values exist, and a client cannot create a new one with each request.
pub(super) fn capabilities(text: &str) -> Result<String, TooLarge> {
    let given = members_within(text)?;
    let mut out = serde_json::Map::new();
    for (name, parts) in ASKABLE {
        let Some(declared) = given.get(name).and_then(Members::parse) else { continue };
        let known = parts.iter().filter(|part| declared.get(part).is_some_and(is_declared));
        let known: serde_json::Map<_, _> = known.map(|part| ((*part).to_owned(), json!({}))).collect();
        out.insert(name.to_owned(), known.into());
    }
    Ok(Value::Object(out).to_string())
}

/// The capabilities of a client with a session, in the format for a stateless server.
pub(super) fn capabilities_for_modern(text: &str) -> Result<String, TooLarge> {
    let mut given = members_within(text)?;
    given.retain(|name| name == "experimental" || ASKABLE.iter().any(|(known, _)| *known == name));
    let mut known = Members::default();
    for (name, value) in given.iter().filter(|(_, value)| object(Some(value)).is_some()) {
        known.set(name, value);
    }
    Ok(known.to_string())
}

fn members_within(text: &str) -> Result<Members<'_>, TooLarge> {
    if text.len() > MAX_CAPABILITIES {
        return Err(TooLarge(text.len()));
    }
    Ok(Members::parse(text).unwrap_or_default())
}

fn is_declared(value: &str) -> bool {
    !matches!(value, "null" | "false")
}

/// Params of a stateless request, in the format for a child with a session.
pub(super) fn params_for_legacy(params: &str) -> String {
    let edited = edit_members(params, |name, value| match name {
        "inputResponses" | "requestState" => None,
        "_meta" => meta_for_legacy(value),
        _ => Some(value.into()),
    });
    edited.unwrap_or_else(|| "{}".to_owned())
}

/// Removes the members of `_meta` that only the stateless revision has. Returns `None` if nothing else is left.
fn meta_for_legacy(meta: &str) -> Option<Cow<'_, str>> {
    let mut meta = Members::parse(meta).unwrap_or_default();
    meta.retain(|name| !name.starts_with(META_PREFIX));
    (!meta.is_empty()).then(|| meta.to_string().into())
}

/// An error from a child with a session, in the format for a stateless client: the `error` member as JSON text.
/// `uri` is the URI of the requested resource, as JSON text.
pub(super) fn error_for_modern(method: &str, uri: Option<&str>, error: &str) -> String {
    let Some(mut members) = Members::parse(error) else { return error.to_owned() };
    let is_read = method == "resources/read";
    let code = members.get("code").and_then(|code| code.parse::<i64>().ok());
    let code = match code {
        Some(INVALID_PARAMS | RESOURCE_NOT_FOUND) if is_read => INVALID_PARAMS,
        // In every revision, this code means that the client lacks a capability.
        Some(MISSING_CAPABILITY) => return error.to_owned(),
        // These codes have a meaning only in one era: in the stateless revision for requests that break its
        // rules, or in earlier revisions.
        Some(-32099..=-32020 | RESOURCE_NOT_FOUND) => -32000,
        _ => return error.to_owned(),
    };
    members.set("code", code.to_string());
    if is_read && code == INVALID_PARAMS {
        let data = members.get("data").filter(|data| *data != "null").unwrap_or("{}");
        if let Some(data) = uri.and_then(|uri| with_uri(data, uri)) {
            members.set("data", data);
        }
    }
    members.to_string()
}

/// Adds the requested URI to `data`, which is required in an error about an unknown resource (2026-07-28,
/// "Resources"). Returns `None` if the URI is already there, or if `data` is not an object.
fn with_uri(data: &str, uri: &str) -> Option<String> {
    let mut data = Members::parse(data)?;
    if data.get("uri").is_some() {
        return None;
    }
    data.set("uri", uri);
    Some(data.to_string())
}

/// A result of a stateless child, in the format for a client with a session.
pub(super) fn result_for_legacy(result: &str) -> String {
    let edited = edit_members(result, |name, value| match name {
        "resultType" | "ttlMs" | "cacheScope" => None,
        "_meta" => meta_for_legacy(value),
        _ => Some(value.into()),
    });
    edited.unwrap_or_else(|| result.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a109_a_server_that_says_very_much_about_itself_is_refused() {
        let greeting = |capabilities: &str, instructions: usize| {
            let instructions = "i".repeat(instructions);
            let text = format!(r#"{{"capabilities":{capabilities},"instructions":"{instructions}"}}"#);
            Greeting::parse(&text).map(|_| ())
        };
        assert_eq!(greeting("{}", 1000), Ok(()));
        assert!(greeting("{}", MAX_GREETING).unwrap_err().contains("At most"));
        let many = format!(r#"{{"x":[{}0]}}"#, r#"{"a":0},"#.repeat(MAX_CAPABILITIES / 8));
        assert!(greeting(&many, 0).unwrap_err().contains("`capabilities` of the MCP server has"));
        assert!(Greeting::parse("{}").unwrap_err().contains("no `capabilities`"));
    }

    #[test]
    fn results_get_what_the_revision_adds_and_keep_the_rest() {
        let greeting = Greeting::parse(
            r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"tasks":{}},"serverInfo":{"name":"x","version":"1"}}"#,
        )
        .unwrap();
        let discover: Value = serde_json::from_str(&greeting.discover()).unwrap();
        assert_eq!(discover["supportedVersions"], json!([VERSION]));
        assert_eq!(discover["capabilities"], json!({"tools": {"listChanged": true}}));
        assert_eq!((&discover["ttlMs"], &discover["cacheScope"]), (&json!(0), &json!("private")));
        assert_eq!(discover["_meta"][SERVER_INFO]["name"], "x");
        let call = greeting.complete("tools/call", r#"{"content":[1E400],"_meta":{"a":1}}"#);
        assert!(call.starts_with(r#"{"content":[1E400],"_meta":{"a":1,"#), "{call}");
        assert!(call.contains(r#""resultType":"complete""#) && !call.contains("ttlMs"));
        assert_eq!(result_for_legacy(&call), r#"{"content":[1E400],"_meta":{"a":1}}"#);
    }

    #[test]
    fn what_only_one_era_knows_stays_there() {
        let params = r#"{"name":"t","arguments":{"a":1.0},"inputResponses":{},"requestState":"s","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","progressToken":"p","x":1}}"#;
        assert_eq!(
            params_for_legacy(params),
            r#"{"name":"t","arguments":{"a":1.0},"_meta":{"progressToken":"p","x":1}}"#
        );
        let keeps = |error: &str| assert_eq!(error_for_modern("tools/call", None, error), error);
        keeps(r#"{"code":-32021,"message":"m","data":{"requiredCapabilities":{"sampling":{}}}}"#);
        keeps(r#"{"code":-32602,"message":"m"}"#);
        for code in [-32020, -32022, -32042, RESOURCE_NOT_FOUND] {
            assert_eq!(
                error_for_modern("tools/call", None, &format!(r#"{{"code":{code},"message":"m","data":1}}"#)),
                r#"{"code":-32000,"message":"m","data":1}"#
            );
        }
    }

    #[test]
    fn an_unknown_resource_is_named() {
        let read = |error: &str| error_for_modern("resources/read", Some(r#""test://x""#), error);
        let named = r#"{"code":-32602,"message":"m","data":{"uri":"test://x"}}"#;
        // These errors have the codes of the earlier revisions, in the forms that the official SDKs use.
        for error in [
            r#"{"code":-32002,"message":"m"}"#,
            r#"{"code":-32602,"message":"m"}"#,
            r#"{"code":-32002,"message":"m","data":{"uri":"test://x"}}"#,
        ] {
            assert_eq!(read(error), named);
        }
        assert_eq!(
            read(r#"{"code":-32002,"message":"m","data":{"why":1}}"#),
            r#"{"code":-32602,"message":"m","data":{"why":1,"uri":"test://x"}}"#
        );
        let other = r#"{"code":-32602,"message":"m","data":"text"}"#;
        assert_eq!(read(other), other);
    }

    #[test]
    fn capabilities_have_one_spelling_and_carry_nothing_that_a_client_makes_up() {
        let given = r#"{"sampling":{"tools":{"b":{}},"a":{}},"extensions":{},"experimental":{"n":1},"roots":{"listChanged":true},"elicitation":{"url":{},"form":null,"n":2}}"#;
        let known = r#"{"elicitation":{"url":{}},"roots":{},"sampling":{"tools":{}}}"#;
        assert_eq!(capabilities(given).unwrap(), known);
        assert_eq!(
            capabilities_for_modern(given).unwrap(),
            r#"{"sampling":{"tools":{"b":{}},"a":{}},"experimental":{"n":1},"roots":{"listChanged":true},"elicitation":{"url":{},"form":null,"n":2}}"#
        );
        assert_eq!(capabilities(r#"{"roots":1,"sampling":null}"#).unwrap(), "{}");
        let large = format!(r#"{{"elicitation":{{"a":[{}1]}}}}"#, "1,".repeat(MAX_CAPABILITIES / 2));
        assert!(capabilities(&large).is_err() && capabilities_for_modern(&large).is_err());
    }
}
