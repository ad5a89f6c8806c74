//! Token exchange (RFC 8693): a service that was called with a token calls another service for the same user.
//!
//! The operator must enable it, and only clients that the operator has added can use it. The resources that the
//! client *serves* determine which tokens it can exchange, and its own *resources* determine for which resources
//! it gets new tokens. A new token names the user (`sub`) and the client that acts (`act`). Its scope is not wider
//! than the old token's scope. It expires and is revoked together with the old token.

use crate::domain::client::{Client, GrantType};
use crate::domain::grant::Grant;
use crate::domain::grant_id::GrantId;
use crate::domain::scope::Scope;
use crate::oauth::live_token::{self, LiveToken};
use crate::oauth::params::Params;
use crate::oauth::proof::ProofOfPossession;
use crate::ops::audit;
use crate::state::AppState;
use crate::store::DirectGrant;

use super::client_credentials::resources;
use super::{Part, TokenError, TokenResponse, issue};

/// The token type identifier of an access token (RFC 8693 §3).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

pub(super) async fn exchange(
    state: &AppState,
    client: &Client,
    params: &Params,
    proof: &ProofOfPossession,
) -> Result<TokenResponse, TokenError> {
    let terms = client.operator.as_ref().filter(|_| client.may_use(GrantType::TokenExchange));
    let terms = terms.filter(|_| !client.is_public()).ok_or(TokenError::UnauthorizedClient)?;
    if params.one("subject_token_type")? != Some(ACCESS_TOKEN) {
        return Err(TokenError::InvalidRequest("subject_token_type must be the type of an access token"));
    }
    if !matches!(params.one("requested_token_type")?, None | Some(ACCESS_TOKEN)) {
        return Err(TokenError::InvalidRequest("only access tokens are issued"));
    }
    if params.one("actor_token")?.is_some() || params.one("audience")?.is_some() {
        return Err(TokenError::InvalidRequest(
            "actor_token and audience are not supported: the client is the actor, and resource names the target",
        ));
    }
    let text = params.one("subject_token")?.ok_or(TokenError::Missing("subject_token"))?;
    let LiveToken { claims, account } =
        live_token::read(text, state).await?.ok_or(TokenError::InvalidGrant(NOT_THEIRS))?;
    let own = claims.aud.iter().any(|audience| terms.serves.iter().any(|served| served.includes(audience)));
    if !own {
        return Err(TokenError::InvalidGrant(NOT_THEIRS));
    }
    // The result of an exchange cannot be exchanged again, so that a token never names more than one acting
    // client.
    if claims.act.is_some() {
        return Err(TokenError::InvalidGrant("the subject_token is the result of an earlier exchange"));
    }
    let part = Part {
        scope: scope(&claims.scope, client, params)?,
        resources: resources(state, terms, &params.many("resource"))?,
        bound_to: proof.key(),
    };
    let now = state.now();
    let grant = Grant {
        id: GrantId::new(state.random_bytes()?),
        subject: claims.sub,
        client_id: client.id.clone(),
        registration: client.registration.clone(),
        resources: part.resources.clone(),
        scope: part.scope.clone(),
        authenticated_at: now,
        created_at: now,
        expires_at: now.plus(state.config.lifetimes.access_token).min(claims.exp),
        bound_to: None,
        refresh: None,
        parent: Some(claims.gid),
    };
    state.account_rate.admit_token(&grant.subject).map_err(TokenError::AccountTooFast)?;
    let mut response = issue(state, &grant, &account, part, None, now)?;
    proof.spend(state, &grant.subject, client).await?;
    response.issued_token_type = Some(ACCESS_TOKEN);
    match state.store.add_grant(&grant, &state.client_use(client.clone(), &grant.subject)).await? {
        DirectGrant::Created => {}
        DirectGrant::ClientGone => {
            return Err(TokenError::InvalidGrant("the client has been removed or disabled"));
        }
    }
    let (grant_id, user, client_id) = (&grant.id, (&account).into(), &grant.client_id);
    audit::Event::TokenExchanged { grant_id, user, client_id }.emit();
    Ok(response)
}

const NOT_THEIRS: &str =
    "the subject_token is not a valid access token for a resource that the client serves";

/// The requested scope. It must be within the scope of the subject token and within the operator's limit for
/// this client.
fn scope(held: &Scope, client: &Client, params: &Params) -> Result<Scope, TokenError> {
    let most = match client.scope_limit() {
        Some(limit) => held.meet(limit),
        None => held.clone(),
    };
    let asked = match params.one("scope")? {
        Some(text) => text.parse().map_err(|_| TokenError::InvalidScope)?,
        None => most.clone(),
    };
    if !asked.is_empty() && most.covers(&asked) { Ok(asked) } else { Err(TokenError::InvalidScope) }
}
