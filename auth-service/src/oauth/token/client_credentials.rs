//! The client credentials grant (RFC 6749 §4.4; MCP extension "OAuth client credentials"): a client gets a
//! token for itself.
//!
//! Only a client that the operator has added can use it, for the resources that the operator has assigned to it.
//! The client is its own subject (RFC 9068 §2.2), with an account to which policy rules can refer. The token
//! belongs to a grant, so that it can be revoked. There is no refresh token, because the client can request a new
//! token.

use crate::domain::client::{Client, GrantType, OperatorTerms};
use crate::domain::grant::Grant;
use crate::domain::grant_id::GrantId;
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::oauth::params::Params;
use crate::oauth::proof::ProofOfPossession;
use crate::oauth::requested_scope::{largest_scope, something, usual_scope};
use crate::ops::audit;
use crate::state::AppState;
use crate::store::DirectGrant;

use super::{Part, TokenError, TokenResponse, account_of, issue};

pub(super) async fn grant_to_client(
    state: &AppState,
    client: &Client,
    params: &Params,
    proof: &ProofOfPossession,
) -> Result<TokenResponse, TokenError> {
    // A public client must not use this grant type, because it does not authenticate (RFC 6749 §4.4.2).
    let terms = client.operator.as_ref().filter(|_| client.may_use(GrantType::ClientCredentials));
    let terms = terms.filter(|_| !client.is_public()).ok_or(TokenError::UnauthorizedClient)?;
    let resources = resources(state, terms, &params.many("resource"))?;
    let part = Part { scope: scope(state, client, &resources, params)?, resources, bound_to: proof.key() };
    let subject = client.id.subject();
    let account = account_of(state, &subject).await?;
    state.account_rate.admit_token(&subject).map_err(TokenError::AccountTooFast)?;
    proof.spend(state, &subject, client).await?;
    let now = state.now();
    let grant = Grant {
        id: GrantId::new(state.random_bytes()?),
        subject,
        client_id: client.id.clone(),
        registration: client.registration.clone(),
        resources: part.resources.clone(),
        scope: part.scope.clone(),
        authenticated_at: now,
        created_at: now,
        expires_at: now.plus(state.config.lifetimes.access_token),
        bound_to: None,
        refresh: None,
        parent: None,
    };
    let response = issue(state, &grant, &account, part, None, now)?;
    match state.store.add_grant(&grant, &state.client_use(client.clone(), &grant.subject)).await? {
        DirectGrant::Created => {}
        DirectGrant::ClientGone => {
            return Err(TokenError::InvalidGrant("the client has been removed or disabled"));
        }
    }
    audit::Event::ClientCredentialsAccepted { grant_id: &grant.id, client_id: &client.id }.emit();
    Ok(response)
}

/// The requested scope, which must be within the operator's limit, or by default the scope that the resources
/// require. Unknown names are refused: the request comes from one of the operator's programs, so they are a
/// mistake.
fn scope(
    state: &AppState,
    client: &Client,
    resources: &[ResourceUri],
    params: &Params,
) -> Result<Scope, TokenError> {
    let policy = state.policy.now();
    let Some(text) = params.one("scope")? else {
        return Ok(something(usual_scope(&Scope::default(), client, resources, &policy), &policy)?);
    };
    let asked: Scope = text.parse().map_err(|_| TokenError::InvalidScope)?;
    let allowed = largest_scope(client, &policy).covers(&asked);
    if !asked.is_empty() && allowed { Ok(asked) } else { Err(TokenError::InvalidScope) }
}

/// The requested resources, which must be within those that the operator has assigned. The default is the first
/// assigned resource.
pub(super) fn resources(
    state: &AppState,
    terms: &OperatorTerms,
    asked: &[&str],
) -> Result<Vec<ResourceUri>, TokenError> {
    let first = terms.resources.first().map(ResourceUri::as_str);
    let asked: Vec<&str> = if asked.is_empty() { first.into_iter().collect() } else { asked.to_vec() };
    let resources = asked
        .into_iter()
        .map(|text| state.config.site.protected_hosts.parse(text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| TokenError::InvalidTarget)?;
    let given = |resource: &ResourceUri| terms.resources.iter().any(|own| own.includes(resource));
    if !resources.is_empty() && resources.iter().all(given) {
        Ok(resources)
    } else {
        Err(TokenError::InvalidTarget)
    }
}
