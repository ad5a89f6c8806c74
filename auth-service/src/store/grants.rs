//! Grants and their refresh tokens.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::account::{Account, Subject};
use crate::domain::client::ClientId;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::grant::Grant;
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::domain::refresh_token::{HashedRefreshToken, Line};
use crate::domain::replaced_token::StoreTime;

use super::{DirectGrant, Rotation, StoreError};

/// The successor of a refresh token.
#[derive(Debug, Clone)]
pub struct Successor {
    /// SHA-256 of the new token.
    pub hash: TokenHash,
    /// Its position in the grant's sequence of tokens.
    pub line: Line,
    /// The new token, encrypted with the old one.
    pub sealed: Vec<u8>,
    /// The new expiry of the grant, unless the current one is later ([`ClientUse::extend`]).
    pub expires_at: UnixTime,
}

impl Successor {
    /// Makes this the current token of the grant.
    pub(super) fn replace(&self, grant: &mut Grant, used: &ClientUse, by_store: Option<StoreTime>) {
        let current = (self.hash, self.line.clone());
        let expires_at = used.extend(Some(grant.expires_at), self.expires_at);
        grant.rotate(current, self.sealed.clone(), used.time(by_store), expires_at);
    }
}

/// Stores grants, which the tokens of clients belong to.
#[async_trait]
pub trait GrantStore: Send + Sync {
    /// Creates a grant without a code. Its client must exist and be enabled.
    async fn add_grant(&self, grant: &Grant, used: &ClientUse) -> Result<DirectGrant, StoreError>;
    /// The grant with this identifier, unless it has expired.
    async fn grant(&self, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError>;
    /// The grant that issued a refresh token, whether or not the token has been used ([`Grant::has_issued`]).
    async fn grant_of_refresh(
        &self,
        token: &HashedRefreshToken,
        now: UnixTime,
    ) -> Result<Option<Grant>, StoreError>;
    /// Decides on a refresh token ([`Grant::judge_refresh`]) and applies the decision, in one atomic step.
    async fn rotate_refresh(
        &self,
        presented: &HashedRefreshToken,
        successor: &Successor,
        used: &ClientUse,
        grace: Duration,
    ) -> Result<Rotation, StoreError>;
    /// The grants with a refresh token that a user has given and that have not expired, from the one that was created
    /// or refreshed first to the last.
    async fn grants_of(&self, subject: &Subject, now: UnixTime) -> Result<Vec<Grant>, StoreError>;
    /// Deletes a grant, so that all tokens issued from it become invalid.
    async fn revoke_grant(&self, id: &GrantId) -> Result<(), StoreError>;
    /// The grant with this identifier and the account of its user, for a check. The grant must belong to this
    /// client and subject, and the client must still hold it ([`Grant::is_held_by`]). A grant that was derived
    /// from another grant is valid only as long as that grant is.
    async fn held_grant(
        &self,
        id: &GrantId,
        client: &ClientId,
        subject: &Subject,
        now: UnixTime,
    ) -> Result<Option<(Grant, Account)>, StoreError>;
}
