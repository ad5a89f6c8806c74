//! Removes parts that would make an SDK silently drop a message, if their removal loses no information: keys
//! that JSON-RPC does not define, and `null` for optional members.

use std::borrow::Cow;

use bytestring::ByteString;
use serde_json::value::RawValue;

use super::edit::{Members, edit_members};
use super::envelope::{Message, Parts, parse_owned};
use super::envelope_key::Key;
use super::object::members;
use super::untidy::{OPTIONAL, has_null, has_null_meta};

/// Removes the parts of a message that would make an SDK drop it. Returns `None` if there are none. Parts that
/// a strict parser must see, such as repeated keys, are kept.
pub fn tidy(message: &Message<'_>) -> Option<String> {
    if message.may_be_untidy() { tidy_text(message.text) } else { None }
}

/// Like [`tidy`], for a line from a child that was parsed.
pub fn tidied(text: ByteString, parts: Parts) -> (ByteString, Parts) {
    let message = parts.of(&text);
    let copy = tidy(&message).and_then(|copy| parse_owned(&copy.into()).ok());
    let parts = message.into_parts();
    copy.unwrap_or((text, parts))
}

/// Like [`tidy`], for a POST body, which can be a batch. `text` must already be known to be JSON.
pub fn tidy_body(text: &str) -> Option<String> {
    let text = text.trim_ascii();
    if !text.starts_with('[') {
        return tidy_text(text);
    }
    let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    let tidied: Vec<Cow<'_, str>> =
        items.iter().map(|item| tidy_text(item.get()).map_or(item.get().into(), Cow::Owned)).collect();
    let is_changed = tidied.iter().any(|item| matches!(item, Cow::Owned(_)));
    is_changed.then(|| format!("[{}]", tidied.join(",")))
}

fn tidy_text(text: &str) -> Option<String> {
    let mut message = Members::parse(text)?;
    let count = message.len();
    message.retain(|name| Key::of(name) != Ok(Key::Other));
    let is_null = |message: &Members<'_>, name| message.get(name) == Some("null");
    if is_null(&message, "params") {
        message.remove("params");
    }
    if is_null(&message, "error") && message.get("result").is_some() {
        message.remove("error");
    }
    if is_null(&message, "result") {
        if message.get("error").is_some() {
            message.remove("result");
        } else {
            message.set("result", "{}");
            return Some(message.to_string());
        }
    }
    let params = message.get("params").filter(|params| has_null(params)).and_then(tidy_meta);
    let result = message.get("result").filter(|result| has_null_meta(result)).and_then(tidy_meta);
    let is_changed = message.len() < count || params.is_some() || result.is_some();
    if let Some(params) = params {
        message.set("params", params);
    }
    if let Some(result) = result {
        message.set("result", result);
    }
    is_changed.then(|| message.to_string())
}

/// Removes `null` from `_meta`. It is optional in params and results, as are all of its members.
fn tidy_meta(text: &str) -> Option<String> {
    // Repeated members are kept, so that a strict parser sees them.
    let [meta] = members(text, ["_meta"]).ok()?;
    let meta = meta?;
    let tidied = if meta == "null" {
        None
    } else {
        if !members(meta, OPTIONAL).ok()?.contains(&Some("null")) {
            return None;
        }
        let is_kept = |name: &str, value: &str| value != "null" || !OPTIONAL.contains(&name);
        Some(edit_members(meta, |name, value| is_kept(name, value).then(|| value.into()))?)
    };
    edit_members(text, |name, value| match name {
        "_meta" => tidied.clone().map(Cow::Owned),
        _ => Some(value.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::envelope::{parse_body, parse_line};
    use super::super::peek::peek_name;
    use super::*;

    #[test]
    fn what_may_be_left_out_is_left_out_and_everything_else_stays_as_it_was_written() {
        for (text, tidied) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":null}"#,
                r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":null,"_meta":null}}"#,
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":null}}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"b":1E400,"progressToken":null}}}"#,
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"b":1E400}}}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{"io.modelcontextprotocol/related-task":null,"a":1}}}"#,
                r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{"a":1}}}"#,
            ),
            (r#"{"x":1,"jsonrpc":"2.0","method":"m","y":null}"#, r#"{"jsonrpc":"2.0","method":"m"}"#),
            (r#"{"jsonrpc":"2.0","id":1,"result":null}"#, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"a":null},"error":null}"#,
                r#"{"jsonrpc":"2.0","id":1,"result":{"a":null}}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":null,"error":{"code":1,"message":""}}"#,
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#,
            ),
        ] {
            assert_eq!(tidy(&parse_line(text.as_bytes()).unwrap()).as_deref(), Some(tidied), "{text}");
            assert_eq!(tidy(&parse_line(tidied.as_bytes()).unwrap()), None, "{tidied}");
            assert_eq!(tidy_body(&format!("[{tidied},{text}]")), Some(format!("[{tidied},{tidied}]")));
        }
    }

    #[test]
    fn a109_what_a_message_can_have_many_of_has_a_ceiling() {
        let with = |count: usize| {
            let others: Vec<String> = (0..count).map(|number| format!(r#""x{number}":1,"#)).collect();
            format!(r#"{{{}"jsonrpc":"2.0","id":1,"method":"m"}}"#, others.concat())
        };
        assert!(parse_line(with(64).as_bytes()).is_ok());
        let why = parse_line(with(65).as_bytes()).unwrap_err().to_string();
        assert!(why.contains("more than 64 keys"), "{why}");
        // The batch is read only up to the limit, so the rest of the text does not matter.
        let why = parse_body(b"[1,1,1,nonsense", 2).unwrap_err().to_string();
        assert!(why.contains("at most 2 messages"), "{why}");
        let named = |length: usize| {
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{}"}}}}"#,
                "x".repeat(length)
            )
        };
        assert!(peek_name(&parse_line(named(4094).as_bytes()).unwrap()).unwrap().is_some());
        assert!(peek_name(&parse_line(named(4095).as_bytes()).unwrap()).is_err());
    }

    #[test]
    fn a106_tidying_hides_no_doubled_key_from_the_strict_reader() {
        let text = r#"{"x":1,"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":null,"name":1,"name":2}}"#;
        let tidied = tidy(&parse_line(text.as_bytes()).unwrap()).unwrap();
        assert!(tidied.contains(r#""name":1,"name":2"#), "{tidied}");
        assert_eq!(tidy_body(r#"{"id":1,"Id":2}"#), None);
    }
}
