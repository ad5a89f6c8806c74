//! Which scope a request gets (RFC 6749 §3.3). Pure.
//!
//! What a client says of itself, when it registers or in its metadata document, limits nothing. SDKs copy the scope of the
//! first challenge there and ask for more once a tool needs more, and the person decides about that. It is what the client
//! means when a request names no scope. Only what the operator entered for a client is a limit, and a request beyond it is
//! refused: a client whose request is cut down asks again and again, and never learns why.
//!
//! Names that do not exist here are ignored, since hosted clients ask for names of their own making, and libraries repeat
//! in every later request what they asked for in the first. The answer says what was granted.

use crate::domain::client::{Client, GrantType};
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::policy::Policy;

/// Why a request for a scope is refused (`invalid_scope`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeRefused {
    /// RFC 6749 §3.3.
    #[error("the scope is malformed")]
    Malformed,
    /// More than the operator entered for the client.
    #[error("the operator of this server does not let this client ask for the scope {0}")]
    BeyondClient(Scope),
    /// The operator's limit for the client names nothing that exists.
    #[error("nothing is left of the scope that the operator of this server lets this client ask for")]
    Nothing,
}

/// The scope that makes a refresh token, when the operator ties them together (`OpenID` Connect Core §11).
pub(super) fn offline_access() -> Scope {
    "offline_access".parse().unwrap_or_default()
}

/// What `client` gets at these resources, if the person allows it, when it asks for `text`. `with_offline_access` says
/// whether `offline_access` means something here.
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

/// A grant of nothing opens nothing, and its person was asked about nothing.
pub(super) fn something(scope: Scope, policy: &Policy) -> Result<Scope, ScopeRefused> {
    let nothing = scope.is_empty() && !policy.catalogue().is_empty();
    if nothing { Err(ScopeRefused::Nothing) } else { Ok(scope) }
}

/// All of `asked`, or nothing.
pub(super) fn within_limit(asked: Scope, client: &Client) -> Result<Scope, ScopeRefused> {
    let beyond = client.scope_limit().map(|limit| asked.beyond(limit)).unwrap_or_default();
    if beyond.is_empty() { Ok(asked) } else { Err(ScopeRefused::BeyondClient(beyond)) }
}

/// All that a client may ever be granted.
pub(super) fn largest_scope(client: &Client, policy: &Policy) -> Scope {
    let limit = client.scope_limit().map(|limit| limit.within(policy.catalogue()));
    limit.unwrap_or_else(|| policy.catalogue().clone())
}

/// What a client gets that asks for nothing: what it `registered`, and that without which nothing can be done at these
/// resources. Not more: a client that wants to call the dangerous tools has to ask for that. Everything that it may have
/// when there is nothing of the kind.
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

/// The part of `granted` that a token request asks for: it may narrow what was granted and never widen it (RFC 6749 §6).
pub(super) fn part_of_granted(text: Option<&str>, granted: &Scope, policy: &Policy) -> Option<Scope> {
    let asked: Scope = text.unwrap_or_default().parse().ok()?;
    let known = asked.within(&policy.catalogue().union(granted));
    if known.is_empty() {
        return Some(granted.clone());
    }
    granted.covers(&known).then_some(known)
}
