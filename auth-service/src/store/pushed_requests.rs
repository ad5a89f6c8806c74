//! Pushed authorization requests (RFC 9126).

use async_trait::async_trait;

use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::domain::pushed_request::PushedRequest;

use super::{Admission, StoreError};

/// Stores pushed authorization requests.
#[async_trait]
pub trait PushedRequestStore: Send + Sync {
    /// Stores a pushed authorization request (RFC 9126 §2.1). If its pool is full, requests from the account,
    /// client or network with the most requests are deleted. If none of these has more than one, the new request is
    /// refused. A request that has not expired at `earliest` occupies a slot.
    async fn push_request(
        &self,
        handle: &TokenHash,
        request: &PushedRequest,
        now: UnixTime,
        earliest: UnixTime,
    ) -> Result<Admission, StoreError>;
    /// The pushed request with this handle, unless it has expired.
    async fn pushed_request(
        &self,
        handle: &TokenHash,
        now: UnixTime,
    ) -> Result<Option<PushedRequest>, StoreError>;
    /// Deletes a request after the user has decided on it.
    async fn forget_pushed_request(&self, handle: &TokenHash) -> Result<(), StoreError>;
}
