//! What a store knows of itself: which one it is, how late it was when it was last in use, and what threatens it.

use async_trait::async_trait;

use crate::domain::clock::UnixTime;

use super::StoreError;

/// See the module's text.
#[async_trait]
pub trait Installation: Send + Sync {
    /// Which store this is; none before the first start, and when it has lost what it kept.
    async fn identity(&self) -> Result<Option<String>, StoreError>;
    /// Gives it an identity, unless it has one.
    async fn identify(&self, identity: &str) -> Result<(), StoreError>;

    /// The last time that was noted, which was not in doubt then.
    async fn clock_mark(&self) -> Result<Option<UnixTime>, StoreError>;
    /// Notes it.
    async fn set_clock_mark(&self, now: UnixTime) -> Result<(), StoreError>;
    /// What the store's own clock says, if it has one.
    async fn own_time(&self) -> Result<Option<UnixTime>, StoreError>;

    /// What about it can cost what it keeps, each with what to do.
    async fn dangers(&self) -> Result<Vec<String>, StoreError>;
}
