//! Information about the store itself: its identity, the last time at which it was in use, and risks to its
//! data.

use async_trait::async_trait;

use crate::domain::clock::UnixTime;
use crate::domain::clock_watch::ClockMark;

use super::{Replacement, StoreError};

/// Gives access to the information about the store itself.
#[async_trait]
pub trait Installation: Send + Sync {
    /// The identity of the store. Returns `None` before the first start, or if the store lost its data.
    async fn identity(&self) -> Result<Option<String>, StoreError>;
    /// Sets the identity, unless there is one.
    async fn identify(&self, identity: &str) -> Result<(), StoreError>;

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
