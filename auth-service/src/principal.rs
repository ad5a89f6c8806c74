//! The principal: the verified identity and permissions of the caller that presents an access token. For each
//! request, the policy decides whether the principal is allowed to make it.

mod assertions;
mod cache;

use crate::domain::account::{Group, Subject, Username};
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::clock_watch::TOLERANCE;
use crate::domain::grant_id::GrantId;
use crate::domain::issuer::Issuer;
use crate::domain::key_thumbprint::KeyThumbprint;
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::keys::signing::KeyRing;
use crate::keys::tokens::{ACCESS_TOKEN_TYPE, AccessTokenClaims};
use crate::store::{GrantStore, StoreError};

pub use assertions::Assertions;
pub use cache::{CacheTerms, IDENTITY, Known, PrincipalCache, Sources};

/// The caller that presents a valid access token, with all properties that rules can refer to.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The subject of the user, or of a client that acts for itself.
    pub subject: Subject,
    /// The login name of the user.
    pub username: Username,
    /// The email address of the user, if it is known.
    pub email: Option<String>,
    /// The current groups of the user.
    pub groups: Vec<Group>,
    /// The client to which the token was issued.
    pub client_id: ClientId,
    /// The grant from which the token was issued.
    pub grant_id: GrantId,
    /// The scope of the token.
    pub scope: Scope,
    /// The resources for which the token is valid.
    pub resources: Vec<ResourceUri>,
    /// The key to which the token is bound (DPoP). The request must prove possession of it.
    pub bound_to: Option<KeyThumbprint>,
    /// The time at which the token or its grant expires.
    pub expires_at: UnixTime,
}

/// The reason why a token is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum RejectedToken {
    /// The token was not issued by this server: its type, key, signature, issuer or claims are wrong.
    #[error("the access token is not valid")]
    Invalid,
    /// The token's time of issue is further in the future than the clocks of replicas can differ.
    #[error("the access token was issued in the future")]
    Early {
        /// The time of issue, from the claim `iat`.
        at: UnixTime,
    },
    /// The token has expired.
    #[error("the access token has expired")]
    Expired,
    /// The grant was revoked or has expired, or the account or client is disabled or does not exist. If the
    /// account or client is enabled again, the token is valid again, so messages must not describe this as
    /// permanent.
    #[error("the access token was revoked, or its account or client is disabled")]
    Revoked,
    /// The clock is in doubt, so it is unknown whether the token and its refresh token have expired.
    #[error("the clock is in doubt, so it is unknown whether the access token has expired")]
    Undatable,
    /// The store failed, so it is unknown whether the token is valid.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Verifies the token's type and signature, and returns its claims. This does not query the store.
fn claims_of(token: &str, keys: &KeyRing) -> Result<AccessTokenClaims, RejectedToken> {
    keys.verify(ACCESS_TOKEN_TYPE, token).map_err(|_| RejectedToken::Invalid)
}

/// Checks the claims against the store. Also returns the parent of the token's grant, if there is one. A grant
/// becomes invalid together with its parent.
async fn of_claims(
    claims: AccessTokenClaims,
    issuer: &Issuer,
    store: &dyn GrantStore,
    now: UnixTime,
) -> Result<(Principal, Option<GrantId>), RejectedToken> {
    if claims.iss != issuer.as_str() {
        return Err(RejectedToken::Invalid);
    }
    // The clocks of replicas can differ by up to this tolerance, so each replica must accept tokens that others
    // have issued. A token with a later time of issue is valid for longer by at most the tolerance, like one
    // issued before the clock was set back. Its signature has been verified, and revocation does not depend on the
    // time.
    if claims.iat.since(now) > TOLERANCE {
        return Err(RejectedToken::Early { at: claims.iat });
    }
    if claims.exp <= now {
        return Err(RejectedToken::Expired);
    }
    let held = store.held_grant(&claims.gid, &claims.client_id, &claims.sub, now).await?;
    let (grant, account) = held.ok_or(RejectedToken::Revoked)?;
    if account.disabled {
        return Err(RejectedToken::Revoked);
    }
    let principal = Principal {
        subject: claims.sub,
        username: account.username,
        email: account.email,
        groups: account.groups,
        client_id: claims.client_id,
        grant_id: claims.gid,
        scope: claims.scope,
        resources: claims.aud,
        bound_to: claims.cnf.map(|cnf| cnf.jkt),
        // A token is not valid for longer than its grant.
        expires_at: claims.exp.min(grant.expires_at),
    };
    Ok((principal, grant.parent))
}
