//! Determines whether the signing keys of this process are still those in the store. A process that has been cut
//! off from the store, or suspended, must not verify or sign with a key that was revoked in the meantime.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::keys::signing::KeyRing;
use crate::store::changes::Changes;
use crate::store::{SigningKeyStore, StoreError};

/// How long keys stay valid after a read if the store is not reporting changes to this process. Cached values are
/// valid for the same time after the last report.
const COUNTS_FOR: Duration = Duration::from_secs(1);

/// The state before the keys were read from the store.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    version: u64,
    at: Instant,
}

impl Reading {
    /// Records the current state. Must be called before the keys are read.
    pub fn begin(changes: &Changes) -> Self {
        Self { version: changes.of_signing_keys(), at: Instant::now() }
    }
}

/// When the keys were last read, and which changes that read includes.
#[derive(Debug)]
pub struct KeysRead {
    start: Instant,
    /// The change counter of the keys before they were read.
    version: AtomicU64,
    /// The time at which the keys were read, in milliseconds after `start`.
    at: AtomicU64,
    /// Held by the call that reads the keys again, so that concurrent calls wait for its result.
    turn: Mutex<()>,
}

impl KeysRead {
    /// Creates the state after the first read of the keys.
    pub fn new(reading: Reading) -> Self {
        let (version, at) = (AtomicU64::new(reading.version), AtomicU64::new(0));
        Self { start: reading.at, version, at, turn: Mutex::default() }
    }

    /// Records that the keys have been read and are in use.
    pub fn note(&self, reading: Reading) {
        self.at.fetch_max(self.milliseconds(reading.at), Ordering::SeqCst);
        self.version.fetch_max(reading.version, Ordering::SeqCst);
    }

    /// Whether this process cannot have missed a change to the keys since the last read.
    pub fn are_current(&self, changes: &Changes) -> bool {
        self.are_current_at(changes, Instant::now())
    }

    fn are_current_at(&self, changes: &Changes, now: Instant) -> bool {
        // The lease must be checked before the counter: every change up to a live lease is already in the counter.
        let is_reported = changes.is_live();
        let age = self.milliseconds(now).saturating_sub(self.at.load(Ordering::SeqCst));
        self.version.load(Ordering::SeqCst) == changes.of_signing_keys()
            && (is_reported || Duration::from_millis(age) < COUNTS_FOR)
    }

    /// Reads the keys again, unless another call has just done so.
    ///
    /// # Errors
    /// Fails if the store cannot be read or has no keys.
    pub async fn renew(
        &self,
        store: &dyn SigningKeyStore,
        changes: &Changes,
        keys: &KeyRing,
    ) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        if self.are_current(changes) {
            return Ok(());
        }
        let reading = Reading::begin(changes);
        let missing = || StoreError::Unavailable("it has no signing keys at the moment".to_owned());
        let set = store.signing_keys().await?.ok_or_else(missing)?;
        // An older set might contain revoked keys, so it is not installed. If it is older because the store was
        // replaced, the regular check notices that.
        if set.revision() >= keys.revision() {
            keys.install(set).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        }
        self.note(reading);
        Ok(())
    }

    fn milliseconds(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_were_read_before_a_gap_are_not_current() {
        let changes = Changes::of_many_processes();
        let reading = Reading::begin(&changes);
        let read = KeysRead::new(reading);
        assert!(read.are_current_at(&changes, reading.at + COUNTS_FOR.mul_f32(0.9)));
        // This simulates a process that was suspended, or that receives no reports of changes.
        assert!(!read.are_current_at(&changes, reading.at + COUNTS_FOR));
        read.note(Reading { at: reading.at + COUNTS_FOR, ..reading });
        assert!(read.are_current_at(&changes, reading.at + COUNTS_FOR));
    }

    #[test]
    fn keys_of_a_store_that_no_other_process_changes_stay_current() {
        let changes = Changes::of_one_process();
        let reading = Reading::begin(&changes);
        assert!(KeysRead::new(reading).are_current_at(&changes, reading.at + Duration::from_secs(86_400)));
    }
}
