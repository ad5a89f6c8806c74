//! The persistent state of the service, behind one trait that uses domain types. Every method is atomic. When it
//! returns, its change is as durable as the store in use guarantees.

pub mod changes;
pub mod dump;
pub mod embedded;
mod holdings;
mod installation;
mod outage;
mod outcomes;
mod pending;
mod places;
pub mod records;
pub mod redis;
mod row;
mod rules;
mod sole_clients;
pub mod transfer;

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::account::{Account, Group, LoginSession, StoredPassword, Subject, Username};
use crate::domain::client::{Client, ClientId};
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::domain::refresh_token::{HashedRefreshToken, Line};
use crate::domain::replaced_token::StoreTime;
use crate::keys::set::KeySet;

use changes::Changes;
use records::Portable;

pub use installation::{Installation, KeysMark};
pub use outcomes::{
    Addition, Admission, Change, Decision, Deletion, Denial, DirectGrant, FoundCode, Issuance, Linking,
    ManagedChange, OneTimeUse, Redemption, Registration, Replacement, Rotation,
};
pub use pending::PendingStore;

/// The message that the readiness endpoint returns, and that is logged, when the store has lost its data.
pub const LOST: &str = "the store has lost its identity since this service started, and with it all or some of its data: \
                        accounts, clients, tokens, keys. Stop the service and restore a backup (scripts/restore DUMP). To \
                        start over with an empty Redis instead, restart the service; if rows are left, its error explains what to do";

/// The store failed. No part of the requested change was applied. Callers respond with status 503.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store is closed, unreachable or failing.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store has lost data. Only the operator can resolve this.
    #[error("the store is unavailable: {0}")]
    NeedsOperator(String),
    /// A stored value cannot be decrypted or parsed: `STORE_KEY` is wrong or the data is damaged.
    #[error(
        "a stored value cannot be read: STORE_KEY is not the key that it was written with, or the data is damaged"
    )]
    Unreadable,
}

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

/// The latest time at which each kind of row can expire if it was written while the clock was correct.
#[derive(Debug, Clone, Copy)]
pub struct LatestEnds {
    /// The latest expiry of a login session.
    pub session: UnixTime,
    /// The latest expiry of a grant, and of a remembered consent.
    pub grant: UnixTime,
    /// The latest expiry of a client.
    pub client: UnixTime,
}

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
    fn replace(&self, grant: &mut Grant, used: &ClientUse, by_store: Option<StoreTime>) {
        let current = (self.hash, self.line.clone());
        let expires_at = used.extend(Some(grant.expires_at), self.expires_at);
        grant.rotate(current, self.sealed.clone(), used.time(by_store), expires_at);
    }
}

/// The store of clients, accounts, sessions, codes, grants and keys.
#[async_trait]
pub trait Store: PendingStore + Portable + Installation {
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
    /// Like [`Store::delete_client`], but at the request of the client itself (RFC 7592 §2.3). `management` is
    /// no longer its registration access token if another party has registered the same client.
    async fn delete_client_managed_by(
        &self,
        management: &TokenHash,
        id: &ClientId,
    ) -> Result<ManagedChange, StoreError>;

    /// Adds an account. Its user name must not be taken.
    async fn add_account(&self, account: &Account) -> Result<Addition, StoreError>;
    /// Deletes an account.
    async fn remove_account(&self, subject: &Subject) -> Result<Deletion, StoreError>;
    /// The account with this user name.
    async fn account_named(&self, username: &Username) -> Result<Option<Account>, StoreError>;
    /// The account with this subject.
    async fn account(&self, subject: &Subject) -> Result<Option<Account>, StoreError>;
    /// All accounts, sorted by user name.
    async fn accounts(&self) -> Result<Vec<Account>, StoreError>;
    /// Replaces a password and ends all login sessions. Returns the updated account, or `None` if the password is
    /// no longer `old` or there is no account.
    async fn replace_password(
        &self,
        subject: &Subject,
        old: &StoredPassword,
        new: &StoredPassword,
    ) -> Result<Option<Account>, StoreError>;

    /// Disables or enables an account. Disabling it ends all login sessions, and its tokens are not valid while
    /// it is disabled.
    async fn set_account_disabled(&self, subject: &Subject, disabled: bool) -> Result<Change, StoreError>;
    /// Replaces the groups of an account.
    async fn set_account_groups(&self, subject: &Subject, groups: &[Group]) -> Result<Change, StoreError>;
    /// Replaces the email address of an account.
    async fn set_account_email(&self, subject: &Subject, email: Option<&str>) -> Result<Change, StoreError>;

    /// Stores a login session. If its account has too many, the oldest of them is deleted.
    async fn add_session(&self, session: &LoginSession) -> Result<(), StoreError>;
    /// The login session with this cookie hash, unless it has expired.
    async fn session(&self, id: &TokenHash, now: UnixTime) -> Result<Option<LoginSession>, StoreError>;
    /// Deletes a login session.
    async fn end_session(&self, id: &TokenHash) -> Result<(), StoreError>;

    /// Stores a code. If its account has too many unredeemed codes, the oldest code of the client with the most
    /// codes is deleted. Each `approval` can create only one code, and none after it has been denied.
    async fn add_code(
        &self,
        approval: &str,
        hash: &TokenHash,
        code: &AuthorizationCode,
        used: &ClientUse,
    ) -> Result<Issuance, StoreError>;
    /// Records that `approval` was denied, at least until `until`, so that it cannot create a code.
    /// Denying it again has no further effect.
    async fn deny(&self, approval: &str, until: UnixTime, now: UnixTime) -> Result<Denial, StoreError>;
    /// Looks up a code without redeeming it, for the checks that come before redemption.
    async fn find_code(&self, hash: &TokenHash, now: UnixTime) -> Result<FoundCode, StoreError>;
    /// Redeems a code and creates its grant, in one atomic step. If the account has too many grants, the least
    /// recently refreshed grants of the client with the most grants are deleted. If several calls run at the same
    /// time, only one succeeds. `grant` has the identifier that is stored with the code.
    async fn redeem_code(
        &self,
        hash: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError>;

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

    /// The signing keys. Returns `None` before the first start.
    async fn signing_keys(&self) -> Result<Option<KeySet>, StoreError>;
    /// Replaces the signing keys if the stored set still has the revision `seen` (`None` if there is no set yet).
    /// If several replicas change the keys at the same time, only one succeeds.
    async fn replace_signing_keys(
        &self,
        seen: Option<u64>,
        changed: &KeySet,
    ) -> Result<Replacement, StoreError>;

    /// Stores `name` until `until`, unless it is already stored. This detects replayed assertions.
    async fn remember_once(
        &self,
        name: &str,
        until: UnixTime,
        now: UnixTime,
    ) -> Result<OneTimeUse, StoreError>;

    /// Deletes expired rows that the store does not delete on its own. Returns their number.
    async fn sweep(&self, now: UnixTime) -> Result<u64, StoreError>;
    /// Shortens rows that expire later than these times, because they were written while the clock was ahead.
    /// Returns the number of rows. It must not be called while the clock is not reliable.
    async fn shorten(&self, ends: &LatestEnds) -> Result<u64, StoreError>;
    /// The record of changes, which invalidates cached results of [`Store::held_grant`]. A change through this
    /// process is recorded before its call returns, and a change by another process as soon as this one is
    /// notified.
    fn changes(&self) -> &Changes;
    /// Checks whether the store responds and accepts writes.
    async fn ping(&self) -> Result<(), StoreError>;
}
