//! Pushed authorization requests (RFC 9126).

use async_trait::async_trait;

use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::domain::pushed_request::PushedRequest;
use crate::store::{Admission, PushedRequestStore, StoreError};

use super::cells::Life;
use super::{RedisStore, places};

#[async_trait]
impl PushedRequestStore for RedisStore {
    async fn push_request(
        &self,
        handle: &TokenHash,
        request: &PushedRequest,
        now: UnixTime,
        earliest: UnixTime,
    ) -> Result<Admission, StoreError> {
        match places::take(&self.cells, &self.key, handle, request, earliest).await? {
            Admission::Admitted => {}
            Admission::Full => return Ok(Admission::Full),
        }
        let life = Life { until: request.expires_at, now };
        self.cells.write(&self.cells.keys.pushed_request(handle), request, life).await?;
        Ok(Admission::Admitted)
    }

    async fn pushed_request(
        &self,
        handle: &TokenHash,
        now: UnixTime,
    ) -> Result<Option<PushedRequest>, StoreError> {
        self.cells.live(&self.cells.keys.pushed_request(handle), now).await
    }

    async fn forget_pushed_request(&self, handle: &TokenHash) -> Result<(), StoreError> {
        let key = self.cells.keys.pushed_request(handle);
        if let Some(found) = self.cells.read::<PushedRequest>(&key).await? {
            places::leave(&self.cells, &self.key, handle, &found.value).await?;
        }
        self.cells.remove(&key).await.map(|_| ())
    }
}
