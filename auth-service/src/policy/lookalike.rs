//! Detects paths that another server might confuse with the path of a rule.
//!
//! Rules compare paths byte by byte (RFC 3986 §6.2.2.1), but many servers do not. Some file systems and frameworks
//! treat `/mcp/Admin` as `/mcp/admin`, and some ignore the part of a segment after a colon, or a dot or space at
//! its end. Some replace non-ASCII characters with others (full-width letters, accents, invisible characters),
//! each with its own table, or accept a second, short name of a file (`PASSWO~1`). It is unknown how a server
//! reads these segments, so each must be treated as if it could be any segment. Otherwise, a request could be
//! allowed by a weaker rule here, although the server treats its path as the path of a stronger rule.

use std::borrow::Cow;

/// Represents a segment that is empty after folding, such as `%20` or `...`. No other folded segment ends with a
/// space.
const VANISHES: &str = " ";

/// Converts a path to the form in which a lenient server compares it.
pub(super) fn folded(path: &str) -> Cow<'_, str> {
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'_');
    // A fast path: folding does not change most paths.
    if path.bytes().all(plain) {
        return Cow::Borrowed(path);
    }
    let decoded = decoded(path);
    Cow::Owned(decoded.split('/').map(folded_segment).collect::<Vec<_>>().join("/"))
}

fn folded_segment(segment: &str) -> String {
    let name = segment.split(':').next().unwrap_or_default();
    let name = name.trim_start_matches(' ').trim_end_matches(['.', ' ']);
    if name.is_empty() && !segment.is_empty() {
        return VANISHES.to_owned();
    }
    // The case is converted twice, because it is not reversible for some letters: `ſ` becomes `S`, and `ß` becomes
    // `SS`.
    name.to_lowercase().to_uppercase().to_lowercase()
}

/// Whether a server might treat a folded path as `ancestor` (also folded) or as a path below it. The first `named`
/// segments are those of a rule, so all servers read them in the same way. Any other segment that servers might
/// read differently (`is_unsure`) is treated as if it could be any segment, or none.
pub(super) fn could_be_within(folded: &str, named: usize, ancestor: &str) -> bool {
    let unnamed = || folded.split('/').skip(named + 1);
    // A server might treat a segment that vanishes as the parent directory, like `..`. The path could then be any
    // path.
    if unnamed().any(|segment| segment == VANISHES) {
        return true;
    }
    if !unnamed().any(is_unsure) {
        return folded.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    }
    // The possible remaining parts of the ancestor after each segment. There are several after a segment that
    // servers might read differently.
    let wanted: Vec<&str> = ancestor.split('/').collect();
    let mut rests = vec![wanted.as_slice()];
    for (at, segment) in folded.split('/').enumerate() {
        let is_open = at > named && is_unsure(segment);
        let mut next = Vec::new();
        for rest in rests {
            let Some((first, others)) = rest.split_first() else { return true };
            next.extend(is_open.then_some(rest));
            next.extend((is_open || segment == *first).then_some(others));
        }
        next.dedup_by_key(|rest| rest.len());
        rests = next;
    }
    rests.iter().any(|rest| rest.is_empty())
}

/// Whether servers might read a segment differently, because it contains non-ASCII characters or could be a short
/// file name (`~` and a digit).
fn is_unsure(segment: &str) -> bool {
    let short = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    !segment.is_ascii() || segment.split('~').skip(1).any(short)
}

/// Removes the percent-encoding. The escapes of an unambiguous path decode to valid UTF-8.
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
        for segment in ["%20", "...", ":", "%3A", ".%20", "..%20", ":$DATA", "%20%20"] {
            assert_eq!(folded(&format!("/mcp/{segment}/admin")), "/mcp/ /admin", "{segment}");
        }
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
        // Some servers ignore a segment that is empty after folding, and others treat it as the parent directory.
        for path in
            ["/mcp/%20/admin", "/mcp/.../admin", "/mcp/:/admin/x", "/mcp/x/..%20/admin", "/x/.%20./mcp"]
        {
            assert!(could_be(path, 1, "/mcp/admin") && !could_be(path, 4, "/mcp/admin"), "{path}");
        }
        for path in ["/%C3%A9/mcp/admin/x", "/mcp/%E2%80%8B/%E2%80%8B/admin", "/mcp/%C3%A9/%C3%A9"] {
            assert!(could_be(path, 0, "/mcp/admin"), "{path}");
        }
        assert!(!could_be("/%C3%A9/x/y", 0, "/mcp/admin") && !could_be("/%C3%A9", 0, "/mcp/admin"));
        // The empty segment after a trailing slash is not treated in this way.
        assert!(!could_be("/mcp/", 0, "/mcp/admin"));
        for path in ["/mcp/~ana", "/mcp/other", "/mcp/a~b"] {
            assert!(!could_be(path, 0, "/mcp/admin"), "{path}");
        }
    }
}
