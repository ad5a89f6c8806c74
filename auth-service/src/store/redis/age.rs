//! Notices a Redis that comes back with older data than before: one that was started from an earlier
//! snapshot, or a replica that was promoted without the last writes. What was revoked in between would be
//! valid again.
//!
//! A number in Redis grows with every revocation, with every other change that takes something away, and with
//! every change of the signing keys. This process remembers the highest number that it has seen. If Redis shows
//! a lower one, everything is refused until a new connection leads to a Redis that has at least that number. On
//! the same connection, a number that has caught up only says that others have made changes to the older data.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::StoreError;

/// What this process knows about the age of the data in Redis.
#[derive(Default)]
pub(super) struct Age(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The highest number that was seen.
    seen: u64,
    /// The identity of the store whose number this is.
    identity: Option<String>,
    /// How many connections were made. A new one might lead to a Redis with older data.
    connections: u64,
    /// The value of `connections` for which the number was compared.
    compared: u64,
    /// Set while Redis has older data.
    older: Option<Older>,
    /// Whether a change was made that could not be counted.
    owes: bool,
}

#[derive(Clone, Copy)]
struct Older {
    /// The value of `connections` when this was noticed.
    connection: u64,
    /// How many changes are lost.
    lost: u64,
}

/// What was known when Redis was asked for the number. Other answers and connections can be seen before this
/// answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// The highest number that was seen.
    pub(super) seen: u64,
    connection: u64,
}

impl Age {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a connection was lost or made.
    pub(super) fn doubt(&self) {
        self.known().connections += 1;
    }

    /// Whether the number has to be read before Redis is believed.
    pub(super) fn has_to_be_read(&self) -> bool {
        let known = self.known();
        known.compared < known.connections || known.older.is_some()
    }

    /// What is known now. It has to be taken before Redis is asked for the number.
    pub(super) fn asked(&self) -> Asked {
        let known = self.known();
        Asked { seen: known.seen, connection: known.connections }
    }

    /// Records the identity of the store. A store that was begun anew counts from the beginning.
    pub(super) fn note_identity(&self, found: Option<&str>) {
        let Some(found) = found else { return };
        let mut known = self.known();
        if known.identity.as_deref() != Some(found) {
            if known.identity.is_some() {
                (known.seen, known.older) = (0, None);
            }
            known.identity = Some(found.to_owned());
        }
    }

    /// Records that a change was made that could not be counted.
    pub(super) fn owe(&self) {
        self.known().owes = true;
    }

    /// Whether a change has to be counted that could not be counted before. The caller counts it now.
    pub(super) fn take_owed(&self) -> bool {
        std::mem::take(&mut self.known().owes)
    }

    /// Compares the number in Redis (`found`) with what was known before Redis was asked.
    ///
    /// # Errors
    /// If Redis has older data.
    pub(super) fn compare(&self, asked: Asked, found: u64) -> Result<(), StoreError> {
        self.compare_before(asked, found, found)
    }

    /// Like [`Age::compare`], for the number after this process has incremented it.
    ///
    /// # Errors
    /// If Redis had older data before.
    pub(super) fn compare_counted(&self, asked: Asked, number: u64) -> Result<(), StoreError> {
        self.compare_before(asked, number.saturating_sub(1), number)
    }

    fn compare_before(&self, asked: Asked, before: u64, now: u64) -> Result<(), StoreError> {
        let mut known = self.known();
        let earlier = known.older.filter(|older| asked.connection <= older.connection);
        if before >= asked.seen && earlier.is_none() {
            known.seen = known.seen.max(now);
            known.compared = known.compared.max(asked.connection);
            if known.older.take().is_some() {
                tracing::info!("Redis has its latest data again");
            }
            return Ok(());
        }
        let lost = asked.seen.saturating_sub(before).max(earlier.map_or(0, |older| older.lost));
        let connection = asked.connection.max(earlier.map_or(0, |older| older.connection));
        let was_older = known.older.replace(Older { connection, lost }).is_some();
        drop(known);
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
    fn a_lower_number_is_refused_until_another_connection_has_it_or_another_store() {
        let age = Age::default();
        age.note_identity(Some("first"));
        let compare = |found| age.compare(age.asked(), found);
        let earlier = age.asked();
        assert!(compare(3).is_ok() && compare(3).is_ok());
        assert!(age.compare(earlier, 2).is_ok(), "the answer to an earlier question is seen later");
        let error = compare(1).unwrap_err().to_string();
        assert!(error.contains("2 changes are undone"), "{error}");
        assert!(age.has_to_be_read());
        age.note_identity(None);
        assert!(compare(2).is_err());
        let error = compare(5).unwrap_err().to_string();
        assert!(error.contains("2 changes are undone"), "others have counted: {error}");
        age.doubt();
        assert!(compare(3).is_ok() && !age.has_to_be_read(), "it is the latest data");
        assert!(compare(0).is_err());
        age.note_identity(Some("second"));
        assert!(compare(0).is_ok() && !age.has_to_be_read());
    }

    #[test]
    fn a_number_that_this_process_increments_was_one_less_before() {
        let age = Age::default();
        let count = |number| age.compare_counted(age.asked(), number);
        assert!(count(1).is_ok() && count(2).is_ok());
        let error = count(2).unwrap_err().to_string();
        assert!(error.contains("1 changes are undone"), "{error}");
    }

    #[test]
    fn an_answer_over_an_earlier_connection_says_nothing_about_a_new_one() {
        let age = Age::default();
        let asked = age.asked();
        age.doubt();
        assert!(age.compare(asked, 1).is_ok() && age.has_to_be_read());
        assert!(age.compare(age.asked(), 1).is_ok() && !age.has_to_be_read());
    }
}
