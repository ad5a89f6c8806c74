//! Keeps the signing keys of this process those in the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Config;
use crate::domain::clock::UnixTime;
use crate::keys::set::KeySet;
use crate::principal::{Known, RejectedToken};
use crate::rotation::{self, KeysRead, Reading, Rotated, RotationError};
use crate::store::{KeysMark, Store, StoreError};
use crate::upkeep::Findings;

use super::AppState;

const KEYS_ARE_OLDER: &str = "the signing keys in the store are older than those that this process has: somebody has put back an old row, in \
     which revoked keys can be. They are not used. Revoke again what was revoked (auth-service keys list, keys revoke), and restart every \
     replica";

/// What is known of the signing keys in the store.
pub(super) struct SigningKeys {
    read: KeysRead,
    known: Mutex<StoredKeys>,
}

struct StoredKeys {
    /// The identity of the store from which the keys in use are.
    identity: Option<String>,
    /// Whether the keys in the store are older than those in use.
    are_older: bool,
}

impl SigningKeys {
    pub(super) fn new(reading: Reading, identity: Option<String>) -> Self {
        let known = StoredKeys { identity, are_older: false };
        Self { read: KeysRead::new(reading), known: Mutex::new(known) }
    }

    fn known(&self) -> MutexGuard<'_, StoredKeys> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `/ready` says of the keys.
    pub(super) fn dangers(&self) -> Option<String> {
        self.known().are_older.then(|| KEYS_ARE_OLDER.to_owned())
    }

    /// Whether the keys in use are from the store with this identity.
    fn are_from(&self, identity: Option<&str>) -> bool {
        self.known().identity.as_deref() == identity
    }

    /// Whether a set with this revision is older than the one in use, in the same store. A store that was
    /// begun anew counts from the beginning.
    fn are_older(&self, revision: u64, in_use: u64, identity: Option<&str>) -> bool {
        let mut known = self.known();
        let is_same_store = known.identity.as_deref() == identity || known.identity.is_none();
        let are_older = is_same_store && revision < in_use;
        if are_older && !known.are_older {
            tracing::error!("{KEYS_ARE_OLDER}");
        }
        known.are_older = are_older;
        if !are_older && identity.is_some() {
            known.identity = identity.map(str::to_owned);
        }
        are_older
    }
}

impl AppState {
    /// Reads the signing keys from the store, and changes them there if that is due. If this fails, the
    /// present keys stay in use.
    pub async fn follow_keys(&self) {
        match self.follow_keys_of_store().await {
            Ok(false) => {}
            Ok(true) => tracing::info!("a signing key is gone; nothing that it signed counts any more"),
            Err(error) => tracing::warn!(%error, "the signing keys could not be brought up to date"),
        }
    }

    async fn follow_keys_of_store(&self) -> Result<bool, RotationError> {
        let findings = self.findings().await?;
        if findings.is_lost {
            return Ok(false);
        }
        let (store, now) = (self.store.as_ref(), self.now());
        let (reading, in_use) = (Reading::begin(store.changes()), self.keys.revision());
        // The keys of this process are not written back: one of them might have been revoked since they were
        // read, and the record of that is lost together with the row. With new keys, all access tokens become
        // invalid, but clients get new ones with their refresh tokens.
        let were_missing =
            store.signing_keys().await?.is_none() && self.signing_keys.are_from(findings.identity.as_deref());
        let keys = current_keys(store, &self.config, &findings, now, &self.rotated).await?;
        if were_missing {
            // The record of whoever has made the new ones can be missing, because the record of the old ones
            // was lost with them.
            note_missing(store, now).await?;
        }
        let is_older = self.signing_keys.are_older(keys.revision(), in_use, findings.identity.as_deref());
        // A request may have read newer keys meanwhile, which then stay.
        let is_gone = !is_older && self.keys.revision() == in_use && self.keys.install(keys)?;
        self.signing_keys.read.note(reading);
        Ok(is_gone)
    }

    /// Reads the signing keys from the store if a change of them might have been missed. This has to be
    /// called before something is signed.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn renew_keys(&self) -> Result<(), StoreError> {
        if self.signing_keys.read.are_current(self.store.changes()) {
            return Ok(());
        }
        self.signing_keys.read.renew(self.store.as_ref(), &self.keys).await
    }

    /// Like [`Self::principal_at`], but never by a key that was revoked while this process could not know it.
    pub(super) async fn principal_by_current_keys(
        &self,
        token: &str,
        now: UnixTime,
    ) -> Result<Arc<Known>, RejectedToken> {
        let are_current = self.signing_keys.read.are_current(self.store.changes());
        let found = self.principal_at(token, now).await;
        if are_current || !matches!(found, Ok(_) | Err(RejectedToken::Invalid)) {
            return found;
        }
        let before = self.keys.generation();
        match Box::pin(self.renew_keys()).await {
            Ok(()) if self.keys.generation() == before => found,
            Ok(()) => Box::pin(self.principal_at(token, now)).await,
            // No key that this process has can be believed. A token that none of them has signed stays
            // refused.
            Err(error) => found.and(Err(error.into())),
        }
    }
}

/// Records in the store that its signing keys were missing, unless that is recorded.
async fn note_missing(store: &dyn Store, now: UnixTime) -> Result<(), StoreError> {
    match store.keys_mark().await? {
        Some(mark) if mark.danger(now).is_some() => Ok(()),
        _ => store.set_keys_mark(KeysMark { missed_at: Some(now) }).await,
    }
}

/// The signing keys. They are changed in the store if that is due and the clock is reliable.
pub(super) async fn current_keys(
    store: &dyn Store,
    config: &Config,
    findings: &Findings,
    now: UnixTime,
    rotated: &Mutex<Option<Rotated>>,
) -> Result<KeySet, RotationError> {
    if findings.clock.is_steady() {
        let note = |change| *rotated.lock().unwrap_or_else(PoisonError::into_inner) = Some(change);
        rotation::up_to_date_telling(store, &config.signing, now, note).await
    } else {
        rotation::known(store, &config.signing, now).await
    }
}
