//! Lists of hosts in the settings: the hosts whose client metadata documents are allowed or blocked, and the hosts that
//! redirect URIs can have.

use psl::{List, Psl};
use url::Host;

/// An entry of a host list: a host, or, with `*.`, all hosts below a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    domain: String,
    below: bool,
}

/// Why a string is not a valid entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostRule {
    /// The string is not a host name.
    #[error("it is not a host name such as example.com or *.example.com; leave out scheme, port and path")]
    NotAHost,
    /// Anybody can have a host below this domain, because it is a public suffix such as `com` or `github.io`.
    #[error("it is a public suffix, so anybody can register a host below it; list the hosts individually")]
    PublicSuffix,
}

impl HostRule {
    /// Reads an entry such as `example.com` or `*.example.com`.
    pub fn parse(text: &str) -> Result<Self, InvalidHostRule> {
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        let domain = idna::domain_to_ascii_strict(name).map_err(|_| InvalidHostRule::NotAHost)?;
        if domain.is_empty() {
            return Err(InvalidHostRule::NotAHost);
        }
        let is_suffix = List
            .suffix(domain.as_bytes())
            .is_some_and(|suffix| suffix == domain.as_str() && suffix.is_known());
        if below && is_suffix {
            return Err(InvalidHostRule::PublicSuffix);
        }
        Ok(Self { domain, below })
    }

    /// Like [`HostRule::parse`], but also reads an IP address, such as `192.0.2.1` or `[2001:db8::1]`.
    pub fn parse_with_address(text: &str) -> Result<Self, InvalidHostRule> {
        match Host::parse(text) {
            Ok(host @ (Host::Ipv4(_) | Host::Ipv6(_))) => Ok(Self { domain: host.to_string(), below: false }),
            _ => Self::parse(text),
        }
    }

    /// Whether the entry matches `host`. A dot at the end of `host` is ignored.
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        if self.below {
            host.strip_suffix(&self.domain).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1)
        } else {
            host == self.domain
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_mean_whole_names() {
        let exact = HostRule::parse("Claude.AI").unwrap();
        assert!(exact.matches("claude.ai") && exact.matches("claude.ai."));
        assert!(!exact.matches("x.claude.ai") && !exact.matches("notclaude.ai"));
        let below = HostRule::parse("*.example.com").unwrap();
        assert!(below.matches("a.example.com") && below.matches("a.b.example.com"));
        assert!(
            !below.matches("example.com")
                && !below.matches("evilexample.com")
                && !below.matches(".example.com")
        );
    }

    #[test]
    fn a_public_suffix_is_no_domain_of_anybody() {
        for text in ["*.com", "*.co.uk", "*.github.io"] {
            assert_eq!(HostRule::parse(text), Err(InvalidHostRule::PublicSuffix), "{text}");
        }
        assert!(HostRule::parse("github.io").is_ok() && HostRule::parse("*.internal").is_ok());
        for url in ["https://claude.ai", "claude.ai/", "claude.ai:443", "*"] {
            assert_eq!(HostRule::parse_with_address(url), Err(InvalidHostRule::NotAHost), "{url}");
        }
        for address in ["127.0.0.1", "[::1]"] {
            assert!(HostRule::parse_with_address(address).unwrap().matches(address), "{address}");
        }
        assert_eq!(HostRule::parse("a b"), Err(InvalidHostRule::NotAHost));
        assert_eq!(HostRule::parse("*."), Err(InvalidHostRule::NotAHost));
    }
}
