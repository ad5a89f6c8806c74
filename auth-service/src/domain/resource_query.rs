//! The query of a service's URL, such as `/mcp?toolset=a`.
//!
//! Several vendors publish such URLs. The query is part of the URL to which a client connects, so the metadata
//! repeats it unchanged (RFC 9728 §3.1, §3.3). It is not part of the resource for which a token is issued.

use std::fmt;

/// Maximum length of a query in bytes. The `WWW-Authenticate` header repeats it, and proxies read all
/// response headers into a buffer of 4 KiB.
const MAX_LEN: usize = 2048;

/// A query that can be put unchanged into a quoted header string, a URL and JSON: 1 to 2048 bytes of
/// printable ASCII without `"`, `\`, `#`, `<` and `>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceQuery<'a>(&'a str);

/// The query cannot be repeated unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the query is longer than 2048 bytes, or has characters that do not belong in a URL")]
pub struct UnusableQuery;

impl<'a> ResourceQuery<'a> {
    /// Reads the text after `?`. Returns `None` if it is empty.
    pub fn parse(text: &'a str) -> Result<Option<Self>, UnusableQuery> {
        // This accepts more than RFC 3986 §3.4, because browsers do not encode characters such as `[`, `{` and
        // `|`.
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
    /// Writes the query with its question mark.
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
