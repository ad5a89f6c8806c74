//! The issuers whose assertions about users are accepted (`TRUSTED_ISSUERS`, TOML), for enterprise-managed
//! authorization.

use serde::Deserialize;
use url::Url;

use crate::domain::client::ClientId;
use crate::domain::scope::Scope;

use super::{Environment, Problems};

/// An identity provider whose ID-JAGs are accepted.
#[derive(Debug, Clone)]
pub struct TrustedIssuer {
    /// The exact value of `iss` in its assertions.
    pub issuer: String,
    /// The URL of its keys. If absent, the URL is read from its metadata.
    pub jwks_uri: Option<String>,
    /// The clients that are allowed to present its assertions. If empty, every client with the `jwt-bearer`
    /// grant is allowed to.
    pub clients: Vec<ClientId>,
    /// The largest scope that its assertions can request.
    pub scope: Option<Scope>,
    /// Email domains in which a verified address identifies the account of a user. If empty, accounts must be
    /// linked with `auth-service user link`.
    pub email_domains: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Raw {
    trusted_issuers: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    issuer: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    issuer: String,
    jwks_uri: Option<String>,
    #[serde(default)]
    clients: Vec<String>,
    scope: Option<String>,
    #[serde(default)]
    email_domains: Vec<String>,
}

pub(super) fn read(environment: &Environment, problems: &mut Problems) -> Vec<TrustedIssuer> {
    let raw: Raw = environment.concern(problems);
    let Some(text) = raw.trusted_issuers else { return Vec::new() };
    let file: File = match toml::from_str(&text) {
        Ok(file) => file,
        Err(error) => {
            problems.add("TRUSTED_ISSUERS", format_args!("the value is not the expected TOML: {error}"));
            return Vec::new();
        }
    };
    let mut issuers: Vec<TrustedIssuer> = Vec::new();
    for entry in file.issuer {
        let name = entry.issuer.clone();
        match trusted(entry) {
            Ok(issuer) if issuers.iter().any(|other| other.issuer == issuer.issuer) => {
                problems.add("TRUSTED_ISSUERS", format_args!("{name:?} is listed twice"));
            }
            Ok(issuer) => issuers.push(issuer),
            Err(problem) => problems.add("TRUSTED_ISSUERS", format_args!("{name:?}: {problem}")),
        }
    }
    issuers
}

fn trusted(entry: Entry) -> Result<TrustedIssuer, String> {
    let https = |text: &str| Url::parse(text).is_ok_and(|url| url.scheme() == "https");
    if !https(&entry.issuer) {
        return Err("issuer must be an https URL".to_owned());
    }
    if entry.jwks_uri.as_deref().is_some_and(|uri| !https(uri)) {
        return Err("jwks_uri must be an https URL".to_owned());
    }
    let mut clients = Vec::new();
    for id in entry.clients {
        clients.push(
            ClientId::try_from(id.clone()).map_err(|error| format!("{id:?} is not a client: {error}"))?,
        );
    }
    let domain = |text: &String| text.contains('.') && !text.contains(['@', '*', ' ']);
    if let Some(other) = entry.email_domains.iter().find(|text| !domain(text)) {
        return Err(format!("{other:?} is not a mail domain such as example.com"));
    }
    let scope = entry.scope.map(|text| text.parse::<Scope>()).transpose();
    Ok(TrustedIssuer {
        issuer: entry.issuer,
        jwks_uri: entry.jwks_uri,
        clients,
        scope: scope.map_err(|error| error.to_string())?,
        email_domains: entry.email_domains.into_iter().map(|domain| domain.to_ascii_lowercase()).collect(),
    })
}
