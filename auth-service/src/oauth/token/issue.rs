//! The steps that all grant types share: creating the grant, selecting the requested part of the grant, and
//! issuing the tokens.

use std::time::Duration;

use serde::Serialize;

use crate::domain::account::{Account, Subject, short_id};
use crate::domain::client::{Client, ClientId, GrantType};
use crate::domain::clock::UnixTime;
use crate::domain::grant::{Grant, RefreshState};
use crate::domain::grant_id::GrantId;
use crate::domain::key_thumbprint::KeyThumbprint;
use crate::domain::refresh_token::{Line, LineKey, RefreshToken};
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::keys::dpop::Confirmation;
use crate::keys::signing::MAX_TOKEN_LEN;
use crate::keys::tokens::{ACCESS_TOKEN_TYPE, AccessTokenClaims, Actor};
use crate::oauth::params::Params;
use crate::oauth::requested_scope::{offline_access, part_of_granted};
use crate::ops::audit;
use crate::state::AppState;

use super::TokenError;

/// The token response (RFC 6749 §5.1).
#[derive(Serialize)]
pub(super) struct TokenResponse {
    pub(super) access_token: String,
    pub(super) token_type: &'static str,
    pub(super) expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refresh_token: Option<String>,
    pub(super) scope: String,
    /// The type of the issued token. It is set only in a token exchange (RFC 8693 §2.2.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issued_token_type: Option<&'static str>,
    /// The account for which the tokens are issued.
    #[serde(skip)]
    pub(super) subject: Subject,
}

/// What a user has allowed a client to do.
pub(super) struct Allowed {
    pub(super) grant_id: GrantId,
    pub(super) subject: Subject,
    pub(super) resources: Vec<ResourceUri>,
    pub(super) scope: Scope,
    pub(super) authenticated_at: UnixTime,
    /// The key to which the refresh tokens are bound.
    pub(super) bound_to: Option<KeyThumbprint>,
}

/// Creates a grant with the allowed properties, and a refresh token if the client can have one.
pub(super) fn new_grant(
    state: &AppState,
    client: &Client,
    allowed: Allowed,
) -> Result<(Grant, Option<RefreshToken>), TokenError> {
    let now = state.now();
    let may_stay = client.may_use(GrantType::RefreshToken)
        && (!state.config.grants.offline_access || allowed.scope.covers(&offline_access()));
    let line = Line { key: LineKey::new(state.random_bytes()?), number: 0 };
    let refresh_token = if may_stay {
        Some(RefreshToken::new(&allowed.grant_id, &line, state.random_bytes()?))
    } else {
        None
    };
    let lifetimes = &state.config.lifetimes;
    // Without a refresh token, the grant expires together with its access token.
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
        // The lifetime starts at the latest possible current time. If the clock were behind and the lifetime
        // started at the clock's time, the grant could expire as soon as the clock is corrected.
        expires_at: state.time_bounds().latest.plus(lifetime),
        bound_to: allowed.bound_to,
        refresh: refresh_token.as_ref().map(|token| {
            let current = token.hash();
            RefreshState { current, replaced: None, line }
        }),
        parent: None,
    };
    Ok((grant, refresh_token))
}

/// Writes audit events for the grants that were deleted because their account had too many.
pub(super) fn audit_displaced(displaced: &[Grant], account: &Account) {
    for Grant { id, client_id, .. } in displaced {
        audit::Event::GrantDisplaced { grant_id: id, user: account.into(), client_id }.emit();
    }
}

const TOO_LONG: &str =
    "the access token would have more than 8192 bytes; request fewer resources, or a narrower scope";

/// Signs an access token for a part of the grant.
pub(super) fn issue(
    state: &AppState,
    grant: &Grant,
    account: &Account,
    part: Part,
    refresh_token: Option<&RefreshToken>,
    now: UnixTime,
) -> Result<TokenResponse, TokenError> {
    // An access token must not be valid for longer than its grant.
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
    let access_token = state.keys.sign(ACCESS_TOKEN_TYPE, &claims)?;
    // Checks refuse a longer token, so its client would refresh endlessly.
    if access_token.len() > MAX_TOKEN_LEN {
        return Err(TokenError::InvalidRequest(TOO_LONG));
    }
    Ok(TokenResponse {
        access_token,
        token_type: if claims.cnf.is_some() { "DPoP" } else { "Bearer" },
        expires_in: told_lifetime(exp.since(now)).as_secs(),
        refresh_token: refresh_token.map(|token| token.expose().to_owned()),
        scope: claims.scope.to_string(),
        issued_token_type: None,
        subject: claims.sub,
    })
}

/// The lifetime in the response, which is up to five seconds shorter than the real one. Some clients use a token
/// until the last second, and start a new login if it has just expired. The request takes time, and `exp` is in
/// whole seconds.
fn told_lifetime(lifetime: Duration) -> Duration {
    lifetime.saturating_sub((lifetime / 10).min(Duration::from_secs(5)))
}

/// The part of a grant that one access token covers.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) scope: Scope,
    pub(super) resources: Vec<ResourceUri>,
    /// The key to which the access token is bound, if any.
    pub(super) bound_to: Option<KeyThumbprint>,
}

impl Part {
    /// Returns the same part, bound to the key of the client's proof.
    pub(super) fn bound_to(self, key: Option<KeyThumbprint>) -> Self {
        Self { bound_to: key, ..self }
    }

    /// Reads `scope` and `resource`. Each can narrow what was granted, but not widen it (RFC 6749 §6, RFC 8707
    /// §2.2).
    pub(super) fn read(
        state: &AppState,
        params: &Params,
        granted_scope: &Scope,
        granted: &[ResourceUri],
    ) -> Result<Self, TokenError> {
        let scope = part_of_granted(params.one("scope")?, granted_scope, &state.policy.now())
            .ok_or(TokenError::InvalidScope)?;
        let asked = params.many("resource");
        if asked.is_empty() {
            return Ok(Self { scope, resources: granted.to_vec(), bound_to: None });
        }
        let parse = |text: &&str| {
            state.config.site.protected_hosts.parse(text).map_err(|_| TokenError::InvalidTarget)
        };
        let resources = asked.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        // A path below a granted resource is part of that resource.
        let is_granted = |resource: &ResourceUri| granted.iter().any(|whole| whole.includes(resource));
        if resources.iter().all(is_granted) {
            Ok(Self { scope, resources, bound_to: None })
        } else {
            Err(TokenError::InvalidTarget)
        }
    }
}

/// Returns the account of a grant's subject, if it still exists and is not disabled.
pub(super) async fn account_of(state: &AppState, subject: &Subject) -> Result<Account, TokenError> {
    let account = state.store.account(subject).await?;
    account
        .filter(|account| !account.disabled)
        .ok_or(TokenError::InvalidGrant("the account has been disabled or removed"))
}

/// Checks that `owner` is this client. If not, the error is the same as for an unknown code.
pub(super) fn owned_by(client: &Client, owner: &ClientId, what: &'static str) -> Result<(), TokenError> {
    if client.id == *owner { Ok(()) } else { Err(TokenError::InvalidGrant(what)) }
}
