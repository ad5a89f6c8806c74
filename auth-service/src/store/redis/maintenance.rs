//! Regular maintenance of the whole store, and a check whether it works.

use async_trait::async_trait;

use crate::domain::clock::UnixTime;
use crate::store::{LatestEnds, Maintenance, SigningKeyStore, StoreError};

use super::{RedisStore, clients, permissions};

#[async_trait]
impl Maintenance for RedisStore {
    /// Redis deletes expired rows itself. Only the index of clients must be updated.
    async fn sweep(&self, now: UnixTime) -> Result<u64, StoreError> {
        clients::sweep(&self.cells, now).await
    }

    /// Does nothing. Redis measures the lifetime of a row with its own clock, from the moment when the row is
    /// written.
    async fn shorten(&self, _ends: &LatestEnds) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Permissions are checked first, because the errors of other scripts do not name the command that was
        // refused.
        permissions::check(&self.cells).await?;
        self.check_schema().await?;
        // Every check depends on this row, which can be on another node of a cluster than the others. Reading it also
        // checks the age of the data.
        self.signing_keys().await?;
        // If `maxmemory` is reached, or if the server is a replica, reading works but writing does not.
        self.cells.write_for(&self.cells.keys.writable(), &true, None).await?;
        self.cells.count_owed().await
    }
}
