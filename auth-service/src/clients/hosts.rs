//! Lists of hosts in settings: which client metadata documents are welcome.

use psl::{List, Psl};

/// An entry: a host, or with `*.` every host below a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRule {
    domain: String,
    below: bool,
}

/// Why a text is not an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostRule {
    /// Not a name.
    #[error("it is not a host name such as example.com or *.example.com")]
    NotAHost,
    /// `*.com`, `*.github.io`: everyone may have a host there.
    #[error("everybody can get a host below it, since it is a public suffix; name the hosts one by one")]
    PublicSuffix,
}

impl HostRule {
    /// Reads an entry.
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

    /// Whether `host` is meant.
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
        assert_eq!(HostRule::parse("a b"), Err(InvalidHostRule::NotAHost));
        assert_eq!(HostRule::parse("*."), Err(InvalidHostRule::NotAHost));
    }
}
