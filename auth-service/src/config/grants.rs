//! Which ways to a token there are, beyond codes and refresh tokens.

use serde::Deserialize;

use crate::domain::client::GrantType;

use super::{Environment, Problems};

/// Grants, and how people are asked.
#[derive(Debug, Clone)]
pub struct Grants {
    /// `ADDITIONAL_GRANTS`, `client_credentials`: which of `client_credentials`, `device_code` and `token_exchange` there
    /// are. Client credentials are harmless alone: only an operator can make a client that may use them.
    additional: Vec<GrantType>,
    /// `REQUIRE_PUSHED_REQUESTS`, off: whether every authorization request has to be pushed (RFC 9126 §5).
    pub pushed_requests_only: bool,
    /// `OFFLINE_ACCESS`, off: whether a client gets a refresh token only when it asked for the scope `offline_access`.
    pub offline_access: bool,
    /// `REMEMBER_CONSENT`, on: whether a person is asked again for what the same client was allowed before.
    pub remember_consent: bool,
}

#[derive(Default, Deserialize)]
struct Raw {
    additional_grants: Option<String>,
    require_pushed_requests: Option<String>,
    offline_access: Option<String>,
    remember_consent: Option<String>,
}

/// `trusts_issuers`: with `TRUSTED_ISSUERS` there is the JWT bearer grant, too.
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
    /// Whether there is such a grant here.
    pub fn offers(&self, grant_type: GrantType) -> bool {
        matches!(grant_type, GrantType::AuthorizationCode | GrantType::RefreshToken)
            || self.additional.contains(&grant_type)
    }

    /// All that there are.
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
                    "{other:?} is not a grant; it may list client_credentials, device_code and token_exchange, or say none"
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
            problems.add(variable, format_args!("{other:?} is neither on nor off"));
            default
        }
    }
}
