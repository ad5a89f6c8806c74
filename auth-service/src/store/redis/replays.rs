//! Names that can be used only once, such as the `jti` of an assertion, so that replays are detected.

use async_trait::async_trait;

use crate::domain::clock::UnixTime;
use crate::store::{OneTimeUse, ReplayStore, StoreError};

use super::RedisStore;
use super::cells::Life;
use super::tries::Tries;

#[async_trait]
impl ReplayStore for RedisStore {
    async fn remember_once(
        &self,
        name: &str,
        until: UnixTime,
        now: UnixTime,
    ) -> Result<OneTimeUse, StoreError> {
        let key = self.cells.keys.once(name);
        let mut tries = Tries::default();
        loop {
            tries.next().await?;
            let found = self.cells.read::<bool>(&key).await?;
            if found.as_ref().is_some_and(|found| found.is_live(now)) {
                return Ok(OneTimeUse::Replayed);
            }
            if self.cells.swap(&key, found.as_ref(), &true, Some(Life { until, now })).await? {
                return Ok(OneTimeUse::First);
            }
        }
    }
}
