//! Validates the parameters of an authorization request, without I/O.

use serde::{Deserialize, Serialize};

use crate::domain::client::{Client, ClientId, GrantType};
use crate::domain::error_code::ErrorCode;
use crate::domain::key_thumbprint::KeyThumbprint;
use crate::domain::pkce::CodeChallenge;
use crate::domain::redirect_uri::RedirectUri;
use crate::domain::resource::{ProtectedHosts, ResourceUri};
use crate::domain::scope::Scope;
use crate::oauth::params::{BadParams, Params};
use crate::oauth::requested_scope::{ScopeRefused, requested_scope};
use crate::oauth::responses::QUERY_LIMIT;
use crate::policy::Policy;
use crate::state::AppState;

/// An authorization request whose parameters are all valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AuthorizationRequest {
    /// The client that sent the request.
    pub(super) client_id: ClientId,
    /// The URI that receives the authorization response.
    pub(super) redirect_uri: RedirectUri,
    /// Opaque value that is returned to the client unchanged (RFC 6749 §4.1.1).
    pub(super) state: Option<String>,
    /// The scope that the client is granted if the user consents.
    pub(super) scope: Scope,
    /// The resources for which the access token will be valid (RFC 8707).
    pub(super) resources: Vec<ResourceUri>,
    /// The PKCE code challenge (RFC 7636 §4.2), with the method S256.
    pub(super) challenge: CodeChallenge,
    /// Thumbprint of the key to which the authorization code will be bound (`dpop_jkt`, RFC 9449 §10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bound_to: Option<KeyThumbprint>,
}

/// Why an authorization request is refused. The client receives it as an error response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Params(#[from] BadParams),
    #[error("response_type must be code")]
    ResponseType,
    #[error("response_mode must be query")]
    ResponseMode,
    #[error("request objects are not supported")]
    RequestObject,
    #[error("the request must be pushed first, and then sent with its request_uri")]
    PushRequired,
    #[error("the client is not registered for the authorization code grant")]
    GrantType,
    #[error("PKCE is required: code_challenge must be the base64url SHA-256 of the verifier, 43 characters")]
    Challenge,
    #[error("code_challenge_method must be S256")]
    ChallengeMethod,
    #[error("dpop_jkt must be the base64url SHA-256 thumbprint of a key")]
    Thumbprint,
    #[error(transparent)]
    Scope(#[from] ScopeRefused),
    #[error("resource must be the URL of a service that this server protects")]
    Resource,
    #[error("the request is too long: as JSON, it takes more than 8192 bytes; send a shorter state")]
    TooLarge,
    #[error("prompt=none must not be combined with other values")]
    Prompt,
    #[error("the user is not signed in, but prompt=none does not allow a page")]
    LoginRequired,
    #[error("the user must be asked, but prompt=none does not allow a page")]
    ConsentRequired,
    #[error("the user denied the request")]
    Denied,
    #[error("too many codes were issued for the user's account; try again in a minute")]
    TooFast,
}

impl Refusal {
    /// The error code of the response (RFC 6749 §4.1.2.1, RFC 8707 §2, RFC 9101 §7, `OpenID` Connect Core
    /// §3.1.2.6).
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::Params(_)
            | Self::ResponseMode
            | Self::Challenge
            | Self::ChallengeMethod
            | Self::Thumbprint
            | Self::TooLarge
            | Self::Prompt
            | Self::PushRequired => ErrorCode::InvalidRequest,
            Self::ResponseType => ErrorCode::UnsupportedResponseType,
            Self::RequestObject => ErrorCode::RequestNotSupported,
            Self::GrantType => ErrorCode::UnauthorizedClient,
            Self::Scope(_) => ErrorCode::InvalidScope,
            Self::Resource => ErrorCode::InvalidTarget,
            Self::LoginRequired => ErrorCode::LoginRequired,
            Self::ConsentRequired => ErrorCode::ConsentRequired,
            Self::Denied => ErrorCode::AccessDenied,
            Self::TooFast => ErrorCode::TemporarilyUnavailable,
        }
    }
}

/// Maximum number of resources in one request. No client is expected to request so many.
const MAX_RESOURCES: usize = 8;

impl AuthorizationRequest {
    /// Reads a request from `client`. The caller must already have verified `redirect_uri`.
    pub(super) fn read(
        params: &Params,
        client: &Client,
        redirect_uri: RedirectUri,
        state: &AppState,
    ) -> Result<Self, Refusal> {
        let offline_access = state.config.grants.offline_access;
        Self::within(
            params,
            client,
            redirect_uri,
            &state.config.site.protected_hosts,
            &state.policy.now(),
            offline_access,
        )
    }

