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
        // The record is read before the keys. So keys that are older than it says are an old row, and not those
        // that another process was just replacing.
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
                if store.replace_signing_keys(seen, &changed).await? {
                    note_keys(store, mark, changed.revision(), are_lost.then_some(now)).await;
                    rotated(report(&changed, now));
                    return Ok(changed);
                }
            }
        }
    }
    Err(RotationError::Busy)
}

/// Whether the store has lost the keys that it had, if it has these now. The keys that a process has in memory
/// are not put back in their place: one of them might have been revoked since they were read, and the record of
/// that is lost. With new keys, all access tokens become invalid, but clients get new ones with their refresh
/// tokens.
fn are_lost(mark: Option<KeysMark>, found: Option<&KeySet>) -> bool {
    mark.is_some_and(|mark| found.is_none_or(|set| set.revision() < mark.revision))
}

/// Records in the store which keys it has, and when they were lost.
async fn note_keys(store: &dyn Store, before: Option<KeysMark>, revision: u64, missed_at: Option<UnixTime>) {
    if missed_at.is_some() {
        tracing::error!("new signing keys were made, because the store had lost those that it had");
    }
    let known = before.unwrap_or_default();
    let mark = KeysMark { missed_at: missed_at.or(known.missed_at), revision: known.revision.max(revision) };
    if before == Some(mark) {
        return;
    }
    // The keys are made and count, so this is no reason to refuse anything.
    if let Err(error) = store.set_keys_mark(mark).await {
        tracing::warn!(%error, "it could not be recorded which signing keys the store has");
    }
}

/// Records in the store that it had this revision of the keys, if it has an older one or none now. This is for
/// a process that has that revision in use, because the record can be lost together with the keys.
///
/// # Errors
/// If the store cannot be read or written.
pub async fn note_in_use(store: &dyn Store, revision: u64) -> Result<(), StoreError> {
    if store.signing_keys().await?.is_some_and(|set| set.revision() >= revision) {
        return Ok(());
    }
    let mark = store.keys_mark().await?.unwrap_or_default();
    if mark.revision >= revision {
        return Ok(());
    }
    store.set_keys_mark(KeysMark { revision, ..mark }).await
}

/// Like [`up_to_date_telling`], for callers that do not have to know whether something was changed.
pub async fn up_to_date(
    store: &dyn Store,
    terms: &RotationTerms,
    now: UnixTime,
) -> Result<KeySet, RotationError> {
    up_to_date_telling(store, terms, now, drop).await
}

/// Returns the signing keys as they are stored, and only creates new ones if there are none, or if somebody has
/// put back an old row. It is used
/// when the clock is in doubt, and by commands that only read.
pub async fn known(store: &dyn Store, terms: &RotationTerms, now: UnixTime) -> Result<KeySet, RotationError> {
    let mark = store.keys_mark().await?;
    match store.signing_keys().await? {
        Some(set) if !are_lost(mark, Some(&set)) => Ok(set),
        _ => up_to_date(store, terms, now).await,
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
        let mark = store.keys_mark().await?;
        let changed = match step(&found) {
            Ok(changed) => changed,
            Err(unchanged) => return Ok(Err(unchanged)),
        };
        if store.replace_signing_keys(Some(found.revision()), &changed).await? {
            note_keys(store, mark, changed.revision(), None).await;
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
