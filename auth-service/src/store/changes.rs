//! What changed in the store, for whoever keeps copies: one number for each part of it, which goes up with every
//! change, and a lease, after which copies do not count unless it was renewed.
//!
//! A copy is taken together with the numbers of what it was made from, *before* the store is asked. It is good as long
//! as none of them has gone up. So nothing needs to be found and thrown away when something changes, and an answer
//! that was on its way while the change happened is stale the moment it arrives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::domain::opaque_token::TokenHash;

/// How many numbers there are. Two ids that share one by chance cost each other a look into the store, now and then.
const NUMBERS: usize = 1 << 16;
/// How many rows a copy may be made from.
pub const PARTS: usize = 5;
/// A lease that does not end.
const FOR_EVER: u64 = u64::MAX;

/// What a row of the store is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A grant.
    Grant,
    /// A client.
    Client,
    /// A person's account.
    Account,
}

/// See the module's text. Shared by a store and those who keep copies of what it said.
#[derive(Debug)]
pub struct Changes {
    /// Goes up when anything may have changed.
    everything: AtomicU64,
    parts: Box<[AtomicU64]>,
    /// Milliseconds after `start` until which changes are sure to be heard of.
    lease: AtomicU64,
    start: Instant,
}

/// The numbers that a copy was made under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    everything: u64,
    parts: [(usize, u64); PARTS],
}

impl Changes {
    /// For a store that is ours alone: every change goes through us, so there is always a lease.
    pub fn of_one_process() -> Self {
        Self::with_lease(FOR_EVER)
    }

    /// For a store that others change too: no lease until somebody renews it.
    pub fn of_many_processes() -> Self {
        Self::with_lease(0)
    }

    fn with_lease(lease: u64) -> Self {
        let parts = (0..NUMBERS).map(|_| AtomicU64::new(0)).collect();
        Self { everything: AtomicU64::new(0), parts, lease: AtomicU64::new(lease), start: Instant::now() }
    }

    /// Where changes to these stand now; none without a lease, or of nothing, or of more than [`PARTS`]: a copy made now could not be
    /// relied on.
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

    /// Whether nothing has changed since `version`, as far as one can know: never without a lease.
    pub fn is_current(&self, version: &Version) -> bool {
        self.is_live()
            && self.everything.load(Ordering::SeqCst) == version.everything
            && version.parts.iter().all(|(at, number)| self.number(*at) == *number)
    }

    /// Whether every change is heard of at present.
    pub fn is_live(&self) -> bool {
        let lease = self.lease.load(Ordering::SeqCst);
        lease == FOR_EVER || self.milliseconds(Instant::now()) < lease
    }

    /// The row about `id` changed, or may have.
    pub(super) fn note(&self, about: About, id: &str) {
        self.note_hashed(about, &TokenHash::of(id.as_bytes()).text());
    }

    /// As [`Changes::note`], with the SHA-256 of the id in base64url.
    pub(super) fn note_hashed(&self, about: About, hash: &str) {
        if let Some(number) = self.parts.get(place(about, hash)) {
            number.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Anything may have changed.
    pub fn note_everything(&self) {
        self.everything.fetch_add(1, Ordering::SeqCst);
    }

    /// Everything that had changed by `moment` has been noted, and what changes within `span` after it will be.
    pub(super) fn renew(&self, moment: Instant, span: Duration) {
        self.lease.store(self.milliseconds(moment + span), Ordering::SeqCst);
    }

    /// Changes are not heard of any more, and some may have been missed.
    pub(super) fn end_lease(&self) {
        self.lease.store(0, Ordering::SeqCst);
        self.note_everything();
    }

    fn number(&self, at: usize) -> u64 {
        self.parts.get(at).map_or(0, |number| number.load(Ordering::SeqCst))
    }

    fn milliseconds(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.start).as_millis()).unwrap_or(FOR_EVER - 1)
    }
}

/// The number for an id: 16 bits of its hash, shifted by what it is about.
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
    use crate::domain::grant::GrantId;

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
        // What was missed meanwhile stays missed.
        changes.renew(Instant::now(), Duration::from_secs(60));
        assert!(!changes.is_current(&ours) && version(&changes, 1).is_some());
        changes.renew(Instant::now(), Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        assert!(version(&changes, 1).is_none(), "a lease ends by itself");
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
