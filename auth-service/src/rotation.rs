//! Keeps the signing keys of all replicas the same and rotates them on time. The first replica that notices
//! that a change is due makes it, and the others read it from the store.

mod keys_read;

use std::time::Duration;

use crate::domain::clock::UnixTime;
use crate::keys::seal::CryptoFailure;
use crate::keys::set::{KeySet, RotationTerms, Unchanged};
use crate::store::{KeysMark, Store, StoreError};

pub use keys_read::{KeysRead, Reading};

/// How often a replica reads the stored keys. After this time, no replica accepts a revoked key, and all know
/// a new one. A new key must therefore be published for longer than this before it signs.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often a change is tried. If replicas write at the same time, only one succeeds, and its change is
/// usually what the others wanted.
const TRIES: usize = 16;

/// The signing keys cannot be updated. The present ones stay in use.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The store failed or is unavailable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cryptography library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
    /// Other replicas changed the keys during every attempt.
    #[error("the signing keys were changed by others again and again")]
    Busy,
}

/// A change of the signing keys that was due, and that this replica has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Identifier of the key that signs now.
    pub current: String,
    /// Identifier of the newest key. It differs from `current` while the newest key is only published.
    pub newest: String,
    /// Number of keys that are published.
    pub keys: usize,
}

/// Returns the signing keys as they should be now. If a change is due, it is made in the store first, and
/// `rotated` gets it.
pub async fn up_to_date_telling(
    store: &dyn Store,
    terms: &RotationTerms,
    now: UnixTime,
    rotated: impl FnOnce(Rotated),
) -> Result<KeySet, RotationError> {
    for _ in 0..TRIES {
        let found = store.signing_keys().await?;
        // The record is read before keys are made, because it is there as soon as another process has made the
        // first ones.
        let mark = store.keys_mark().await?;
        let changed = match &found {
            None => Some(KeySet::first(terms, now)?),
            Some(set) => set.settled(terms, now)?,
        };
        match (changed, found) {
            (None, Some(set)) => {
                note_keys(store, mark, None).await;
                return Ok(set);
            }
            (None, None) => {}
            (Some(changed), found) => {
                let seen = found.map(|set| set.revision());
                if store.replace_signing_keys(seen, &changed).await? {
                    let were_missing = seen.is_none() && mark.is_some();
                    note_keys(store, mark, were_missing.then_some(now)).await;
                    rotated(report(&changed, now));
                    return Ok(changed);
                }
            }
        }
    }
    Err(RotationError::Busy)
}

/// Records in the store that it has keys, and when they were missing.
async fn note_keys(store: &dyn Store, known: Option<KeysMark>, missed_at: Option<UnixTime>) {
    if missed_at.is_some() {
        tracing::error!("new signing keys were made, because the store had lost those that it had");
    } else if known.is_some() {
        return;
    }
    // The keys are made and count, so this is no reason to refuse anything.
    if let Err(error) = store.set_keys_mark(KeysMark { missed_at }).await {
        tracing::warn!(%error, "it could not be recorded that the store has signing keys");
    }
}

/// Like [`up_to_date_telling`], for callers that do not have to know whether something was changed.
pub async fn up_to_date(
    store: &dyn Store,
    terms: &RotationTerms,
    now: UnixTime,
) -> Result<KeySet, RotationError> {
    up_to_date_telling(store, terms, now, drop).await
}

/// Returns the signing keys as they are stored, and only creates the first one if there is none. It is used
/// when the clock is in doubt, and by commands that only read.
pub async fn known(store: &dyn Store, terms: &RotationTerms, now: UnixTime) -> Result<KeySet, RotationError> {
    match store.signing_keys().await? {
        Some(set) => Ok(set),
        None => up_to_date(store, terms, now).await,
    }
}

/// Applies a change that an operator requested to the stored keys.
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

fn report(set: &KeySet, now: UnixTime) -> Rotated {
    let kid = |key: &crate::keys::stored::StoredSigningKey| key.kid.clone();
    let current = set.current(now).map(kid).unwrap_or_default();
    let newest = set.keys().last().map(kid).unwrap_or_default();
    tracing::info!(current, newest, keys = set.keys().len(), "the signing keys were changed");
    Rotated { current, newest, keys: set.keys().len() }
}
