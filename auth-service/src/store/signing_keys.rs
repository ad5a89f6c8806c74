//! The signing keys, and a separate record about them, which shows whether keys were lost or replaced with older ones.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::clock::UnixTime;
use crate::keys::set::KeySet;

use super::{Replacement, StoreError};

/// How long operators are warned after the signing keys were missing from the store.
const MISSED_TOLD: Duration = Duration::from_secs(3600);
const KEYS_WERE_MISSING: &str = "the signing keys were missing in the store, or an old row of them was put back, and \
     new keys replace them: every earlier access token is invalid. Check whether Redis evicts keys (maxmemory-policy), \
     and whether someone has deleted or replaced this key";

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

/// Stores the signing keys.
#[async_trait]
pub trait SigningKeyStore: Send + Sync {
    /// The signing keys. Returns `None` before the first start.
    async fn signing_keys(&self) -> Result<Option<KeySet>, StoreError>;
    /// Replaces the signing keys if the stored set still has the revision `seen` (`None` if there is no set yet).
    /// If several replicas change the keys at the same time, only one succeeds.
    async fn replace_signing_keys(
        &self,
        seen: Option<u64>,
        changed: &KeySet,
    ) -> Result<Replacement, StoreError>;
    /// The record about the signing keys. Returns `None` if the store has never had any.
    async fn keys_mark(&self) -> Result<Option<KeysMark>, StoreError>;
    /// Replaces the record about the signing keys.
    async fn set_keys_mark(&self, mark: KeysMark) -> Result<(), StoreError>;
}
