//! Request paths that every proxy and server interprets in the same way.
//!
//! Proxies, servers and applications disagree on dot segments, double slashes, encoded delimiters and path
//! parameters. This module refuses such paths instead of normalizing them.

use std::fmt;

/// An absolute path, without a query, that has only one interpretation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnambiguousPath(String);

/// The path can be interpreted in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the path is ambiguous: it has dot segments, empty segments, encoded delimiters, or characters that are not allowed"
)]
pub struct AmbiguousPath;

impl UnambiguousPath {
    /// Reads the path of a request target, without its query.
    pub fn of_target(target: &str) -> Result<Self, AmbiguousPath> {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        let well_formed = path.starts_with('/')
            && path.len() <= 4096
            && path.bytes().all(is_plain)
            && !path.as_bytes().windows(2).any(|pair| pair == b"//")
            && path.split('/').all(|segment| segment != "." && segment != "..")
            && escapes_are_plain(path);
        if well_formed { Ok(Self(path.to_owned())) } else { Err(AmbiguousPath) }
    }

    /// The path as it was sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the path is `ancestor` or lies below it. Whole segments are compared: `/mcp/x` is within
    /// `/mcp`, but `/mcp-x` is not.
    pub fn is_within(&self, ancestor: &str) -> bool {
        let ancestor = ancestor.strip_suffix('/').unwrap_or(ancestor);
        self.0.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for UnambiguousPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `pchar` of RFC 3986 and `/`, without `;`, which starts path parameters. Escapes are checked separately.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,=:@%".contains(&byte)
}

/// Checks all percent-encoded characters. Encoded control characters, delimiters and `%` are refused. So is every
/// encoded character that needs no encoding: a server that decodes `/%6dcp` reads `/mcp` (RFC 3986 §6.2.2.2), but
/// no rule for `/mcp` would match it. The decoded path must be valid UTF-8.
fn escapes_are_plain(path: &str) -> bool {
    if !path.contains('%') {
        return true;
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = (bytes.next().and_then(hex_value), bytes.next().and_then(hex_value));
        let (Some(high), Some(low)) = digits else {
            return false;
        };
        let value = high << 4 | low;
        let needs_none = value.is_ascii_alphanumeric() || b"-._~".contains(&value);
        if value < 0x20 || value == 0x7f || needs_none || b"/\\;%?#".contains(&value) {
            return false;
        }
        decoded.push(value);
    }
    std::str::from_utf8(&decoded).is_ok()
}

fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a070_a071_a072_ambiguous_paths_are_refused() {
        for target in [
            "",
            "mcp",
            "//admin",
            "/a//b",
            "/./a",
            "/a/..",
            "/a/../b",
            "/a/%2e%2e/b",
            "/a/.%2e/b",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/a;x=1",
            "/a%3bx",
            "/a%00",
            "/a%0d%0a",
            "/%252e",
            "/a%c0%ae",
            "/a%ff",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a#b",
            "/a%23b",
            "/%6dcp",
            "/mcp%2Dx",
            "/mcp%7Ex",
            "/a%3Fb",
            "/a b",
            "/\u{e9}",
            "http://host/a",
            "*",
        ] {
            assert_eq!(UnambiguousPath::of_target(target), Err(AmbiguousPath), "{target}");
        }
    }

    #[test]
    fn plain_paths_pass_and_lose_their_query() {
        for (target, path) in [
            ("/", "/"),
            ("/mcp", "/mcp"),
            ("/mcp/", "/mcp/"),
            ("/mcp?x=../..//;", "/mcp"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a%20b", "/a%20b"),
            ("/caf%C3%A9", "/caf%C3%A9"),
            ("/a:b@c", "/a:b@c"),
        ] {
            assert_eq!(UnambiguousPath::of_target(target).unwrap().as_str(), path);
        }
    }

    #[test]
    fn a061_within_is_by_whole_segments() {
        let path = |text| UnambiguousPath::of_target(text).unwrap();
        assert!(
            path("/mcp").is_within("/mcp") && path("/mcp/x").is_within("/mcp") && path("/mcp").is_within("/")
        );
        assert!(
            path("/mcp/").is_within("/mcp") && path("/mcp").is_within("/mcp/") && path("/x").is_within("")
        );
        assert!(
            !path("/mcp-other").is_within("/mcp")
                && !path("/mc").is_within("/mcp")
                && !path("/MCP").is_within("/mcp")
        );
    }

    proptest! {
        #[test]
        fn what_passes_has_no_second_reading(target in "/[ -~]{0,40}") {
            if let Ok(path) = UnambiguousPath::of_target(&target) {
                let resolved = url::Url::parse("http://h").unwrap().join(path.as_str()).unwrap();
                prop_assert_eq!(resolved.path(), path.as_str());
            }
        }
    }
}
