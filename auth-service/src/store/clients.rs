//! Registered clients.

use async_trait::async_trait;

use crate::domain::client::{Client, ClientId};
use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;

use super::{Addition, Change, Deletion, ManagedChange, Registration, StoreError};

/// The limits and times that apply to a registration.
#[derive(Debug, Clone, Copy)]
pub struct RegistrationTerms {
    /// The earliest possible current time, because the clock might be wrong. A client that has not expired at this
    /// time is neither replaced nor deleted.
    pub now: UnixTime,
    /// The time at which the client is deleted if no account uses it.
    pub unused_until: UnixTime,
    /// Maximum number of clients. When it is exceeded, the oldest unused clients are deleted, except those that
    /// are kept ([`Client::kept_until`]).
    pub ceiling: u64,
    /// Maximum number of unused clients. When it is exceeded, the oldest of them are deleted.
    pub unused_ceiling: u64,
}

/// Stores clients, except for those that are known only by their metadata document.
#[async_trait]
pub trait ClientStore: Send + Sync {
    /// Finds `client` under one of `ids`, or registers it under the first of them that is free
    /// ([`Registration`]). If equal registrations run at the same time, only one adds the client.
    async fn register_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        terms: &RegistrationTerms,
    ) -> Result<Registration, StoreError>;
    /// Finds the client that has already registered with the metadata of `client`. It has one of `ids`, or another
    /// identifier if the first of them was taken when the client registered.
    async fn registered_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        now: UnixTime,
    ) -> Result<Option<Client>, StoreError>;
    /// Adds a client of the operator, which is kept until it is deleted. Its identifier must not be taken.
    async fn add_client(&self, client: &Client, now: UnixTime) -> Result<Addition, StoreError>;
    /// The client with this identifier.
    async fn client(&self, id: &ClientId, now: UnixTime) -> Result<Option<Client>, StoreError>;
    /// Returns at most `most` clients, ordered by identifier and starting after `after`. It is used by
    /// operator commands.
    async fn clients(
        &self,
        after: Option<&ClientId>,
        most: usize,
        now: UnixTime,
    ) -> Result<Vec<Client>, StoreError>;
    /// Replaces a client's registration, secret, metadata, fingerprint and registration access token (RFC 7592
    /// §2.2), if `management` is still its registration access token.
    async fn update_client(
        &self,
        management: &TokenHash,
        updated: &Client,
    ) -> Result<ManagedChange, StoreError>;
    /// Disables or enables a client. A disabled client does not expire ([`Client::stays`]).
    async fn set_client_disabled(&self, id: &ClientId, disabled: bool) -> Result<Change, StoreError>;
    /// Deletes a client, which also ends all of its grants.
    async fn delete_client(&self, id: &ClientId) -> Result<Deletion, StoreError>;
    /// Like [`ClientStore::delete_client`], but at the request of the client itself (RFC 7592 §2.3). `management` is
    /// no longer its registration access token if another party has registered the same client.
    async fn delete_client_managed_by(
        &self,
        management: &TokenHash,
        id: &ClientId,
    ) -> Result<ManagedChange, StoreError>;
}
