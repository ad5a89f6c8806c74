//! `POST /token`: the token endpoint (RFC 6749 §3.2). One file a grant.

mod authorization_code;
mod client_credentials;
mod device_code;
mod jwt_bearer;
mod refresh_token;
mod token_exchange;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderName;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use crate::domain::account::{Account, Subject, short_id};
use crate::domain::client::{Client, GrantType};
use crate::domain::clock::{RandomUnavailable, UnixTime};
use crate::domain::grant::{Grant, GrantId, RefreshState};
use crate::domain::key_thumbprint::KeyThumbprint;
use crate::domain::opaque_token::{OpaqueToken, TokenKind};
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::dpop::ProofRefused;
use crate::keys::dpop::Confirmation;
use crate::keys::seal::CryptoFailure;
use crate::keys::tokens::{ACCESS_TOKEN_TYPE, AccessTokenClaims, Actor};
use crate::state::AppState;
use crate::store::StoreError;

use super::authorize::{AuthorizationRefusal as Refusal, offline_access};
use super::client_auth::{ClientAuthError, authenticate};
use super::params::{BadParams, Params};
use super::proof::proven_key;
use super::responses;

/// Why no token is issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Broken parameters.
    #[error(transparent)]
    Params(#[from] BadParams),
    /// A parameter is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Who is asking?
    #[error(transparent)]
    Client(#[from] ClientAuthError),
    /// Not one of ours.
    #[error("the grant_type is not supported here; the server's metadata lists those that are")]
    UnsupportedGrantType,
    /// Ours, but not this client's.
    #[error("the client is not registered for this grant_type")]
    UnauthorizedClient,
    /// The code or refresh token does not count.
    #[error("{0}")]
    InvalidGrant(&'static str),
    /// More, or other, than was granted.
    #[error("the scope is malformed or goes beyond what was granted")]
    InvalidScope,
    /// RFC 8707 §2.2.
    #[error("the resource is not one that was granted")]
    InvalidTarget,
    /// The proof of possession does not count (RFC 9449 §5).
    #[error(transparent)]
    Proof(ProofRefused),
    /// Something that the endpoint does not do.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// A pushed authorization request that would be refused.
    #[error(transparent)]
    Pushed(#[from] Refusal),
    /// RFC 8628 §3.5.
    #[error("nobody has answered yet; ask again after the interval")]
    AuthorizationPending,
    /// RFC 8628 §3.5.
    #[error("too soon; from now on, let five more seconds pass between two questions")]
    SlowDown,
    /// RFC 8628 §3.5.
    #[error("the person said no")]
    AccessDenied,
    /// RFC 8628 §3.5.
    #[error("the device_code has expired; start again")]
    ExpiredToken,
    /// Too many devices.
    #[error("too many devices ask from this network; try again in a minute")]
    TooMany,
    /// Ours to mend.
    #[error("the service cannot issue tokens at the moment; try again in a minute")]
    Unavailable,
}

impl From<ProofRefused> for TokenError {
    fn from(refused: ProofRefused) -> Self {
        match refused {
            ProofRefused::Store(error) => error.into(),
            ProofRefused::Crypto(error) => error.into(),
            refused => Self::Proof(refused),
        }
    }
}

impl From<StoreError> for TokenError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed at the token endpoint");
        Self::Unavailable
    }
}

impl From<CryptoFailure> for TokenError {
    fn from(error: CryptoFailure) -> Self {
        tracing::error!(%error, "a token could not be made");
        Self::Unavailable
    }
}

impl From<RandomUnavailable> for TokenError {
    fn from(error: RandomUnavailable) -> Self {
        tracing::error!(%error, "a token could not be made");
        Self::Unavailable
    }
}

impl TokenError {
    pub(super) fn response(&self) -> HttpResponse {
        let (status, code) = match self {
            Self::Client(ClientAuthError::Invalid { .. }) => (StatusCode::UNAUTHORIZED, "invalid_client"),
            Self::Client(ClientAuthError::Store(_)) | Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable")
            }
            Self::Params(_) | Self::Missing(_) | Self::Client(_) | Self::InvalidRequest(_) => {
                (StatusCode::BAD_REQUEST, "invalid_request")
            }
            Self::Pushed(refusal) => (StatusCode::BAD_REQUEST, refusal.code()),
            Self::AuthorizationPending => (StatusCode::BAD_REQUEST, "authorization_pending"),
            Self::SlowDown => (StatusCode::BAD_REQUEST, "slow_down"),
            Self::AccessDenied => (StatusCode::BAD_REQUEST, "access_denied"),
            Self::ExpiredToken => (StatusCode::BAD_REQUEST, "expired_token"),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "temporarily_unavailable"),
            Self::UnsupportedGrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
            Self::UnauthorizedClient => (StatusCode::BAD_REQUEST, "unauthorized_client"),
            Self::Proof(refused) => (StatusCode::BAD_REQUEST, refused.code()),
            Self::InvalidGrant(_) => (StatusCode::BAD_REQUEST, "invalid_grant"),
            Self::InvalidScope => (StatusCode::BAD_REQUEST, "invalid_scope"),
            Self::InvalidTarget => (StatusCode::BAD_REQUEST, "invalid_target"),
        };
        let challenge = matches!(self, Self::Client(ClientAuthError::Invalid { basic: true, .. }))
            .then_some("Basic realm=\"token endpoint\"");
        // What the store says is for the log, not for the client.
        let description = if status == StatusCode::SERVICE_UNAVAILABLE {
            Self::Unavailable.to_string()
        } else {
            self.to_string()
        };
        let mut response = responses::error(status, code, &description, challenge);
        if let Self::Proof(ProofRefused::Nonce { fresh }) = self
            && let Ok(nonce) = fresh.parse()
        {
            response.headers_mut().insert(HeaderName::from_static("dpop-nonce"), nonce);
        }
        response
    }
}

