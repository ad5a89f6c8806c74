//! Paths that another server might take for one that a rule is about.
//!
//! Rules compare paths letter by letter, as RFC 3986 §6.2.2.1 has it. Many servers do not: file systems and frameworks take
//! `/mcp/Admin` for `/mcp/admin`, some drop what stands after a colon, or a dot or a blank at the end of a segment. And some
//! take letters outside of ASCII for others (full-width ones, accents, signs that are not shown), each by a table of its own
//! and of its own year, or know a second, short name of a file (`PASSWO~1`). There is no telling what such a segment is to
//! them, so it could be any. A request that is under no rule here and under one there must not pass by the weaker of two
//! rules.

use std::borrow::Cow;

/// The path as such a server compares it.
pub(super) fn folded(path: &str) -> Cow<'_, str> {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'_');
    // Most paths are their own folding, and a check must not pay for the others.
    if path.bytes().all(plain) {
        return Cow::Borrowed(path);
    }
    let decoded = decoded(path);
    Cow::Owned(decoded.split('/').map(folded_segment).collect::<Vec<_>>().join("/"))
}

fn folded_segment(segment: &str) -> String {
    let name = segment.split(':').next().unwrap_or_default();
    let name = name.trim_start_matches(' ').trim_end_matches(['.', ' ']);
    // Some letters have a small and a capital form that do not lead back to them: `ſ` is an `S`, and `ß` two.
    name.to_lowercase().to_uppercase().to_lowercase()
}

/// Whether a folded path could be taken for one that is `ancestor`, folded too, or below it. The first `named` segments are
/// those of a rule, where the operator has said what they are; any other that has no sure reading could be each one.
pub(super) fn could_be_within(folded: &str, named: usize, ancestor: &str) -> bool {
    let mut segments = folded.split('/').enumerate();
    ancestor.split('/').all(|wanted| {
        segments.next().is_some_and(|(at, segment)| segment == wanted || at > named && is_unsure(segment))
    })
}

/// Letters that servers read each in their own way, and what could be the short name of a file (`~` and a digit).
fn is_unsure(segment: &str) -> bool {
    let short = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    !segment.is_ascii() || segment.split('~').skip(1).any(short)
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
            "/mcp/%20admin",
            "/mcp/admin::$DATA",
            "/mcp/admin%3Astream",
            "/mcp/adm%C4%B1n",
        ] {
            assert_eq!(folded(path), "/mcp/admin", "{path}");
        }
        assert_eq!(folded("/%E2%84%AAey"), "/key", "the sign of the kelvin");
        assert_eq!(folded("/%C3%89"), folded("/%C3%A9"));
        assert_eq!(folded("/u%C5%BFers"), "/users", "the long s");
        assert_eq!(folded("/pa%C3%9Fword"), "/password", "the sharp s");
        for other in ["/mcp/admins", "/mcp-admin", "/mcp/.admin", "/mcp/ad.min", "/mcp"] {
            assert_ne!(folded(other), "/mcp/admin", "{other}");
        }
    }
    #[test]
    fn a_segment_without_a_sure_reading_could_be_any_that_the_operator_has_not_named() {
        let could_be = |path: &str, named, ancestor: &str| could_be_within(&folded(path), named, ancestor);
        for segment in ["%C3%A9", "adm%C4%B0n", "ad%E2%80%8Cmin", "admin%C2%A0", "%EF%BC%A1", "ADMINI~1"] {
            let path = format!("/mcp/{segment}/x");
            assert!(could_be(&path, 0, "/mcp/admin") && could_be(&path, 1, "/mcp/admin/x"), "{path}");
            assert!(!could_be(&path, 2, "/mcp/admin"), "{path}");
            assert!(!could_be(&path, 0, "/mcp/admin/y") && !could_be(&path, 0, "/other/admin"), "{path}");
            assert!(could_be(&path, 0, "") && !could_be(&path, 0, "/mcp/admin/x/y"), "{path}");
        }
        for path in ["/mcp/~ana", "/mcp/other", "/mcp/a~b"] {
            assert!(!could_be(path, 0, "/mcp/admin"), "{path}");
        }
    }
}
