//! Enables caches to detect changes in the store. There is a counter for each group of rows, which every change to
//! one of them increments, and a lease: without a valid lease, cached values must not be used.
//!
//! A cached value is stored together with the counters of the rows that it comes from, which are read
//! *before* the store is queried. The value is valid as long as none of these counters has changed. Therefore
//! a change does not have to find and remove cached values, and a result that was read during a change is
//! invalid from the start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::domain::opaque_token::TokenHash;

/// The number of counters. If two rows share a counter by chance, a change to one causes an unnecessary query for
/// the other.
const NUMBERS: usize = 1 << 16;
/// Maximum number of rows from which a cached value can be derived.
pub const PARTS: usize = 5;
/// The end of a lease that never ends, in milliseconds.
const FOR_EVER: u64 = u64::MAX;

/// The kind of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The row of a grant.
    Grant,
    /// The row of a client.
    Client,
    /// The row of a user's account.
    Account,
}

/// The counters and the lease, which a store shares with the caches of its results.
#[derive(Debug)]
pub struct Changes {
    /// A counter of events that might have changed any row.
    everything: AtomicU64,
    parts: Box<[AtomicU64]>,
    /// A counter of changes to the signing keys, and of occasions on which a change might have been missed.
    signing_keys: AtomicU64,
    /// The end of the lease, in milliseconds after `start`. Until then, it is certain that every change is
    /// recorded.
    lease: AtomicU64,
    start: Instant,
}

/// A store that counts its changes, so that results of its operations can be cached.
pub trait Observable: Send + Sync {
    /// The record of changes, which invalidates cached results of
    /// [`GrantStore::held_grant`](super::GrantStore::held_grant). A change through this process is recorded before its
    /// call returns, and a change by another process as soon as this one is notified.
    fn changes(&self) -> &Changes;
}

/// The counters at the time when a value was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    everything: u64,
    parts: [(usize, u64); PARTS],
}

impl Changes {
    /// Creates the counters for a store that only this process uses. All changes go through this process, so
    /// the lease never ends.
    pub fn of_one_process() -> Self {
        Self::with_lease(FOR_EVER)
    }

    /// Creates the counters for a store that other processes also change. There is no lease until it is renewed.
    pub fn of_many_processes() -> Self {
        Self::with_lease(0)
    }

    fn with_lease(lease: u64) -> Self {
        let parts = (0..NUMBERS).map(|_| AtomicU64::new(0)).collect();
        let (everything, signing_keys) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { everything, parts, signing_keys, lease: AtomicU64::new(lease), start: Instant::now() }
    }

    /// The current counters of these rows. Returns `None` without a lease, for no rows, or for more than
    /// [`PARTS`] rows, because a value that is read now could not be cached.
    pub fn version(&self, made_from: &[(About, &str)]) -> Option<Version> {
        let everything = self.everything.load(Ordering::SeqCst);
        if made_from.len() > PARTS {
            return None;
        }
        let mut numbers = made_from.iter().map(|(about, id)| {
            let at = place(*about, &TokenHash::of(id.as_bytes()).text());
            (at, self.number(at))
        });
        let first = numbers.next()?;
        let mut parts = [first; PARTS];
        for (part, number) in parts.iter_mut().skip(1).zip(numbers) {
            *part = number;
        }
        self.is_live().then_some(Version { everything, parts })
    }

    /// Whether nothing has changed since `version`. Without a lease, the result is always false.
    pub fn is_current(&self, version: &Version) -> bool {
        self.is_live()
            && self.everything.load(Ordering::SeqCst) == version.everything
            && version.parts.iter().all(|(at, number)| self.number(*at) == *number)
    }

    /// Whether there is a lease, which guarantees that every change is recorded.
    pub fn is_live(&self) -> bool {
        let lease = self.lease.load(Ordering::SeqCst);
        lease == FOR_EVER || self.milliseconds(Instant::now()) < lease
    }

    /// Records that the row with this `id` has changed, or might have changed.
    pub(super) fn note(&self, about: About, id: &str) {
        self.note_hashed(about, &TokenHash::of(id.as_bytes()).text());
    }

