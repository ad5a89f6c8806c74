//! Paths that another server might take for one that a rule is about.
//!
//! Rules compare paths letter by letter, as RFC 3986 §6.2.2.1 has it. Many servers do not: file systems and frameworks take
//! `/mcp/Admin` for `/mcp/admin`, and some of them drop a dot or a blank at the end of a segment. A request that is under no
//! rule here and under one there must not pass by the weaker of two rules.

use std::borrow::Cow;

/// The path as such a server compares it.
pub(super) fn folded(path: &str) -> Cow<'_, str> {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'~');
    // Most paths are their own folding, and a check must not pay for the others.
    if path.bytes().all(plain) {
        return Cow::Borrowed(path);
    }
    let decoded = decoded(path).to_lowercase();
    let segments: Vec<&str> =
        decoded.split('/').map(|segment| segment.trim_end_matches(['.', ' '])).collect();
    Cow::Owned(segments.join("/"))
}

/// The path without percent-encoding. A path that was read as unambiguous has no other escapes than of UTF-8.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let digits = if byte == b'%' { (hex(rest.next()), hex(rest.next())) } else { (None, None) };
        match digits {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: Option<u8>) -> Option<u8> {
    char::from(digit?).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_servers_take_for_the_same_is_folded_alike() {
        for path in [
            "/mcp/admin",
            "/mcp/Admin",
            "/MCP/ADMIN",
            "/mcp/admin.",
            "/mcp./admin",
            "/mcp/admin%20",
            "/mcp/admin%20..",
        ] {
            assert_eq!(folded(path), "/mcp/admin", "{path}");
        }
        assert_eq!(folded("/%E2%84%AAey"), "/key", "the sign of the kelvin");
        assert_eq!(folded("/%C3%89"), folded("/%C3%A9"));
        for other in ["/mcp/admins", "/mcp-admin", "/mcp/.admin", "/mcp/ad.min", "/mcp"] {
            assert_ne!(folded(other), "/mcp/admin", "{other}");
        }
    }
}