    pub(super) fn within(
        params: &Params,
        client: &Client,
        redirect_uri: RedirectUri,
        hosts: &ProtectedHosts,
        policy: &Policy,
        offline_access: bool,
    ) -> Result<Self, Refusal> {
        if params.has_doubled() {
            return Err(BadParams::Doubled.into());
        }
        match params.one("response_type")? {
            Some("code") => {}
            _ => return Err(Refusal::ResponseType),
        }
        if !matches!(params.one("response_mode")?, None | Some("query")) {
            return Err(Refusal::ResponseMode);
        }
        if params.one("request")?.is_some() {
            return Err(Refusal::RequestObject);
        }
        if !client.may_use(GrantType::AuthorizationCode) {
            return Err(Refusal::GrantType);
        }
        let challenge =
            params.one("code_challenge")?.and_then(CodeChallenge::parse).ok_or(Refusal::Challenge)?;
        // If the method is missing, it is `plain` (RFC 7636 §4.3), which gives no protection.
        if params.one("code_challenge_method")? != Some("S256") {
            return Err(Refusal::ChallengeMethod);
        }
        let resources = resources(&params.many("resource"), hosts, policy)?;
        let asked = Self {
            client_id: client.id.clone(),
            redirect_uri,
            state: params.one("state")?.map(str::to_owned),
            scope: scope(params, client, &resources, policy, offline_access)?,
            resources,
            challenge,
            bound_to: thumbprint(params)?,
        };
        if asked.fits_a_form() { Ok(asked) } else { Err(Refusal::TooLarge) }
    }
}

impl AuthorizationRequest {
    /// Maximum size in bytes of a request as JSON in the form token of the consent form. In JSON, some characters
    /// of `state` become six times as long, and the form must fit in a request body.
    const MAX_SIZE: usize = QUERY_LIMIT;

    fn fits_a_form(&self) -> bool {
        serde_json::to_vec(self).is_ok_and(|json| json.len() <= Self::MAX_SIZE)
    }

    /// The request as a query string, for a link that shows the consent page again.
    pub(super) fn query(&self) -> String {
        let scope = self.scope.to_string();
        let pairs = [
            ("response_type", "code"),
            ("client_id", self.client_id.as_str()),
            ("redirect_uri", self.redirect_uri.as_str()),
            ("scope", &scope),
            ("code_challenge", self.challenge.as_str()),
            ("code_challenge_method", "S256"),
        ];
        let resources = self.resources.iter().map(|resource| ("resource", resource.as_str()));
        let state = self.state.as_deref().map(|state| ("state", state));
        let bound_to = self.bound_to.as_ref().map(|key| ("dpop_jkt", key.as_str()));
        url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(pairs.into_iter().chain(resources).chain(state).chain(bound_to))
            .finish()
    }
}

fn thumbprint(params: &Params) -> Result<Option<KeyThumbprint>, Refusal> {
    let Some(text) = params.one("dpop_jkt")? else { return Ok(None) };
    KeyThumbprint::parse(text).map(Some).ok_or(Refusal::Thumbprint)
}

/// Reads and validates the `scope` parameter for these resources.
pub(super) fn asked_scope(
    params: &Params,
    client: &Client,
    resources: &[ResourceUri],
    state: &AppState,
) -> Result<Scope, Refusal> {
    scope(params, client, resources, &state.policy.now(), state.config.grants.offline_access)
}

/// Reads and validates the `resource` parameters.
pub(super) fn asked_resources(params: &Params, state: &AppState) -> Result<Vec<ResourceUri>, Refusal> {
    resources(&params.many("resource"), &state.config.site.protected_hosts, &state.policy.now())
}

fn scope(
    params: &Params,
    client: &Client,
    resources: &[ResourceUri],
    policy: &Policy,
    with_offline_access: bool,
) -> Result<Scope, Refusal> {
    Ok(requested_scope(params.one("scope")?, client, resources, policy, with_offline_access)?)
}