/// Authenticates the client, then hands over to the grant.
pub async fn token(request: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    let outcome = answer(&request, &body, &state).await;
    let result = if outcome.is_ok() { "issued" } else { "refused" };
    metrics::counter!("mcp_gate_token_requests_total", "result" => result).increment(1);
    match outcome {
        Ok(issued) => responses::json_no_store(StatusCode::OK, &issued),
        Err(error) => error.response(),
    }
}

async fn answer(request: &HttpRequest, body: &[u8], state: &AppState) -> Result<TokenResponse, TokenError> {
    let params = Params::of_form(request, body)?;
    if params.has_doubled() {
        return Err(BadParams::Doubled.into());
    }
    let client = authenticate(request, &params, state).await?;
    let key = proven_key(request, &client, state).await?;
    let name = params.one("grant_type")?.ok_or(TokenError::Missing("grant_type"))?;
    let grant_type = GrantType::named(name).filter(|grant_type| state.config.grants.offers(*grant_type));
    match grant_type.ok_or(TokenError::UnsupportedGrantType)? {
        GrantType::AuthorizationCode => authorization_code::redeem(state, &client, &params, key).await,
        GrantType::RefreshToken => refresh_token::refresh(state, &client, &params, key).await,
        GrantType::ClientCredentials => {
            client_credentials::grant_to_client(state, &client, &params, key).await
        }
        GrantType::DeviceCode => device_code::poll(state, &client, &params, key).await,
        GrantType::TokenExchange => token_exchange::exchange(state, &client, &params, key).await,
        GrantType::JwtBearer => jwt_bearer::assert(state, &client, &params, key).await,
    }
}

/// The answer of RFC 6749 §5.1.
#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    scope: String,
    /// RFC 8693 §2.2.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_token_type: Option<&'static str>,
}

/// What a person has allowed a client.
struct Allowed {
    grant_id: GrantId,
    subject: Subject,
    resources: Vec<ResourceUri>,
    scope: Scope,
    authenticated_at: UnixTime,
    /// The key that refresh tokens are bound to.
    bound_to: Option<KeyThumbprint>,
}

