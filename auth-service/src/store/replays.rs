//! Names that can be used only once, such as the `jti` of an assertion, so that replays are detected.

use async_trait::async_trait;

use crate::domain::clock::UnixTime;

use super::{OneTimeUse, StoreError};

/// Stores names that have been used.
#[async_trait]
pub trait ReplayStore: Send + Sync {
    /// Stores `name` until `until`, unless it is already stored.
    async fn remember_once(
        &self,
        name: &str,
        until: UnixTime,
        now: UnixTime,
    ) -> Result<OneTimeUse, StoreError>;
}