    /// Like [`Changes::note`], but with the SHA-256 of the id in base64url.
    pub(super) fn note_hashed(&self, about: About, hash: &str) {
        if let Some(number) = self.parts.get(place(about, hash)) {
            number.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Records that any row might have changed.
    pub fn note_everything(&self) {
        self.everything.fetch_add(1, Ordering::SeqCst);
    }

    /// The number of times that the signing keys have changed, or might have changed.
    pub fn of_signing_keys(&self) -> u64 {
        self.signing_keys.load(Ordering::SeqCst)
    }

    /// Records that the signing keys have changed, or might have changed.
    pub(super) fn note_signing_keys(&self) {
        self.signing_keys.fetch_add(1, Ordering::SeqCst);
    }

    /// Extends the lease until `span` after `moment`. All changes before `moment` must already be recorded.
    pub(super) fn renew(&self, moment: Instant, span: Duration) {
        self.lease.store(self.milliseconds(moment + span), Ordering::SeqCst);
    }

    /// Ends the lease, because changes are no longer recorded and some might have been missed.
    pub(super) fn end_lease(&self) {
        self.lease.store(0, Ordering::SeqCst);
        self.note_everything();
        self.note_signing_keys();
    }

    fn number(&self, at: usize) -> u64 {
        self.parts.get(at).map_or(0, |number| number.load(Ordering::SeqCst))
    }

    fn milliseconds(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.start).as_millis()).unwrap_or(FOR_EVER - 1)
    }
}

/// The index of the counter for an id: 16 bits of a hash that includes the kind of the row.
fn place(about: About, hash: &str) -> usize {
    let letters = hash
        .bytes()
        .take(8)
        .fold(about as usize, |sum, byte| sum.wrapping_mul(0x0100_0193).wrapping_add(usize::from(byte)));
    (letters ^ (letters >> 16)) % NUMBERS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::Subject;
    use crate::domain::client::ClientId;
    use crate::domain::grant_id::GrantId;

    fn ids(n: u8) -> (GrantId, ClientId, Subject) {
        (GrantId::new([n; 32]), ClientId::issued([n; 32]), Subject::new([n; 32]))
    }

    fn version(changes: &Changes, n: u8) -> Option<Version> {
        let (grant, client, account) = ids(n);
        changes.version(&[
            (About::Grant, grant.as_str()),
            (About::Client, client.as_str()),
            (About::Account, account.as_str()),
        ])
    }

    #[test]
    fn a_copy_is_good_until_one_of_its_parts_changes() {
        let changes = Changes::of_one_process();
        let (grant, client, account) = ids(1);
        for (about, id) in [
            (About::Grant, grant.as_str()),
            (About::Client, client.as_str()),
            (About::Account, account.as_str()),
        ] {
            let (ours, another) = (version(&changes, 1).unwrap(), version(&changes, 2).unwrap());
            assert!(changes.is_current(&ours));
            changes.note(about, id);
            assert!(!changes.is_current(&ours), "{about:?}");
            assert!(changes.is_current(&another));
        }
        let ours = version(&changes, 1).unwrap();
        changes.note_everything();
        assert!(!changes.is_current(&ours));
    }

    #[test]
    fn without_a_lease_no_copy_is_made_and_none_is_good() {
        let changes = Changes::of_many_processes();
        assert!(version(&changes, 1).is_none());
        changes.renew(Instant::now(), Duration::from_secs(60));
        let ours = version(&changes, 1).unwrap();
        assert!(changes.is_current(&ours));
        changes.end_lease();
        assert!(!changes.is_current(&ours) && version(&changes, 1).is_none());
        // Changes that were missed before the new lease still invalidate earlier values.
        changes.renew(Instant::now(), Duration::from_secs(60));
        assert!(!changes.is_current(&ours) && version(&changes, 1).is_some());
        changes.renew(Instant::now(), Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        assert!(version(&changes, 1).is_none(), "a lease expires");
    }

    #[test]
    fn numbers_are_spread() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..10_000_u32 {
            seen.insert(place(About::Grant, &TokenHash::of(&n.to_be_bytes()).text()));
        }
        assert!(seen.len() > 9000, "{}", seen.len());
    }
}
