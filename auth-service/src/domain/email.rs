//! Domains of email addresses, for policy rules.

use std::fmt;

use super::host::split_authority;

/// The domain of an email address in lower-case ASCII (IDNA).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EmailDomain(String);

/// The string is not a valid email domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an email domain is a host name such as example.com, without @, port or wildcard")]
pub struct InvalidEmailDomain;

impl EmailDomain {
    /// Reads a domain from the configuration or the policy file.
    pub fn parse(text: &str) -> Result<Self, InvalidEmailDomain> {
        match split_authority(text) {
            Ok((host, None)) if !text.contains(['[', ':']) => Ok(Self(host.as_str().to_owned())),
            _ => Err(InvalidEmailDomain),
        }
    }

    /// Whether `address` is in this domain beyond doubt. An address with several `@`, whitespace or quotes is in
    /// no domain. A subdomain counts as a different domain.
    pub fn has(&self, address: &str) -> bool {
        let Some((local, domain)) = address.split_once('@') else { return false };
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"@\"(),:;<>[\\]".contains(&b))
        };
        plain(local) && plain(domain) && domain.eq_ignore_ascii_case(&self.0)
    }
}

impl fmt::Display for EmailDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a079_an_address_with_two_readings_is_in_no_domain() {
        let domain = EmailDomain::parse("Example.com").unwrap();
        assert!(domain.has("ana@example.com") && domain.has("ana+x@EXAMPLE.com"));
        for address in [
            "",
            "@example.com",
            "ana",
            "example.com",
            "ana@evil.test@example.com",
            "ana@example.com@evil.test",
            "\"ana@evil.test\"@example.com",
            "ana@example.com ",
            "ana@example.com.",
            "ana@example.com,ana@evil.test",
            "ana <ana@example.com>",
            "ana@sub.example.com",
            "ana@notexample.com",
            "ana@\u{435}xample.com",
            "ana\n@example.com",
        ] {
            assert!(!domain.has(address), "{address:?}");
        }
    }

    #[test]
    fn a085_an_empty_domain_cannot_be_written() {
        for text in ["", " ", ".", "@example.com", "a@b", "*.example.com", "example.com:25", "[::1]", "a b"] {
            assert!(EmailDomain::parse(text).is_err(), "{text:?}");
        }
    }
}
