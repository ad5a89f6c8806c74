//! The signing keys, and a separate record about them, which shows whether keys were lost or replaced with older ones.

use async_trait::async_trait;
use futures_util::future::try_join;

use crate::keys::set::KeySet;
use crate::store::{KeysMark, Replacement, SigningKeyStore, StoreError};

use super::RedisStore;
use super::cells::Found;

#[async_trait]
impl SigningKeyStore for RedisStore {
    async fn signing_keys(&self) -> Result<Option<KeySet>, StoreError> {
        // The age of the data is checked, because an older copy of the data could bring back a revoked key.
        let key = self.cells.keys.signing_keys();
        let (found, ()) = try_join(self.cells.read(&key), self.cells.check_age()).await?;
        Ok(found.map(|found| found.value))
    }

    async fn replace_signing_keys(
        &self,
        seen: Option<u64>,
        changed: &KeySet,
    ) -> Result<Replacement, StoreError> {
        let key = self.cells.keys.signing_keys();
        let found = self.cells.read::<KeySet>(&key).await?;
        if found.as_ref().map(|found| found.value.revision()) != seen {
            return Ok(Replacement::Outdated);
        }
        let is_replaced = match found {
            // It must be possible to revoke a key even if Redis is full.
            Some(found) => self.cells.swap_although_full(&key, &found, changed).await?,
            None => self.cells.swap(&key, None::<&Found<KeySet>>, changed, None).await?,
        };
        self.cells.count_change().await?;
        Ok(if is_replaced { Replacement::Replaced } else { Replacement::Outdated })
    }

    async fn keys_mark(&self) -> Result<Option<KeysMark>, StoreError> {
        Ok(self.cells.read(&self.cells.keys.keys_mark()).await?.map(|found| found.value))
    }

    async fn set_keys_mark(&self, mark: KeysMark) -> Result<(), StoreError> {
        self.cells.write_for(&self.cells.keys.keys_mark(), &mark, None).await
    }
}
