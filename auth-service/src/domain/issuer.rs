//! The issuer identifier of this server (RFC 8414 §2). It is one string from the configuration, used
//! everywhere unchanged.

use std::fmt;

use url::{Host, Url};

use super::resource::Scheme;

/// An https URL (http on loopback only) without a trailing slash, query or fragment. It can have a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    text: String,
    path: String,
    scheme: Scheme,
}

/// The reason why a string is not an issuer identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIssuer {
    /// The string has no scheme. The value is the same string with the usual scheme for its host.
    #[error("it has no scheme; write {0}")]
    NoScheme(String),
    /// The string is not an absolute URL.
    #[error("it must be an absolute URL such as https://auth.example.com")]
    NotAbsolute,
    /// The URL uses plain http for a host that is not loopback.
    #[error("it must use https; http is for localhost, 127.0.0.1 and [::1] only")]
    NotHttps,
    /// The URL has a component that RFC 8414 §2 forbids.
    #[error("it must not have a query, a fragment, a user name or a password")]
    ExtraParts,
    /// The URL is not in its normal form. Clients compare it byte for byte.
    #[error("it must be written as {0}: lower case, without a default port or a trailing slash")]
    NotNormal(String),
}

impl Issuer {
    /// Reads an issuer identifier.
    pub fn parse(text: &str) -> Result<Self, InvalidIssuer> {
        // Without a scheme, a URL parser mistakes the host for the scheme (`auth.example.com:8443`).
        if !text.contains("://")
            && let Ok(url) = Url::parse(&format!("https://{text}"))
        {
            let scheme = if is_loopback(&url) { "http" } else { "https" };
            return Err(InvalidIssuer::NoScheme(format!("{scheme}://{text}")));
        }
        let url = Url::parse(text).map_err(|_| InvalidIssuer::NotAbsolute)?;
        if url.host().is_none() {
            return Err(InvalidIssuer::NotAbsolute);
        }
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            "http" if is_loopback(&url) => Scheme::Http,
            _ => return Err(InvalidIssuer::NotHttps),
        };
        if url.query().is_some()
            || url.fragment().is_some()
            || !url.username().is_empty()
            || url.password().is_some()
        {
            return Err(InvalidIssuer::ExtraParts);
        }
        let normal = url.as_str().trim_end_matches('/');
        if text != normal {
            return Err(InvalidIssuer::NotNormal(normal.to_owned()));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        Ok(Self { text: text.to_owned(), path, scheme })
    }

    /// The identifier exactly as configured.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the host always refers to this machine.
    pub fn is_loopback(&self) -> bool {
        Url::parse(&self.text).is_ok_and(|url| is_loopback(&url))
    }

    /// The port, if it is not the default port of the scheme.
    pub fn port(&self) -> Option<u16> {
        Url::parse(&self.text).ok()?.port()
    }

    /// The path without a trailing slash, such as `/tenant1`, or an empty string.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The scheme, which all protected hosts use as well.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The URL of an endpoint. `path` starts with a slash, as in `/token`.
    pub fn endpoint(&self, path: &str) -> String {
        format!("{}{path}", self.text)
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_are_exact() {
        for text in [
            "https://auth.example.com",
            "https://auth.example.com/tenant1",
            "http://localhost:8080",
            "http://127.0.0.1:1/a/b",
            "http://auth.localhost",
        ] {
            assert_eq!(Issuer::parse(text).unwrap().as_str(), text);
        }
        assert_eq!(Issuer::parse("https://a.example/t").unwrap().path(), "/t");
        assert_eq!(Issuer::parse("https://a.example").unwrap().path(), "");
        for text in [
            "",
            "auth.example.com",
            "http://auth.example.com",
            "https://a.example/",
            "https://A.example",
            "https://a.example:443",
            "https://a.example?x",
            "https://a.example#x",
            "https://u@a.example",
            "ftp://localhost",
            "http://127.0.0.1.evil.example",
        ] {
            assert!(Issuer::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_issuer_without_a_scheme_is_answered_with_one() {
        for (scheme, text) in [
            ("https", "auth.example.com"),
            ("https", "auth.example.com:8443"),
            ("https", "auth.example.com/tenant1"),
            ("https", "localhost.example.com"),
            ("http", "localhost:8080"),
            ("http", "auth.localhost/tenant1"),
            ("http", "127.0.0.1:8080"),
            ("http", "[::1]:8080"),
        ] {
            let proposed = format!("{scheme}://{text}");
            assert_eq!(Issuer::parse(text), Err(InvalidIssuer::NoScheme(proposed)), "{text}");
        }
        assert_eq!(Issuer::parse("/tenant 1"), Err(InvalidIssuer::NotAbsolute));
    }
}
