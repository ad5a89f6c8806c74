//! Information about the store itself: its identity, the last time at which it was in use, and risks to its
//! data.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::clock::UnixTime;
use crate::domain::clock_watch::ClockMark;

use super::{Replacement, StoreError};

/// How long operators are warned after the signing keys were missing from the store.
const MISSED_TOLD: Duration = Duration::from_secs(3600);
const KEYS_WERE_MISSING: &str = "the signing keys were missing in the store, or an old row of them was put back, and new keys \
     replace them: every earlier access token is invalid. Check whether Redis evicts keys (maxmemory-policy), and whether someone \
     has deleted or replaced this key";

/// What the store records about its signing keys, apart from the keys. The record exists once there have been
/// keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysMark {
    /// The last time when the keys were missing, or older than before, and were replaced with new ones.
    pub missed_at: Option<UnixTime>,
    /// The latest revision of the keys that any process has seen. A set with a lower revision is an old row that
    /// can contain revoked keys.
    #[serde(default)]
    pub revision: u64,
}

impl KeysMark {
    /// The warning for operators, in the first hour after the keys were missing.
    pub fn danger(self, now: UnixTime) -> Option<&'static str> {
        let is_recent = self.missed_at.is_some_and(|at| now.since(at) < MISSED_TOLD);
        is_recent.then_some(KEYS_WERE_MISSING)
    }
}

/// Gives access to the information about the store itself.
#[async_trait]
pub trait Installation: Send + Sync {
    /// The identity of the store. Returns `None` before the first start, or if the store lost its data.
    async fn identity(&self) -> Result<Option<String>, StoreError>;
    /// Sets the identity, unless there is one.
    async fn identify(&self, identity: &str) -> Result<(), StoreError>;

    /// The record about the signing keys. Returns `None` if the store has never had any.
    async fn keys_mark(&self) -> Result<Option<KeysMark>, StoreError>;
    /// Replaces the record about the signing keys.
    async fn set_keys_mark(&self, mark: KeysMark) -> Result<(), StoreError>;

    /// The last time that was recorded. The clock was reliable at that time.
    async fn clock_mark(&self) -> Result<Option<ClockMark>, StoreError>;
    /// Records the time of the last use, if the last record is still `seen`.
    async fn set_clock_mark(
        &self,
        seen: Option<ClockMark>,
        mark: ClockMark,
    ) -> Result<Replacement, StoreError>;
    /// The time of the store's own clock, if it has one.
    async fn own_time(&self) -> Result<Option<UnixTime>, StoreError>;

    /// Settings of the store that put its data at risk, each with a way to fix it.
    async fn dangers(&self) -> Result<Vec<String>, StoreError>;
}
