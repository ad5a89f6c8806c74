//! Keeps the signing keys of all replicas identical, and rotates them on schedule. The first replica that notices
//! a due change makes it, and the others read the result from the store.

mod keys_read;

use std::time::Duration;

use crate::domain::clock::UnixTime;
use crate::keys::seal::CryptoFailure;
use crate::keys::set::{KeySet, RotationTerms, Unchanged};
use crate::store::{KeysMark, Replacement, SigningKeyStore, StoreError};

pub use keys_read::{KeysRead, Reading};

/// How often a replica reads the stored keys. After this interval, every replica has noticed a revoked or a new
/// key. Therefore, a new key must be published for longer than this before it signs.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Maximum number of attempts to make a change. If replicas write at the same time, only one succeeds, and its
/// change is usually the one that the others wanted to make.
const TRIES: usize = 16;

/// Why the signing keys cannot be updated. The current ones stay in use.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The store failed or is unavailable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cryptography library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
    /// Another replica changed the keys during each attempt.
    #[error("the signing keys were changed by other processes during every attempt")]
    Busy,
}

/// A scheduled change to the signing keys that this replica has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Identifier of the key that signs now.
    pub current: String,
    /// Identifier of the newest key. It differs from `current` while the newest key is only published.
    pub newest: String,
    /// Number of keys that are published.
    pub keys: usize,
}

/// Returns the signing keys as they should be now. If a change is due, it is first written to the store, and then
/// passed to `rotated`.
pub async fn up_to_date_telling(
    store: &dyn SigningKeyStore,
    terms: &RotationTerms,
    now: UnixTime,
    rotated: impl FnOnce(Rotated),
) -> Result<KeySet, RotationError> {
    for _ in 0..TRIES {
        // The record must be read before the keys. Otherwise, keys that another process replaces between the two
        // reads would look older than the record, as if they had been lost.
        let mark = store.keys_mark().await?;
        let found = store.signing_keys().await?;
        let are_lost = are_lost(mark, found.as_ref());
        let changed = match &found {
            Some(set) if !are_lost => set.settled(terms, now)?,
            _ => Some(KeySet::after(mark.unwrap_or_default().revision, terms, now)?),
        };
        match (changed, found) {
            (None, Some(set)) => {
                note_keys(store, mark, set.revision(), None).await;
                return Ok(set);
            }
            (None, None) => {}
            (Some(changed), found) => {
                let seen = found.map(|set| set.revision());
                match store.replace_signing_keys(seen, &changed).await? {
                    Replacement::Replaced => {}
                    Replacement::Outdated => continue,
                }
                note_keys(store, mark, changed.revision(), are_lost.then_some(now)).await;
                rotated(report(&changed, now));
                return Ok(changed);
            }
        }
    }
    Err(RotationError::Busy)
}

/// Whether the store has lost its keys, according to the record and the keys that it contains now. The keys that a
/// process has in memory are not written back, because one of them might have been revoked since they were read.
/// With new keys, all access tokens become invalid, but clients get new ones with their refresh tokens.
fn are_lost(mark: Option<KeysMark>, found: Option<&KeySet>) -> bool {
    mark.is_some_and(|mark| found.is_none_or(|set| set.revision() < mark.revision))
}

/// Records in the store the revision of its keys, and the time at which a loss was noticed.
async fn note_keys(
    store: &dyn SigningKeyStore,
    before: Option<KeysMark>,
    revision: u64,
    missed_at: Option<UnixTime>,
) {
    if missed_at.is_some() {
        tracing::error!("new signing keys were created, because the store had lost the previous ones");
    }
    let known = before.unwrap_or_default();
    let mark = KeysMark { missed_at: missed_at.or(known.missed_at), revision: known.revision.max(revision) };
    if before == Some(mark) {
        return;
    }
    // The keys are stored and in use, so a failure to record them is not an error.
    if let Err(error) = store.set_keys_mark(mark).await {
        tracing::warn!(%error, "the revision of the signing keys could not be recorded in the store");
    }
}

/// If the store has an older revision of the keys than this one, or none, records that it had this one. A process
/// calls this with the revision that it uses, because the record can be lost together with the keys.
///
/// # Errors
/// Fails if the store cannot be read or written.
pub async fn note_in_use(store: &dyn SigningKeyStore, revision: u64) -> Result<(), StoreError> {
    if store.signing_keys().await?.is_some_and(|set| set.revision() >= revision) {
        return Ok(());
    }
    let mark = store.keys_mark().await?.unwrap_or_default();
    if mark.revision >= revision {
        return Ok(());
    }
    store.set_keys_mark(KeysMark { revision, ..mark }).await
}

/// Like [`up_to_date_telling`], but does not report changes.
pub async fn up_to_date(
    store: &dyn SigningKeyStore,
    terms: &RotationTerms,
    now: UnixTime,
) -> Result<KeySet, RotationError> {
    up_to_date_telling(store, terms, now, drop).await
}

/// Returns the stored signing keys without making a due change. Creates new keys only if there are none, or if an
/// old row has been restored. This function is used when the clock is in doubt, and by commands that only read.
pub async fn known(
    store: &dyn SigningKeyStore,
    terms: &RotationTerms,
    now: UnixTime,
) -> Result<KeySet, RotationError> {
    let mark = store.keys_mark().await?;
    match store.signing_keys().await? {
        Some(set) if !are_lost(mark, Some(&set)) => Ok(set),
        _ => up_to_date(store, terms, now).await,
    }
}

/// Applies a change that an operator has requested to the stored keys.
pub async fn change(
    store: &dyn SigningKeyStore,
    terms: &RotationTerms,
    now: UnixTime,
    step: impl Fn(&KeySet) -> Result<KeySet, Unchanged>,
) -> Result<Result<KeySet, Unchanged>, RotationError> {
    for _ in 0..TRIES {
        let found = known(store, terms, now).await?;
        let mark = store.keys_mark().await?;
        let changed = match step(&found) {
            Ok(changed) => changed,
            Err(unchanged) => return Ok(Err(unchanged)),
        };
        match store.replace_signing_keys(Some(found.revision()), &changed).await? {
            Replacement::Replaced => {
                note_keys(store, mark, changed.revision(), None).await;
                return Ok(Ok(changed));
            }
            Replacement::Outdated => {}
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
