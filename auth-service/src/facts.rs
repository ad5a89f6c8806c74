//! Who a token is: its verified facts. What they allow is policy's to say, on every request anew.

mod assertions;
mod cache;

use crate::domain::account::{Group, Subject, Username};
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::grant::GrantId;
use crate::domain::issuer::Issuer;
use crate::domain::key_thumbprint::KeyThumbprint;
use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::keys::signing::KeyRing;
use crate::keys::tokens::{ACCESS_TOKEN_TYPE, AccessTokenClaims};
use crate::store::{Store, StoreError};

pub use assertions::Assertions;
pub use cache::{CacheTerms, FactsCache, IDENTITY, Known, Sources};

/// What is known of the bearer of a valid access token.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The person.
    pub subject: Subject,
    /// The person's login name.
    pub username: Username,
    /// The person's address.
    pub email: Option<String>,
    /// The person's groups, as they are now.
    pub groups: Vec<Group>,
    /// The client that holds the token.
    pub client_id: ClientId,
    /// The grant that the token lives on.
    pub grant_id: GrantId,
    /// What the token allows.
    pub scope: Scope,
    /// What the token is for.
    pub resources: Vec<ResourceUri>,
    /// The key that must come with it, if it is bound to one.
    pub bound_to: Option<KeyThumbprint>,
    /// When the token ends.
    pub expires_at: UnixTime,
}

/// Why there are no facts for a token.
#[derive(Debug, thiserror::Error)]
pub enum NoFacts {
    /// Not a token of ours: wrong type, key, signature, issuer or claims.
    #[error("the access token is not valid")]
    Invalid,
    /// Its time is over.
    #[error("the access token has expired")]
    Expired,
    /// Its grant was revoked or has ended, or the person's account is disabled or gone.
    #[error("the access token has been revoked")]
    Revoked,
    /// It cannot be known now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How far the clocks of replicas may lie apart: a token from the future by more was not issued by us.
const LEEWAY_SECONDS: u64 = 5;

/// The claims of a token of ours, or that it is none. Nothing but the token and the keys decides this.
fn claims_of(token: &str, keys: &KeyRing) -> Result<AccessTokenClaims, NoFacts> {
    keys.verify(ACCESS_TOKEN_TYPE, token).map_err(|_| NoFacts::Invalid)
}

/// Finds out what became of what the claims say. Also gives the grant on whose behalf the token's own grant is.
async fn of_claims(
    claims: AccessTokenClaims,
    issuer: &Issuer,
    store: &dyn Store,
    now: UnixTime,
) -> Result<(Facts, Option<GrantId>), NoFacts> {
    if claims.iss != issuer.as_str() || claims.iat.0 > now.0.saturating_add(LEEWAY_SECONDS) {
        return Err(NoFacts::Invalid);
    }
    if claims.exp <= now {
        return Err(NoFacts::Expired);
    }
    let held = store.held_grant(&claims.gid, &claims.client_id, &claims.sub, now).await?;
    let (grant, account) = held.ok_or(NoFacts::Revoked)?;
    if account.disabled {
        return Err(NoFacts::Revoked);
    }
    let facts = Facts {
        subject: claims.sub,
        username: account.username,
        email: account.email,
        groups: account.groups,
        client_id: claims.client_id,
        grant_id: claims.gid,
        scope: claims.scope,
        resources: claims.aud,
        bound_to: claims.cnf.map(|cnf| cnf.jkt),
        // Nothing of a grant outlives it.
        expires_at: claims.exp.min(grant.expires_at),
    };
    Ok((facts, grant.parent))
}
