//! What is kept between a client's first step and a person's answer, and what is remembered of the answer.

use async_trait::async_trait;

use crate::domain::account::Subject;
use crate::domain::client::{Client, ClientId, ClientUse};
use crate::domain::clock::UnixTime;
use crate::domain::consent::{Approval, Consent};
use crate::domain::device::{DeviceAuthorization, DeviceState, Poll, UserCode};
use crate::domain::grant::Grant;
use crate::domain::opaque_token::TokenHash;
use crate::domain::pushed_request::PushedRequest;

use super::{Redemption, StoreError};

/// What strangers may leave in the store, in a limited number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Pushed authorization requests.
    PushedRequests,
    /// Devices that wait for a user.
    Devices,
}

/// The part of the store that the device flow, pushed requests and remembered consents need.
#[async_trait]
pub trait PendingStore: Send + Sync {
    /// Takes a place in `room` until `until`; false when `ceiling` places are taken. To be asked before something is left there.
    /// Nobody who has a place loses it to a newcomer.
    async fn reserve(
        &self,
        room: Room,
        name: &TokenHash,
        until: UnixTime,
        now: UnixTime,
        ceiling: u64,
    ) -> Result<bool, StoreError>;

    /// Remembers a device authorization (RFC 8628 §3.2); false when the user code is in use.
    async fn add_device(
        &self,
        code: &TokenHash,
        user_code: &UserCode,
        asked: &DeviceAuthorization,
    ) -> Result<bool, StoreError>;
    /// The live device authorization of a device code, without counting it as a question; a redeemed one is there for a
    /// day.
    async fn device(
        &self,
        code: &TokenHash,
        now: UnixTime,
    ) -> Result<Option<DeviceAuthorization>, StoreError>;
    /// The unanswered device authorization behind what a person typed, with the hash of its device code.
    async fn device_of_user(
        &self,
        user_code: &UserCode,
        now: UnixTime,
    ) -> Result<Option<(TokenHash, DeviceAuthorization)>, StoreError>;
    /// Takes a person's answer ([`DeviceAuthorization::decide`]); false when it was answered before or is over.
    async fn decide_device(
        &self,
        code: &TokenHash,
        decision: &DeviceState,
        now: UnixTime,
    ) -> Result<bool, StoreError>;
    /// Judges a question of the device ([`DeviceAuthorization::poll`]) and notes it. One that comes after the tokens were
    /// handed out ends their grant.
    async fn poll_device(&self, code: &TokenHash, now: UnixTime) -> Result<Poll, StoreError>;
    /// Uses an allowed device code and makes its grant, in one step. Of many at once one succeeds.
    async fn redeem_device(
        &self,
        code: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError>;

    /// Remembers a pushed authorization request (RFC 9126 §2.1).
    async fn push_request(
        &self,
        handle: &TokenHash,
        request: &PushedRequest,
        now: UnixTime,
    ) -> Result<(), StoreError>;
    /// The live request of that handle.
    async fn pushed_request(
        &self,
        handle: &TokenHash,
        now: UnixTime,
    ) -> Result<Option<PushedRequest>, StoreError>;
    /// Forgets a request that was answered.
    async fn forget_pushed_request(&self, handle: &TokenHash) -> Result<(), StoreError>;

    /// What a user has allowed a client already; whether it is still the same client is for [`Consent::is_to`] to say.
    async fn consent(
        &self,
        subject: &Subject,
        client: &ClientId,
        now: UnixTime,
    ) -> Result<Option<Consent>, StoreError>;
    /// Adds to what a user has allowed `client`, as the user was shown it, and keeps all of it until `until`.
    async fn add_consent(
        &self,
        subject: &Subject,
        client: &Client,
        approval: &Approval,
        now: UnixTime,
        until: UnixTime,
    ) -> Result<(), StoreError>;
    /// Forgets it: from now on the person is asked about everything.
    async fn forget_consent(&self, subject: &Subject, client: &ClientId) -> Result<(), StoreError>;

    /// Who a person of another issuer is here.
    async fn linked_account(&self, issuer: &str, sub: &str) -> Result<Option<Subject>, StoreError>;
    /// Says that a person of another issuer is this account; false when either is linked otherwise: one person of an
    /// issuer is one account.
    async fn link_account(&self, issuer: &str, sub: &str, subject: &Subject) -> Result<bool, StoreError>;
    /// Ends the link between an account and whoever it is at that issuer; false when there is none.
    async fn unlink_account(&self, issuer: &str, subject: &Subject) -> Result<bool, StoreError>;
}