fn resources(asked: &[&str], hosts: &ProtectedHosts, policy: &Policy) -> Result<Vec<ResourceUri>, Refusal> {
    if asked.is_empty() || asked.len() > MAX_RESOURCES {
        return Err(Refusal::Resource);
    }
    let mut resources = asked
        .iter()
        .map(|text| hosts.parse(text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Refusal::Resource)?;
    // The check refuses every request to a lookalike path, so a token for that path would be useless.
    if resources.iter().any(|resource| policy.is_lookalike(resource)) {
        return Err(Refusal::Resource);
    }
    resources.sort();
    resources.dedup();
    Ok(resources)
}

/// Returns the URI that receives the response, or `None` if it is not a redirect URI of the client.
pub(super) fn redirect_uri_of(params: &Params, client: &Client) -> Result<Option<RedirectUri>, BadParams> {
    let redirect_uri = match (params.one("redirect_uri")?, client.metadata.redirect_uris.as_slice()) {
        (Some(text), _) => RedirectUri::try_from(text.to_owned()).ok(),
        // The parameter is optional if only one redirect URI is registered (OAuth 2.1 §4.1.1).
        (None, [only]) => Some(only.clone()),
        (None, _) => None,
    };
    Ok(redirect_uri.filter(|uri| client.allows_redirect(uri)))
}

#[cfg(test)]
mod tests {
    use crate::domain::resource::Scheme;
    use crate::oauth::fuzzing;

    use super::*;

    const GOOD: [(&str, &str); 6] = [
        ("response_type", "code"),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
        ("resource", "https://mcp.example/mcp"),
        ("state", "s t&=#"),
        ("scope", "mcp mcp:read unheard_of"),
    ];

    fn read(pairs: &[(&str, &str)]) -> Result<AuthorizationRequest, Refusal> {
        read_query(&serde_urlencoded::to_string(pairs).unwrap())
    }

    fn read_query(query: &str) -> Result<AuthorizationRequest, Refusal> {
        let redirect_uri = RedirectUri::try_from("https://app.example/cb".to_owned()).unwrap();
        let client = fuzzing::client();
        let hosts = ProtectedHosts::new(Scheme::Https, vec!["mcp.example".parse().unwrap()]);
        let params = Params::of_query(query).unwrap();
        AuthorizationRequest::within(&params, &client, redirect_uri, &hosts, &Policy::default(), false)
    }

    fn with(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        GOOD.into_iter().filter(|(key, _)| *key != name).chain([(name, value)]).collect()
    }

    #[test]
    fn a_good_request_is_read_whole() {
        let asked = read(&GOOD).unwrap();
        assert_eq!(asked.state.as_deref(), Some("s t&=#"));
        assert_eq!(asked.scope.to_string(), "mcp mcp:read");
        assert_eq!(asked.resources.first().unwrap().as_str(), "https://mcp.example/mcp");
        // Parsing the query that is built from a request results in the same request.
        let more = [("resource", "https://mcp.example/other"), ("dpop_jkt", GOOD[1].1)];
        let asked = read(&[&GOOD[..], &more].concat()).unwrap();
        assert_eq!(read_query(&asked.query()).unwrap(), asked);
    }

    #[test]
    fn a_scope_that_nobody_knows_is_as_good_as_none() {
        assert_eq!(read(&with("scope", "claudeai")).unwrap().scope.to_string(), "mcp");
        assert_eq!(read(&with("scope", "mcp:read admin")).unwrap().scope.to_string(), "mcp:read");
    }

    #[test]
    fn a_request_that_its_consent_form_could_not_carry_is_refused() {
        let of_state = |state: &str| read(&[&GOOD[..4], &[("state", state)], &GOOD[5..]].concat());
        for (state, times) in [("a", 7000), ("\\", 3500), ("\u{1}", 1200), ("\u{e9}", 3500)] {
            assert!(of_state(&state.repeat(times)).is_ok(), "{state:?}");
        }
        for (state, times) in [("a", 8192), ("\\", 4100), ("\"", 4100), ("\u{1}", 1400), ("\u{e9}", 4100)] {
            let refused = of_state(&state.repeat(times)).unwrap_err();
            assert_eq!(
                (&refused, refused.code().as_str()),
                (&Refusal::TooLarge, "invalid_request"),
                "{state:?}"
            );
        }
    }

    #[test]
    fn a012_a013_every_other_flow_is_refused() {
        let cases = [
            ("response_type", "token", "unsupported_response_type"),
            ("response_type", "code id_token", "unsupported_response_type"),
            ("response_type", "", "unsupported_response_type"),
            ("response_mode", "form_post", "invalid_request"),
            ("response_mode", "fragment", "invalid_request"),
            ("request", "eyJ", "request_not_supported"),
            ("code_challenge", "", "invalid_request"),
            ("code_challenge", "short", "invalid_request"),
            ("code_challenge_method", "plain", "invalid_request"),
            ("code_challenge_method", "", "invalid_request"),
            ("code_challenge_method", "s256", "invalid_request"),
            ("dpop_jkt", "short", "invalid_request"),
            ("scope", "a\"b", "invalid_scope"),
            ("resource", "", "invalid_target"),
            ("resource", "https://other.example/mcp", "invalid_target"),
        ];
        for (name, value, code) in cases {
            assert_eq!(read(&with(name, value)).unwrap_err().code().as_str(), code, "{name}={value}");
        }
    }

    #[test]
    fn a011_doubled_parameters_are_refused_and_resources_may_repeat() {
        for name in ["state", "scope", "code_challenge", "response_type", "unheard_of"] {
            let doubled: Vec<_> = GOOD.into_iter().chain([(name, "x"), (name, "x")]).collect();
            assert_eq!(read(&doubled).unwrap_err().code(), ErrorCode::InvalidRequest, "{name}");
        }
        let two: Vec<_> = GOOD
            .into_iter()
            .chain([("resource", "https://mcp.example/other"), ("resource", "https://mcp.example/mcp")])
            .collect();
        assert_eq!(read(&two).unwrap().resources.len(), 2);
    }
}
