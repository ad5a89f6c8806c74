//! The query of a service's URL (`/mcp?toolset=a`).
//!
//! Several vendors give out such URLs. The query is part of what a client connects to, so the documents that lead to a
//! token repeat it as it came (RFC 9728 §3.1, §3.3). It says nothing about what a token is for: that is the resource
//! without it.

use std::fmt;

/// Bytes in the longest query. A challenge travels in a header, and edge proxies read all of those into 4 KiB.
const MAX_LEN: usize = 2048;

/// A query that stands in a quoted string of a header, in a URL and in JSON as it is: printable ASCII without `"`, `\`,
/// `#`, `<` and `>`, not empty and not longer than 2048 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceQuery<'a>(&'a str);

/// A query that could not be repeated as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the query is longer than 2048 bytes, or has characters that do not belong in a URL")]
pub struct UnusableQuery;

impl<'a> ResourceQuery<'a> {
    /// Reads what follows `?`. None when nothing does.
    pub fn parse(text: &'a str) -> Result<Option<Self>, UnusableQuery> {
        // Wider than RFC 3986 §3.4: browsers send `[`, `{`, `|` and others as they are.
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\#<>".contains(&byte);
        if text.is_empty() {
            Ok(None)
        } else if text.len() <= MAX_LEN && text.bytes().all(plain) {
            Ok(Some(Self(text)))
        } else {
            Err(UnusableQuery)
        }
    }
}

impl fmt::Display for ResourceQuery<'_> {
    /// With its question mark.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "?{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_repeated_as_it_came_or_not_at_all() {
        let longest = "a".repeat(MAX_LEN);
        for text in ["a", "toolset=a&x", "a=%22", "a[]={b}|^`'/?:@!$&'()*+,;=~-._", &longest] {
            assert_eq!(ResourceQuery::parse(text).unwrap().unwrap().to_string(), format!("?{text}"));
        }
        assert_eq!(ResourceQuery::parse(""), Ok(None));
        let too_long = "a".repeat(MAX_LEN + 1);
        for text in
            ["\"", "a\\", "a#b", "<", ">", "a b", "a\tb", "a\r\nb", "\u{e9}", "\u{7f}", "\0", &too_long]
        {
            assert_eq!(ResourceQuery::parse(text), Err(UnusableQuery), "{text:?}");
        }
    }
}
