//! The issuer and the protected hosts.

use serde::Deserialize;

use crate::domain::host::HostPattern;
use crate::domain::issuer::Issuer;
use crate::domain::resource::{DefaultResources, ProtectedHosts, ResourceUri, Scheme, UnknownResource};

use super::{Environment, Problems};

/// The issuer, the protected hosts and their default resources.
#[derive(Debug, Clone)]
pub struct Site {
    /// The issuer identifier of this server (RFC 8414 §2; `ISSUER`, required).
    pub issuer: Issuer,
    /// The hosts of MCP services (`PROTECTED_HOSTS`, required): `host[:port]` or `*.domain[:port]`, separated
    /// by commas. They use the same URL scheme as the issuer.
    pub protected_hosts: ProtectedHosts,
    /// The resource for clients of MCP 2025-03-26, which do not name one (`DEFAULT_RESOURCE`, default
    /// `none`).
    pub default_resources: DefaultResources,
}

#[derive(Default, Deserialize)]
struct Raw {
    issuer: Option<String>,
    protected_hosts: Option<String>,
    default_resource: Option<String>,
}

pub(super) fn read(environment: &Environment, problems: &mut Problems) -> Option<Site> {
    let raw: Raw = environment.concern(problems);
    let issuer = match raw.issuer.as_deref().map(|text| (text, Issuer::parse(text))) {
        Some((_, Ok(issuer))) => Some(issuer),
        Some((text, Err(error))) => {
            problems.add("ISSUER", format_args!("{text:?} cannot be the issuer: {error}"));
            None
        }
        None => {
            problems.add_about(
                "ISSUER",
                "is not set; set it to the public URL of this service, for example https://auth.example.com",
            );
            None
        }
    };
    let Some(list) = raw.protected_hosts else {
        problems.add_about(
            "PROTECTED_HOSTS",
            "is not set; set it to the hosts of your MCP services, for example *.mcp.example.com",
        );
        return None;
    };
    let patterns = read_patterns(&list, problems);
    let issuer = issuer?;
    if issuer.scheme() == Scheme::Http && !patterns.iter().all(HostPattern::is_loopback) {
        problems.add(
            "PROTECTED_HOSTS",
            "ISSUER uses http, which is for loopback hosts only; use https for both, or localhost for both",
        );
    }
    let protected_hosts = ProtectedHosts::new(issuer.scheme(), patterns);
    // If a host is invalid, it is unknown whether a resource is on a protected host.
    if problems.has("PROTECTED_HOSTS") {
        return None;
    }
    let default_resources = read_defaults(raw.default_resource.as_deref(), &protected_hosts, problems);
    Some(Site { issuer, protected_hosts, default_resources })
}

/// Reads only the protected hosts, for a command that does not need an issuer. Without an issuer, their scheme is
/// that of an issuer on one of them.
pub(super) fn read_hosts(environment: &Environment, problems: &mut Problems) -> Option<ProtectedHosts> {
    let raw: Raw = environment.concern(problems);
    let patterns = read_patterns(&raw.protected_hosts?, problems);
    let issuer = raw.issuer.and_then(|text| Issuer::parse(&text).ok());
    let are_loopback = patterns.iter().all(HostPattern::is_loopback);
    let usual = if are_loopback { Scheme::Http } else { Scheme::Https };
    Some(ProtectedHosts::new(issuer.map_or(usual, |issuer| issuer.scheme()), patterns))
}

fn read_defaults(list: Option<&str>, hosts: &ProtectedHosts, problems: &mut Problems) -> DefaultResources {
    let list = match list {
        None | Some("none") => return DefaultResources::None,
        Some("host") => return DefaultResources::WholeHost,
        Some(list) => list,
    };
    let mut resources: Vec<ResourceUri> = Vec::new();
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        // A query in a client's request is ignored, but a query in this setting is a mistake.
        let resource = if entry.contains('?') { Err(UnknownResource) } else { hosts.parse(entry) };
        match resource {
            Ok(resource) if resources.iter().any(|other| other.origin() == resource.origin()) => {
                problems.add("DEFAULT_RESOURCE", format_args!("{entry:?} is a second resource on the same host; list only one for each host"));
            }
            Ok(resource) => resources.push(resource),
            Err(_) => problems.add(
                "DEFAULT_RESOURCE",
                format_args!(
                    "{entry:?} is not the URL of a service on one of PROTECTED_HOSTS; write https://mcp.example.com/mcp, or host, or none"
                ),
            ),
        }
    }
    DefaultResources::Listed(resources)
}

fn read_patterns(list: &str, problems: &mut Problems) -> Vec<HostPattern> {
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .filter_map(|entry| {
            let pattern = entry.parse().ok();
            if pattern.is_none() {
                problems.add("PROTECTED_HOSTS", format_args!("{entry:?} is not a host; write mcp.example.com, mcp.example.com:8443 or *.example.com"));
            }
            pattern
        })
        .collect()
}