/// The grant of what was allowed, with a refresh token if the client may have one.
fn new_grant(
    state: &AppState,
    client: &Client,
    allowed: Allowed,
) -> Result<(Grant, Option<OpaqueToken>), TokenError> {
    let now = state.now();
    let may_stay = client.may_use(GrantType::RefreshToken)
        && (!state.config.grants.offline_access || allowed.scope.covers(&offline_access()));
    let refresh_token = if may_stay { Some(state.new_token(TokenKind::RefreshToken)?) } else { None };
    let lifetimes = &state.config.lifetimes;
    // Without a refresh token nothing outlives the access token.
    let lifetime = if refresh_token.is_some() { lifetimes.refresh_token } else { lifetimes.access_token };
    let grant = Grant {
        id: allowed.grant_id,
        subject: allowed.subject,
        client_id: client.id.clone(),
        registration: client.registration.clone(),
        resources: allowed.resources,
        scope: allowed.scope,
        authenticated_at: allowed.authenticated_at,
        created_at: now,
        expires_at: now.plus(lifetime),
        bound_to: allowed.bound_to,
        refresh: refresh_token.as_ref().map(|token| RefreshState { current: token.hash(), replaced: None }),
        parent: None,
    };
    Ok((grant, refresh_token))
}

/// Signs an access token on `grant` for a part of what it allows.
fn issue(
    state: &AppState,
    grant: &Grant,
    account: &Account,
    part: Part,
    refresh_token: Option<&OpaqueToken>,
    now: UnixTime,
) -> Result<TokenResponse, TokenError> {
    // No token outlives its grant.
    let exp = now.plus(state.config.lifetimes.access_token).min(grant.expires_at);
    let claims = AccessTokenClaims {
        iss: state.config.site.issuer.as_str().to_owned(),
        sub: grant.subject.clone(),
        aud: part.resources,
        client_id: grant.client_id.clone(),
        scope: part.scope,
        exp,
        iat: now,
        jti: short_id(state.random_bytes()?),
        gid: grant.id.clone(),
        cnf: part.bound_to.map(|jkt| Confirmation { jkt }),
        groups: account.groups.clone(),
        act: grant.parent.as_ref().map(|_| Actor { sub: grant.client_id.clone() }),
    };
    Ok(TokenResponse {
        access_token: state.keys.sign(ACCESS_TOKEN_TYPE, &claims)?,
        token_type: if claims.cnf.is_some() { "DPoP" } else { "Bearer" },
        expires_in: exp.since(now).as_secs(),
        refresh_token: refresh_token.map(|token| token.expose().to_owned()),
        scope: claims.scope.to_string(),
        issued_token_type: None,
    })
}

/// What one access token covers of its grant.
struct Part {
    scope: Scope,
    resources: Vec<ResourceUri>,
    /// The key that it is bound to, if any.
    bound_to: Option<KeyThumbprint>,
}

impl Part {
    /// The same, bound to the key that the client proved to hold.
    fn bound_to(self, key: Option<KeyThumbprint>) -> Self {
        Self { bound_to: key, ..self }
    }

    /// Reads `scope` and `resource`: each may narrow what was granted and never widen it (RFC 6749 §6, RFC 8707 §2.2).
    fn read(
        state: &AppState,
        params: &Params,
        granted_scope: &Scope,
        granted: &[ResourceUri],
    ) -> Result<Self, TokenError> {
        let scope = match params.one("scope")? {
            Some(text) => text.parse().map_err(|_| TokenError::InvalidScope)?,
            None => granted_scope.clone(),
        };
        if !granted_scope.covers(&scope) {
            return Err(TokenError::InvalidScope);
        }
        let asked = params.many("resource");
        if asked.is_empty() {
            return Ok(Self { scope, resources: granted.to_vec(), bound_to: None });
        }
        let parse = |text: &&str| {
            state.config.site.protected_hosts.parse(text).map_err(|_| TokenError::InvalidTarget)
        };
        let resources = asked.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if resources.iter().all(|resource| granted.contains(resource)) {
            Ok(Self { scope, resources, bound_to: None })
        } else {
            Err(TokenError::InvalidTarget)
        }
    }
}

/// The person behind a grant, if still welcome.
async fn account_of(state: &AppState, subject: &Subject) -> Result<Account, TokenError> {
    let account = state.store.account(subject).await?;
    account
        .filter(|account| !account.disabled)
        .ok_or(TokenError::InvalidGrant("the account is disabled or was removed"))
}

/// What a client is told that does not own the grant: the same as if there were none.
fn owned_by(
    client: &Client,
    owner: &crate::domain::client::ClientId,
    what: &'static str,
) -> Result<(), TokenError> {
    if client.id == *owner { Ok(()) } else { Err(TokenError::InvalidGrant(what)) }
}
