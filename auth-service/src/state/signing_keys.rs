//! Keeps the signing keys of this process consistent with the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Config;
use crate::domain::clock::UnixTime;
use crate::keys::set::KeySet;
use crate::principal::{Known, RejectedToken};
use crate::rotation::{self, KeysRead, Reading, Rotated, RotationError};
use crate::store::{SigningKeyStore, StoreError};
use crate::upkeep::Findings;

use super::AppState;

/// What this process knows about the signing keys in the store.
pub(super) struct SigningKeys {
    read: KeysRead,
    /// The identity of the store from which the keys in use were read.
    identity: Mutex<Option<String>>,
}

impl SigningKeys {
    pub(super) fn new(reading: Reading, identity: Option<String>) -> Self {
        Self { read: KeysRead::new(reading), identity: Mutex::new(identity) }
    }

    fn identity(&self) -> MutexGuard<'_, Option<String>> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the keys in use come from the store with this identity. A store that has been emptied and created
    /// again has different keys.
    fn are_from(&self, identity: Option<&str>) -> bool {
        let known = self.identity();
        known.is_none() || known.as_deref() == identity
    }
}

impl AppState {
    /// Reads the signing keys from the store, and makes a change that is due. If this fails, the current keys stay
    /// in use.
    pub async fn follow_keys(&self) {
        match self.follow_keys_of_store().await {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!("a signing key was removed; tokens that it signed are no longer accepted");
            }
            Err(error) => tracing::warn!(%error, "the signing keys could not be updated"),
        }
    }

    async fn follow_keys_of_store(&self) -> Result<bool, RotationError> {
        let findings = self.findings().await?;
        if findings.is_lost {
            return Ok(false);
        }
        let (store, now) = (self.store.as_ref(), self.now());
        let (reading, in_use) = (Reading::begin(store.changes()), self.keys.revision());
        if self.signing_keys.are_from(findings.identity.as_deref()) {
            rotation::note_in_use(store, in_use).await?;
        }
        let keys = current_keys(store, &self.config, &findings, now, &self.rotated).await?;
        // A concurrent request might have installed newer keys, which must stay.
        let is_gone = self.keys.revision() == in_use && self.keys.install(keys)?;
        if findings.identity.is_some() {
            *self.signing_keys.identity() = findings.identity;
        }
        self.signing_keys.read.note(reading);
        Ok(is_gone)
    }

    /// Reads the signing keys from the store if this process might have missed a change. It must be called before
    /// anything is signed.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn renew_keys(&self) -> Result<(), StoreError> {
        let changes = self.store.changes();
        if self.signing_keys.read.are_current(changes) {
            return Ok(());
        }
        self.signing_keys.read.renew(self.store.as_ref(), changes, &self.keys).await
    }

    /// Like [`Self::principal_at`], but also refuses a token whose key was revoked while this process was cut off
    /// from the store.
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
            // The keys of this process might have been revoked, so none of them can be trusted. The store might also
            // have other keys, so a token that was signed with none of these keys could still be valid.
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns the signing keys. If the clock is reliable, a due change is first made in the store.
pub(super) async fn current_keys(
    store: &dyn SigningKeyStore,
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
