//! Regular maintenance of the whole store, and a check whether it works.

use async_trait::async_trait;

use crate::domain::clock::UnixTime;

use super::StoreError;

/// The latest time at which each kind of row can expire if it was written while the clock was correct.
#[derive(Debug, Clone, Copy)]
pub struct LatestEnds {
    /// The latest expiry of a login session.
    pub session: UnixTime,
    /// The latest expiry of a grant, and of a remembered consent.
    pub grant: UnixTime,
    /// The latest expiry of a client.
    pub client: UnixTime,
}

/// Removes or shortens rows that must not be kept longer, and checks whether the store works.
#[async_trait]
pub trait Maintenance: Send + Sync {
    /// Deletes expired rows that the store does not delete on its own. Returns their number.
    async fn sweep(&self, now: UnixTime) -> Result<u64, StoreError>;
    /// Shortens rows that expire later than these times, because they were written while the clock was ahead.
    /// Returns the number of rows. It must not be called while the clock is not reliable.
    async fn shorten(&self, ends: &LatestEnds) -> Result<u64, StoreError>;
    /// Checks whether the store responds and accepts writes.
    async fn ping(&self) -> Result<(), StoreError>;
}
