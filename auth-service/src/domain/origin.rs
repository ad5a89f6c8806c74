//! Origins of web pages (RFC 6454 §6.1), and which of them are allowed to call the protected services.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The value of an `Origin` header: `scheme://host[:port]` as browsers serialize it, or `null`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin(String);

/// The string is not a valid origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an origin; write scheme and host, and the port if it is not the default: https://app.example.com"
)]
pub struct InvalidOrigin;

impl Origin {
    /// The value of the header.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    /// Reads the header's value. Any scheme is accepted, because browser extensions and editors have their own
    /// schemes (`chrome-extension`, `vscode-webview`).
    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        // A page that a web view has loaded from a file has no host.
        if matches!(text, "null" | "file://") {
            return Ok(Self(text.to_owned()));
        }
        let (scheme, authority) = text.split_once("://").ok_or(InvalidOrigin)?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
        let is_authority = !authority.is_empty()
            && authority
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._~:[]".contains(&b));
        if is_scheme && is_authority && text.len() <= 512 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidOrigin)
        }
    }
}

/// The web pages that are allowed to call the protected services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Pages of any origin. This is safe because services accept tokens, never cookies, so a page can only use a
    /// token that it has been given.
    Any,
    /// Pages of these origins, and pages of the service's own origin.
    Listed(BTreeSet<Origin>),
}

impl AllowedOrigins {
    /// Whether a page of `origin` is allowed to call a service whose own origin is `own`.
    pub fn allow(&self, origin: &Origin, own: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(origins) => origins.contains(origin) || origin.as_str() == own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        for text in [
            "null",
            "file://",
            "https://app.example.com",
            "http://localhost:6274",
            "http://[::1]:80",
            "chrome-extension://abcdefghijklmnop",
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().as_str(), text);
        }
        for text in [
            "",
            "NULL",
            "https://",
            "://a",
            "https://a/",
            "https://a/b",
            "https://u@a",
            "HTTPS://a",
            "https://A.example",
            "https://a, https://b",
            "https://a https://b",
            "https://a?x",
            "a.example",
            "https://bücher.example",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn a097_a_list_names_origins_whole() {
        let listed = AllowedOrigins::Listed(["https://app.example".parse().unwrap()].into());
        let allowed = |text: &str| listed.allow(&text.parse().unwrap(), "https://mcp.example");
        assert!(allowed("https://app.example") && allowed("https://mcp.example"));
        for other in [
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil.test",
            "https://sub.app.example",
            "https://evil-app.example",
            "null",
        ] {
            assert!(!allowed(other), "{other}");
        }
        assert!(AllowedOrigins::Any.allow(&"null".parse().unwrap(), "https://mcp.example"));
    }
}
