//! Removes parts of a message because of which an SDK would silently drop it, if nothing is lost by that:
//! keys that JSON-RPC does not know, and `null` for optional members.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::edit::Members;
use super::envelope::{Key, Message};
use super::peek::RELATED_TASK;

/// Removes these parts of a message. Returns `None` if there are none. What a strict reader must see, such as
/// repeated keys, stays.
pub fn tidy(message: &Message<'_>) -> Option<String> {
    if may_be_untidy(message) { tidy_text(message.text) } else { None }
}

/// A quick check, so that the thorough one is seldom needed.
pub(super) fn may_be_untidy(message: &Message<'_>) -> bool {
    let result = || message.result.as_ref().map(|result| message.at(result)).unwrap_or_default();
    message.is_untidy || has_null(message.params_text().unwrap_or_default()) || has_null_meta(result())
}

/// Like [`tidy`], for a POST body, which can be a batch. `text` was parsed before, so it is JSON.
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

fn has_null(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), b"null").is_some()
}

/// Results are often large, and often contain `null`, so this first searches for `_meta`.
fn has_null_meta(text: &str) -> bool {
    memchr::memmem::find(text.as_bytes(), b"\"_meta\"").is_some() && has_null(text)
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

/// Removes `null` from `_meta`, which is optional in params and results, as are all of its members.
fn tidy_meta(text: &str) -> Option<String> {
    let mut holder = Members::parse(text)?;
    let meta = holder.get("_meta")?;
    if meta == "null" {
        holder.remove("_meta");
        return Some(holder.to_string());
    }
    let mut members = Members::parse(meta)?;
    let is_null = |name: &&str| members.get(name) == Some("null");
    let nulls: Vec<&str> = ["progressToken", RELATED_TASK].into_iter().filter(is_null).collect();
    if nulls.is_empty() {
        return None;
    }
    for name in nulls {
        members.remove(name);
    }
    let meta = members.to_string();
    holder.set("_meta", meta);
    Some(holder.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::envelope::parse_line;
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
    fn a106_tidying_hides_no_doubled_key_from_the_strict_reader() {
        let text = r#"{"x":1,"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":null,"name":1,"name":2}}"#;
        let tidied = tidy(&parse_line(text.as_bytes()).unwrap()).unwrap();
        assert!(tidied.contains(r#""name":1,"name":2"#), "{tidied}");
        assert_eq!(tidy_body(r#"{"id":1,"Id":2}"#), None);
    }
}
