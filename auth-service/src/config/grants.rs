//! The grant types that the server supports besides authorization codes and refresh tokens.

use serde::Deserialize;

use crate::domain::client::GrantType;

use super::{Environment, Problems};

/// The supported grant types, and settings of the consent.
#[derive(Debug, Clone)]
pub struct Grants {
    /// Which of `client_credentials`, `device_code` and `token_exchange` are supported (`ADDITIONAL_GRANTS`,
    /// default `client_credentials`). Client credentials are safe as a default, because only an operator can
    /// add a client that uses them.
    additional: Vec<GrantType>,
    /// Whether every authorization request must be pushed (RFC 9126 §5; `REQUIRE_PUSHED_REQUESTS`, default off).
    pub pushed_requests_only: bool,
    /// Whether a client gets a refresh token only if it requests the scope `offline_access`
    /// (`OFFLINE_ACCESS`, default off).
    pub offline_access: bool,
    /// Whether a consent is remembered, so that the user is not asked for the same consent again
    /// (`REMEMBER_CONSENT`, default on).
    pub remember_consent: bool,
}

#[derive(Default, Deserialize)]
struct Raw {
    additional_grants: Option<String>,
    require_pushed_requests: Option<String>,
    offline_access: Option<String>,
    remember_consent: Option<String>,
}

/// Reads the settings. The JWT bearer grant is supported if there are `TRUSTED_ISSUERS` (`trusts_issuers`).
pub(super) fn read(environment: &Environment, trusts_issuers: bool, problems: &mut Problems) -> Grants {
    let raw: Raw = environment.concern(problems);
    let mut additional = additional(raw.additional_grants.as_deref(), problems);
    additional.extend(trusts_issuers.then_some(GrantType::JwtBearer));
    Grants {
        additional,
        pushed_requests_only: switch(
            "REQUIRE_PUSHED_REQUESTS",
            raw.require_pushed_requests.as_deref(),
            false,
            problems,
        ),
        offline_access: switch("OFFLINE_ACCESS", raw.offline_access.as_deref(), false, problems),
        remember_consent: switch("REMEMBER_CONSENT", raw.remember_consent.as_deref(), true, problems),
    }
}

impl Grants {
    /// Whether the server supports this grant type.
    pub fn offers(&self, grant_type: GrantType) -> bool {
        matches!(grant_type, GrantType::AuthorizationCode | GrantType::RefreshToken)
            || self.additional.contains(&grant_type)
    }

    /// All grant types that the server supports.
    pub fn offered(&self) -> impl Iterator<Item = GrantType> {
        GrantType::ALL.into_iter().filter(|grant_type| self.offers(*grant_type))
    }
}

fn additional(list: Option<&str>, problems: &mut Problems) -> Vec<GrantType> {
    let Some(list) = list.filter(|list| *list != "none") else {
        return if list.is_none() { vec![GrantType::ClientCredentials] } else { Vec::new() };
    };
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    let mut grants = Vec::new();
    for name in names {
        match name {
            "client_credentials" => grants.push(GrantType::ClientCredentials),
            "device_code" => grants.push(GrantType::DeviceCode),
            "token_exchange" => grants.push(GrantType::TokenExchange),
            other => problems.add(
                "ADDITIONAL_GRANTS",
                format_args!(
                    "{other:?} is not a grant; write a list of client_credentials, device_code and token_exchange, or none"
                ),
            ),
        }
    }
    grants
}

fn switch(variable: &str, text: Option<&str>, default: bool, problems: &mut Problems) -> bool {
    match text {
        None => default,
        Some("on") => true,
        Some("off") => false,
        Some(other) => {
            problems.add(variable, format_args!("{other:?} is neither on nor off; write one of them"));
            default
        }
    }
}
