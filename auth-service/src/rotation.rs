//! Keeps the signing keys of all replicas the same and in good time: what is due is done by whichever replica sees it
//! first, and the others take it over from the store.

use std::time::Duration;

use crate::domain::clock::UnixTime;
use crate::keys::seal::CryptoFailure;
use crate::keys::set::{KeySet, RotationTerms, Unchanged};
use crate::store::{Store, StoreError};

/// How often a replica looks at the stored keys. A key that is revoked verifies nothing after that anywhere, and a new
/// one is known everywhere: so it must be published for longer than this before it signs.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Of replicas that write at once one succeeds, and what the others wanted is done then.
const TRIES: usize = 16;

/// The keys cannot be brought up to date. Those known so far stay in use.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Cryptography failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
    /// Others kept changing them.
    #[error("the signing keys were changed by others again and again")]
    Busy,
}

/// The keys as they should be now, made or changed in the store where that is due.
pub async fn up_to_date(
    store: &dyn Store,
    terms: &RotationTerms,
    now: UnixTime,
) -> Result<KeySet, RotationError> {
    for _ in 0..TRIES {
        let found = store.signing_keys().await?;
        let changed = match &found {
            None => Some(KeySet::first(terms, now)?),
            Some(set) => set.settled(terms, now)?,
        };
        match (changed, found) {
            (None, Some(set)) => return Ok(set),
            (None, None) => {}
            (Some(changed), found) => {
                let seen = found.map(|set| set.revision());
                if store.replace_signing_keys(seen, &changed).await? {
                    report(&changed, now);
                    return Ok(changed);
                }
            }
        }
    }
    Err(RotationError::Busy)
}

/// The keys as they are stored; the first one is made. Nothing that is there is changed: not when the clock is in doubt, and
/// not by who only asks.
pub async fn known(store: &dyn Store, terms: &RotationTerms, now: UnixTime) -> Result<KeySet, RotationError> {
    match store.signing_keys().await? {
        Some(set) => Ok(set),
        None => up_to_date(store, terms, now).await,
    }
}

/// Changes the stored set, on an operator's word.
pub async fn change(
    store: &dyn Store,
    terms: &RotationTerms,
    now: UnixTime,
    step: impl Fn(&KeySet) -> Result<KeySet, Unchanged>,
) -> Result<Result<KeySet, Unchanged>, RotationError> {
    for _ in 0..TRIES {
        let found = known(store, terms, now).await?;
        let changed = match step(&found) {
            Ok(changed) => changed,
            Err(unchanged) => return Ok(Err(unchanged)),
        };
        if store.replace_signing_keys(Some(found.revision()), &changed).await? {
            return Ok(Ok(changed));
        }
    }
    Err(RotationError::Busy)
}

fn report(set: &KeySet, now: UnixTime) {
    let kid = |key: &crate::keys::stored::StoredSigningKey| key.kid.clone();
    let current = set.current(now).map(kid).unwrap_or_default();
    let newest = set.keys().last().map(kid).unwrap_or_default();
    tracing::info!(current, newest, keys = set.keys().len(), "the signing keys were changed");
}
