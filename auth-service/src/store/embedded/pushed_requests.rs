//! Pushed authorization requests (RFC 9126).

use async_trait::async_trait;

use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::domain::pushed_request::PushedRequest;
use crate::store::{Admission, PushedRequestStore, StoreError};

use super::EmbeddedStore;
use super::rows::Rows;
use super::tables::Table;

#[async_trait]
impl PushedRequestStore for EmbeddedStore {
    async fn push_request(
        &self,
        handle: &TokenHash,
        request: &PushedRequest,
        _now: UnixTime,
        earliest: UnixTime,
    ) -> Result<Admission, StoreError> {
        let known = || self.read(|rows| rows.all_with_keys(Table::PushedRequests));
        let Some(leaving) = self.places.take(handle, request, earliest, known)? else {
            return Ok(Admission::Full);
        };
        let (key, request) = (handle.text(), request.clone());
        let written = self
            .writer
            .write(move |rows| {
                for gone in &leaving {
                    rows.remove(Table::PushedRequests, gone)?;
                }
                rows.put(Table::PushedRequests, &key, &request, Some(request.expires_at))
            })
            .await;
        if written.is_err() {
            // The rows of the requests that lost their slots might still exist, so the slots are read again.
            self.places.forget_all();
        }
        written.map(|()| Admission::Admitted)
    }

    async fn pushed_request(
        &self,
        handle: &TokenHash,
        now: UnixTime,
    ) -> Result<Option<PushedRequest>, StoreError> {
        self.read(|rows| rows.get_live(Table::PushedRequests, &handle.text(), now))
    }

    async fn forget_pushed_request(&self, handle: &TokenHash) -> Result<(), StoreError> {
        let key = handle.text();
        let removed = key.clone();
        self.writer.write_even_late(move |rows| rows.remove(Table::PushedRequests, &removed)).await?;
        self.places.leave(&key);
        Ok(())
    }
}
