//! Data that is kept between a client's request and the user's decision, and the decisions that are
//! remembered.

use async_trait::async_trait;

use crate::domain::account::Subject;
use crate::domain::client::ClientId;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::consent::{Approval, Consent};
use crate::domain::device::{DeviceAuthorization, DeviceState, Poll, UserCode};
use crate::domain::grant::Grant;
use crate::domain::opaque_token::TokenHash;
use crate::domain::pushed_request::PushedRequest;

use super::{Addition, Admission, Decision, Deletion, Linking, Redemption, StoreError};

/// The part of the store for the device flow, pushed requests and remembered consents.
#[async_trait]
pub trait PendingStore: Send + Sync {
    /// Reserves one of `ceiling` slots for devices waiting for a user, until `until`. It is called before the device is stored. A new device never displaces an earlier one.
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
    /// [`Store::redeem_code`](super::Store::redeem_code). If several calls run at the same time, one
    /// succeeds.
    async fn redeem_device(
        &self,
        code: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError>;

    /// Stores a pushed authorization request (RFC 9126 §2.1). If its pool is full, requests from the account,
    /// client or network with the most requests are deleted. It stays full if none of these has more than
    /// one. A request that has not expired at `earliest` occupies a slot.
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

    /// What a user has allowed a client. The caller must check with [`Consent::is_to`] whether it is still the
    /// same client.
    async fn consent(
        &self,
        subject: &Subject,
        client: &ClientId,
        now: UnixTime,
    ) -> Result<Option<Consent>, StoreError>;
    /// Adds `approval` to the consent of the user in `used`, for the client in the form that the user was shown,
    /// and keeps the whole consent until `until` ([`ClientUse::extend`]). If the user has consented to too many
    /// clients, the oldest consent is deleted.
    async fn add_consent(
        &self,
        approval: &Approval,
        used: &ClientUse,
        until: UnixTime,
    ) -> Result<(), StoreError>;
    /// Deletes a consent, so that the user will be asked for it again.
    async fn forget_consent(&self, subject: &Subject, client: &ClientId) -> Result<(), StoreError>;

    /// The account that is linked to a user of another issuer.
    async fn linked_account(&self, issuer: &str, sub: &str) -> Result<Option<Subject>, StoreError>;
    /// Links a user of another issuer to an account. Neither must already have a different link, because each user of an issuer has exactly one account.
    async fn link_account(&self, issuer: &str, sub: &str, subject: &Subject) -> Result<Linking, StoreError>;
    /// Deletes the link between an account and a user of that issuer.
    async fn unlink_account(&self, issuer: &str, subject: &Subject) -> Result<Deletion, StoreError>;
}
