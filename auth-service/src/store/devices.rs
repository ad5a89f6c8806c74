//! Device authorizations (RFC 8628), from the request until the device gets its tokens.

use async_trait::async_trait;

use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::device::{DeviceAuthorization, DeviceState, Poll, UserCode};
use crate::domain::grant::Grant;
use crate::domain::opaque_token::TokenHash;

use super::{Addition, Admission, Decision, Redemption, StoreError};

/// Stores device authorizations.
#[async_trait]
pub trait DeviceStore: Send + Sync {
    /// Reserves one of `ceiling` slots for devices that wait for a user. The reservation ends at `until`. This must be
    /// called before the device is stored. A new device never displaces an earlier one.
    async fn reserve_device(
        &self,
        name: &TokenHash,
        until: UnixTime,
        now: UnixTime,
        ceiling: u64,
    ) -> Result<Admission, StoreError>;
    /// Stores a device authorization (RFC 8628 §3.2). Its user code must not be in use.
    async fn add_device(
        &self,
        code: &TokenHash,
        user_code: &UserCode,
        asked: &DeviceAuthorization,
    ) -> Result<Addition, StoreError>;
    /// The device authorization with this device code, without counting the call as a poll. A redeemed one is
    /// kept for an hour after its expiry.
    async fn device(
        &self,
        code: &TokenHash,
        now: UnixTime,
    ) -> Result<Option<DeviceAuthorization>, StoreError>;
    /// The undecided device authorization with this user code, and the hash of its device code.
    async fn device_of_user(
        &self,
        user_code: &UserCode,
        now: UnixTime,
    ) -> Result<Option<(TokenHash, DeviceAuthorization)>, StoreError>;
    /// Stores the user's decision ([`DeviceAuthorization::decide`]).
    async fn decide_device(
        &self,
        code: &TokenHash,
        decision: &DeviceState,
        now: UnixTime,
    ) -> Result<Decision, StoreError>;
    /// Decides on a poll of the device ([`DeviceAuthorization::poll`]) and records it. A poll after the
    /// tokens were issued revokes their grant.
    async fn poll_device(&self, code: &TokenHash, now: UnixTime) -> Result<Poll, StoreError>;
    /// Redeems an approved device code and creates its grant, in one atomic step, with the limits of
    /// [`CodeStore::redeem_code`](super::CodeStore::redeem_code). If several calls run at the same time, one
    /// succeeds.
    async fn redeem_device(
        &self,
        code: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError>;
}
