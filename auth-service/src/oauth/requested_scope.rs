//! Determines the scope of a request (RFC 6749 §3.3), without I/O.
//!
//! The scope in a client's registration or metadata document is not a limit, but the default for requests without
//! a scope. SDKs copy it from the first challenge. If a tool needs more scopes, they request them, and the user
//! decides. Only the scope that the operator has set for a client is a limit. A request beyond the limit is
//! refused instead of reduced, because a client that receives fewer scopes than it requested would repeat the
//! request endlessly.
//!
//! Unknown scope names are ignored, because hosted clients also request scopes of other servers, and some
//! libraries send the same scope in every request. The response contains the granted scope.

use crate::domain::client::{Client, GrantType};
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::policy::Policy;

/// Why the scope of a request is refused (`invalid_scope`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeRefused {
    /// The scope does not follow the grammar of RFC 6749 §3.3.
    #[error("the scope is malformed")]
    Malformed,
    /// The operator does not allow the client this part of the scope.
    #[error("the operator of this server does not allow this client to request the scope {0}")]
    BeyondClient(Scope),
    /// The operator's limit for the client contains no scope that exists.
    #[error("the operator of this server does not allow this client any of the existing scopes")]
    Nothing,
}

/// The scope that a client needs to receive a refresh token, if the operator has configured this (`OpenID` Connect
/// Core §11).
pub(super) fn offline_access() -> Scope {
    "offline_access".parse().unwrap_or_default()
}

/// Returns the scope for `client` at these resources, which the user can allow. `text` is the `scope` parameter of
/// the request. `with_offline_access` states whether `offline_access` has an effect.
pub(super) fn requested_scope(
    text: Option<&str>,
    client: &Client,
    resources: &[ResourceUri],
    policy: &Policy,
    with_offline_access: bool,
) -> Result<Scope, ScopeRefused> {
    let asked: Scope = text.unwrap_or_default().parse().map_err(|_| ScopeRefused::Malformed)?;
    let exists = policy.catalogue().union(&offline_access());
    let silent = asked.within(&exists).is_empty();
    let meant = if silent { client.registered_scope().cloned().unwrap_or_default() } else { asked };
    let named = meant.within(policy.catalogue());
    let scope = if silent || named.is_empty() {
        usual_scope(&named, client, resources, policy)
    } else {
        within_limit(named, client)?
    };
    let scope = something(scope, policy)?;
    let stays =
        with_offline_access && client.may_use(GrantType::RefreshToken) && meant.covers(&offline_access());
    Ok(if stays { scope.union(&offline_access()) } else { scope })
}

/// Refuses an empty scope if there are any scopes, because a grant with an empty scope would allow nothing.
pub(super) fn something(scope: Scope, policy: &Policy) -> Result<Scope, ScopeRefused> {
    let nothing = scope.is_empty() && !policy.catalogue().is_empty();
    if nothing { Err(ScopeRefused::Nothing) } else { Ok(scope) }
}

/// Returns the whole scope, or an error if it exceeds the operator's limit for the client.
pub(super) fn within_limit(asked: Scope, client: &Client) -> Result<Scope, ScopeRefused> {
    let beyond = client.scope_limit().map(|limit| asked.beyond(limit)).unwrap_or_default();
    if beyond.is_empty() { Ok(asked) } else { Err(ScopeRefused::BeyondClient(beyond)) }
}

/// The largest scope that can be granted to a client.
pub(super) fn largest_scope(client: &Client, policy: &Policy) -> Scope {
    let limit = client.scope_limit().map(|limit| limit.within(policy.catalogue()));
    limit.unwrap_or_else(|| policy.catalogue().clone())
}

/// The scope for a client that requests none: the `registered` scope, and the scopes that these resources require.
/// It contains nothing else, so a client must request the scopes of dangerous tools explicitly. If nothing is
/// registered or required, it is the largest scope.
pub(super) fn usual_scope(
    registered: &Scope,
    client: &Client,
    resources: &[ResourceUri],
    policy: &Policy,
) -> Scope {
    let largest = largest_scope(client, policy);
    let usual = resources
        .iter()
        .fold(registered.clone(), |all, resource| all.union(policy.required_scope(resource)))
        .within(&largest);
    if usual.is_empty() { largest } else { usual.minimal() }
}

/// The part of `granted` that a token request selects. A request can narrow the granted scope, but not widen it
/// (RFC 6749 §6).
pub(super) fn part_of_granted(text: Option<&str>, granted: &Scope, policy: &Policy) -> Option<Scope> {
    let asked: Scope = text.unwrap_or_default().parse().ok()?;
    let known = asked.within(&policy.catalogue().union(granted));
    if known.is_empty() {
        return Some(granted.clone());
    }
    granted.covers(&known).then_some(known)
}
