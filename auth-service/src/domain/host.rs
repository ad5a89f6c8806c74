//! Normalized host names, and patterns for the protected hosts.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A host name in lower-case ASCII (IDNA) without a port or a trailing dot, or an IP address literal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName(String);

/// The string is not a valid host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host name")]
pub struct InvalidHost;

impl HostName {
    /// The normalized name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name always refers to this machine.
    pub fn is_loopback(&self) -> bool {
        self.0 == "localhost"
            || self.0.ends_with(".localhost")
            || self.0.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads `host` or `host:port`, and returns the two parts separately.
pub fn split_authority(text: &str) -> Result<(HostName, Option<u16>), InvalidHost> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(InvalidHost)?;
            let address: std::net::Ipv6Addr = address.parse().map_err(|_| InvalidHost)?;
            (
                Cow::Owned(format!("[{address}]")),
                after.strip_prefix(':').or_else(|| after.is_empty().then_some("")),
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Cow::Borrowed(host), Some(port).filter(|port| !port.is_empty())),
            None => (Cow::Borrowed(text), Some("")),
        },
    };
    let port = match port.ok_or(InvalidHost)? {
        "" => None,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| InvalidHost)?)
        }
        _ => return Err(InvalidHost),
    };
    Ok((normal_name(&host)?, port))
}

fn normal_name(host: &str) -> Result<HostName, InvalidHost> {
    if host.starts_with('[') {
        return Ok(HostName(host.to_owned()));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if is_normal(host) {
        return Ok(HostName(host.to_owned()));
    }
    let ascii = idna::domain_to_ascii_strict(host).map_err(|_| InvalidHost)?;
    let plain = !ascii.is_empty() && ascii.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if plain { Ok(HostName(ascii)) } else { Err(InvalidHost) }
}

/// Whether `host` is already normalized, so that IDNA processing can be skipped. Most requests have a normalized
/// host.
fn is_normal(host: &str) -> bool {
    host.len() < 254
        && host.split('.').all(|label| {
            (1..64).contains(&label.len()) && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'))
        })
}

/// One entry of `PROTECTED_HOSTS`: `host`, `host:port` or `*.domain[:port]`. The star stands for exactly one
/// label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    name: HostName,
    wildcard: bool,
    port: Option<u16>,
    /// A colon and the port, or empty.
    port_text: String,
}

impl HostPattern {
    /// If this entry matches `host`, returns the name and the port text (`:port` or empty), which form the
    /// authority in URLs. The port comes from the configuration, because the port in a request is not
    /// trusted.
    pub fn authority_for<'a>(&'a self, host: &'a HostName) -> Option<[&'a str; 2]> {
        self.matches(host.as_str()).then_some([host.as_str(), &self.port_text])
    }

    /// Whether this entry matches `host`, which is the text of a [`HostName`].
    pub fn matches(&self, host: &str) -> bool {
        if !self.wildcard {
            return host == self.name.0;
        }
        host.strip_suffix(&self.name.0)
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|label| !label.is_empty() && !label.contains('.'))
    }

    /// The name without the leading `*.` of a wildcard entry.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// Whether the entry starts with `*.`.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The configured port, if there is one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether all hosts that match always refer to this machine.
    pub fn is_loopback(&self) -> bool {
        self.name.is_loopback()
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let (wildcard, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        let (name, port) = split_authority(rest)?;
        let port_text = port.map(|port| format!(":{port}")).unwrap_or_default();
        Ok(Self { name, wildcard, port, port_text })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_counts_as_normal_is_what_idna_leaves_alone(
            host in prop_oneof![
                "[a-z0-9.]{0,20}",
                "([a-z0-9-]{1,4}[.]?){0,6}",
                "[a-z]{60,66}",
                "([a-z]{30}[.]){7}[a-z]{30,42}",
            ],
        ) {
            if is_normal(&host) {
                prop_assert_eq!(idna::domain_to_ascii_strict(&host).ok(), Some(host));
            }
        }
    }

    fn name(text: &str) -> String {
        split_authority(text).unwrap().0.to_string()
    }

    #[test]
    fn a078_one_name_for_every_spelling() {
        for text in ["mcp.example.com", "MCP.Example.COM", "mcp.example.com.", "mcp.example.com:443"] {
            assert_eq!(name(text), "mcp.example.com");
        }
        assert_eq!(name("bücher.example"), "xn--bcher-kva.example");
        assert_eq!(name("[::1]:8080"), "[::1]");
        assert_eq!(name("[0:0::1]"), "[::1]");
        assert_eq!(split_authority("localhost:8080").unwrap().1, Some(8080));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "", ".", "a b", "a/b", "a@b", "a:b", "a:1:2", "a:99999", "a:", "[::1", "[::1]x", "a,b", "a%2eb",
            "a\\b",
        ] {
            assert!(split_authority(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_names_the_authority_that_clients_use() {
        let host = |text| split_authority(text).unwrap().0;
        let pattern: HostPattern = "*.example.com:8443".parse().unwrap();
        assert_eq!(pattern.authority_for(&host("A.example.com:1")).unwrap().concat(), "a.example.com:8443");
        for other in ["example.com", "a.b.example.com", "aexample.com", "a.example.com.evil.test"] {
            assert_eq!(pattern.authority_for(&host(other)), None, "{other}");
        }
        let exact: HostPattern = "Time.localhost:8080".parse().unwrap();
        assert_eq!(exact.authority_for(&host("time.localhost")).unwrap().concat(), "time.localhost:8080");
        assert!(exact.is_loopback() && !pattern.is_loopback());
    }
}
