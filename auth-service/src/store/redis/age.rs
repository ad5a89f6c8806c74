//! Notices a Redis that comes back with older data than before: one that was started from an earlier
//! snapshot, or a replica that was promoted without the last writes. What was revoked in between would be
//! valid again.
//!
//! A number in Redis grows with every revocation, with every other change that takes something away, and with
//! every change of the signing keys. This process remembers the highest number that it has seen. While Redis
//! shows a lower one, everything is refused.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::StoreError;

/// What this process knows about the age of the data in Redis.
#[derive(Default)]
pub(super) struct Age {
    /// The highest number that was seen.
    seen: AtomicU64,
    /// The identity of the store whose number this is.
    identity: Mutex<Option<String>>,
    /// Whether Redis had older data when it was asked last.
    is_older: AtomicBool,
    /// Whether there is a new connection, which might lead to a Redis with older data.
    is_in_doubt: AtomicBool,
}

impl Age {
    /// Records that there is a new connection.
    pub(super) fn doubt(&self) {
        self.is_in_doubt.store(true, Ordering::Release);
    }

    /// Whether the number has to be read before Redis is believed.
    pub(super) fn has_to_be_read(&self) -> bool {
        self.is_in_doubt.load(Ordering::Acquire) || self.is_older.load(Ordering::Acquire)
    }

    /// The highest number that was seen in this store. It has to be read before Redis is asked for the number,
    /// because other answers can be seen in between.
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// Records the identity of the store. A store that was begun anew counts from the beginning.
    pub(super) fn note_identity(&self, found: Option<&str>) {
        let Some(found) = found else { return };
        let mut known = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != Some(found) {
            if known.is_some() {
                self.seen.store(0, Ordering::Release);
                self.is_older.store(false, Ordering::Release);
            }
            *known = Some(found.to_owned());
        }
    }

    /// Compares the number in Redis (`found`) with the highest one that was seen before Redis was asked
    /// (`seen`).
    ///
    /// # Errors
    /// If Redis has older data.
    pub(super) fn compare(&self, seen: u64, found: u64) -> Result<(), StoreError> {
        self.seen.fetch_max(found, Ordering::AcqRel);
        let is_older = found < seen;
        let was_older = self.is_older.swap(is_older, Ordering::AcqRel);
        if !is_older {
            self.is_in_doubt.store(false, Ordering::Release);
            if was_older {
                tracing::info!("Redis has its latest data again");
            }
            return Ok(());
        }
        let lost = seen - found;
        let reason = format!(
            "Redis came back older than it was: {lost} changes are undone that revoked, disabled or removed something, or \
             changed a password or the signing keys. Restore its latest data, or make these changes again \
             (auth-service user disable, client disable, keys revoke: docs/state.md), and restart every replica"
        );
        if !was_older {
            tracing::error!("{reason}. Everything is refused until then");
        }
        Err(StoreError::Unavailable(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_number_is_refused_until_it_is_as_high_again_or_of_another_store() {
        let age = Age::default();
        age.note_identity(Some("first"));
        let compare = |found| age.compare(age.seen(), found);
        assert!(compare(3).is_ok() && compare(3).is_ok());
        assert!(age.compare(1, 2).is_ok(), "the answer to an earlier question is seen later");
        let error = compare(1).unwrap_err().to_string();
        assert!(error.contains("2 changes are undone"), "{error}");
        assert!(age.has_to_be_read());
        age.note_identity(None);
        assert!(compare(2).is_err());
        assert!(compare(3).is_ok() && !age.has_to_be_read());
        assert!(compare(0).is_err());
        age.note_identity(Some("second"));
        assert!(compare(0).is_ok() && !age.has_to_be_read());
    }
}
