//! The edge proxies whose checks are answered.

use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::{Environment, Problems};

/// The edge proxies that are allowed to send checks. Anyone else could lie about the request in question.
#[derive(Debug, Clone)]
pub struct TrustedEdge {
    /// Networks from which checks are accepted (`TRUSTED_PROXIES`, default loopback).
    pub networks: Vec<IpNet>,
    /// If set, every check must contain this secret in `X-Edge-Secret` (`EDGE_SECRET`).
    pub secret: Option<SecretString>,
    /// Maximum number of requests per second from one address (`REQUESTS_PER_SECOND`, default 300).
    pub requests_per_second: NonZeroU32,
}

/// Default of `REQUESTS_PER_SECOND`. It is enough for a company whose users all share one address.
const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(299);

impl TrustedEdge {
    /// Whether `peer` is the address of an edge proxy.
    pub fn is_known(&self, peer: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&peer.to_canonical()))
    }

    /// Whether a check with `secret` from the address `peer` is accepted.
    pub fn trusts(&self, peer: IpAddr, secret: Option<&[u8]>) -> bool {
        let proven = self.secret.as_ref().is_none_or(|expected| {
            secret.is_some_and(|given| bool::from(given.ct_eq(expected.expose_secret().as_bytes())))
        });
        self.is_known(peer) && proven
    }
}

#[derive(Default, Deserialize)]
struct Raw {
    trusted_proxies: Option<String>,
    edge_secret: Option<String>,
    requests_per_second: Option<String>,
}

pub(super) fn read(environment: &Environment, problems: &mut Problems) -> TrustedEdge {
    let raw: Raw = environment.concern(problems);
    let list = raw.trusted_proxies.unwrap_or_else(|| "127.0.0.0/8, ::1/128".to_owned());
    let networks = list
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .filter_map(|entry| {
            let network =
                entry.parse::<IpNet>().ok().or_else(|| entry.parse::<IpAddr>().ok().map(IpNet::from));
            if network.is_none() {
                problems.add(
                    "TRUSTED_PROXIES",
                    format_args!("{entry:?} is not a network; write it as 10.0.0.0/8 or 192.0.2.7"),
                );
            }
            network
        })
        .collect::<Vec<IpNet>>();
    if raw.edge_secret.as_ref().is_some_and(|secret| secret.len() < 16) {
        problems.add_about(
            "EDGE_SECRET",
            "is shorter than 16 characters and could be guessed; `openssl rand -hex 32` makes a good one",
        );
    }
    // Without a secret, anyone who can reach the listener could lie about a request.
    let is_absent = raw.edge_secret.is_none() && !problems.has("EDGE_SECRET");
    if is_absent && networks.iter().any(|network| network.prefix_len() == 0) {
        problems.add_about(
            "TRUSTED_PROXIES",
            "trusts every address while EDGE_SECRET is not set; name the proxy's networks, or set EDGE_SECRET",
        );
    }
    let requests_per_second = raw.requests_per_second.map_or(REQUESTS_PER_SECOND, |text| {
        text.parse().unwrap_or_else(|_| {
            problems.add(
                "REQUESTS_PER_SECOND",
                format_args!("{text:?} is not a whole number above zero; write one such as 300"),
            );
            REQUESTS_PER_SECOND
        })
    });
    TrustedEdge { networks, secret: raw.edge_secret.map(SecretString::from), requests_per_second }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a069_network_and_secret_must_both_fit() {
        let edge = TrustedEdge {
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            secret: Some("secret".into()),
            requests_per_second: REQUESTS_PER_SECOND,
        };
        let inside: IpAddr = "10.1.2.3".parse().unwrap();
        assert!(edge.trusts(inside, Some(b"secret")));
        assert!(edge.trusts("::ffff:10.1.2.3".parse().unwrap(), Some(b"secret")));
        assert!(!edge.trusts(inside, Some(b"Secret")) && !edge.trusts(inside, None));
        assert!(!edge.trusts("192.0.2.1".parse().unwrap(), Some(b"secret")));
        let open = TrustedEdge { networks: vec![], secret: None, ..edge };
        assert!(!open.trusts(inside, None));
    }
}
