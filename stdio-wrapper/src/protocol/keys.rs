//! Finds keys that two parsers can interpret differently although the text is the same. This module is pure.

use super::depth::after_string;

/// NUL in a string, which can only be written as this escape.
const NUL: &[u8] = br"\u0000";

/// Whether a key in `text` (which must be JSON) contains NUL, at any depth. A parser that ends strings at NUL,
/// such as one written in C, uses a different key than the wrapper: it reads `name\u0000` as `name`. Values can
/// contain NUL, except those that decisions depend on.
pub fn has_nul_key(text: &[u8]) -> bool {
    if memchr::memmem::find(text, NUL).is_none() {
        return false;
    }
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'"', rest) {
        let string = rest.get(at + 1..).unwrap_or_default();
        rest = after_string(string);
        let content = string.get(..string.len() - rest.len()).unwrap_or_default();
        if rest.trim_ascii_start().first() == Some(&b':') && holds_nul(content) {
            return true;
        }
    }
    false
}

/// Whether the content of a string contains an escaped NUL, and not an escaped backslash before `u0000`.
fn holds_nul(content: &[u8]) -> bool {
    let mut rest = content;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let escape = rest.get(at..).unwrap_or_default();
        if escape.starts_with(NUL) {
            return true;
        }
        rest = escape.get(2..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a106_nul_is_found_in_keys_only() {
        for (text, is_found) in [
            (r#"{"name\u0000":"delete_page","name":"echo"}"#, true),
            (r#"{"a":[{"b":{"\u0000" : 1}}]}"#, true),
            (r#"{"a\\\u0000":1}"#, true),
            (r#"{"a":"x\u0000y","b":["\u0000"]}"#, false),
            (r#"{"a\\u0000":1}"#, false),
            (r#"{"a\"\u0000\"":"x"}"#, true),
            (r#"{"a":"\"\u0000\":"}"#, false),
            (r#"{"a":1}"#, false),
            ("[]", false),
            (r#""\u0000"#, false),
        ] {
            assert_eq!(has_nul_key(text.as_bytes()), is_found, "{text}");
        }
    }
}
