//! The names by which processes recognize stores, and the order of stores by age.

use aws_lc_rs::digest::{SHA256, digest};

/// Identifies the store that a process has used, in a form that is not secret. The identity itself is encrypted in
/// Redis, but the claims that processes leave there for each other are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoreName {
    /// When the store was created, in microseconds by the clock of Redis. It is 0 if this is unknown.
    pub(super) begun: u64,
    /// A part of the hash of the identity.
    pub(super) hash: u64,
}

impl StoreName {
    /// The name of the store with this identity.
    pub(super) fn of(identity: &str) -> Self {
        let hash = digest(&SHA256, identity.as_bytes());
        let hash = hash.as_ref().first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default();
        let begun = identity.split_once('.').and_then(|(begun, _)| u64::from_str_radix(begun, 16).ok());
        Self { begun: begun.unwrap_or_default(), hash }
    }

    /// Whether this store was created later than `other`, so that it can replace it.
    pub(super) fn is_later_than(self, other: Self) -> bool {
        self.begun > other.begun
    }
}
