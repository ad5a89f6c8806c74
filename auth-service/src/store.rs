//! What is remembered: one trait in terms of the domain, not of keys. Every method is atomic and, when it
//! returns, durable as far as the store in use promises.

pub mod changes;
pub mod dump;
pub mod embedded;
mod installation;
mod pending;
pub mod records;
pub mod redis;
mod row;
mod rules;
mod sole_clients;
pub mod transfer;

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::account::{Account, Group, LoginSession, StoredPassword, Subject, Username};
use crate::domain::client::{Client, ClientId, ClientUse};
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant, GrantId};
use crate::domain::opaque_token::TokenHash;
use crate::domain::refresh_token::{Line, Presented};
use crate::keys::set::KeySet;

use changes::Changes;
use records::Portable;

pub use installation::Installation;
pub use pending::{PendingStore, Room};

/// The store could not do what it was asked. Nothing that was asked is half done. Callers answer 503.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store is closed, gone or failing.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A stored value cannot be read: wrong `STORE_KEY`, or damage.
    #[error(
        "a stored value cannot be read: STORE_KEY is not the one that it was written with, or the data is damaged"
    )]
    Unreadable,
}

/// What became of a registration.
#[derive(Debug)]
pub enum Registration {
    /// The client is new.
    Added(Client),
    /// The same public client had registered before. It belongs to nobody alone now, so its registration access
    /// token has ceased to count: whoever knows a client's metadata must not be able to delete it for others.
    Known(Client),
    /// There are as many clients as there may be, and each of them has been used.
    Full,
}

/// What a registration is subject to.
#[derive(Debug, Clone, Copy)]
pub struct RegistrationTerms {
    /// The present second.
    pub now: UnixTime,
    /// When the client goes if nobody uses it.
    pub unused_until: UnixTime,
    /// The most clients there may be. Beyond it the oldest never-used ones make room, but for those that are kept
    /// ([`Client::kept_until`]).
    pub ceiling: u64,
    /// The most never-used clients there may be. Beyond it the oldest of them make room.
    pub unused_ceiling: u64,
}

/// What became of a code that was presented.
#[derive(Debug)]
pub enum Redemption {
    /// It was live; the grant now is.
    Redeemed,
    /// It had been used before. The grant that it made is revoked (RFC 6749 §4.1.2).
    Replayed,
    /// Unknown or expired.
    Unknown,
}

/// A code as found, before it is used.
#[derive(Debug)]
pub enum FoundCode {
    /// Live.
    Live(AuthorizationCode),
    /// Used before. Whether it is now presented by whom it was for, and so comes again, is for the caller to see.
    Used(AuthorizationCode),
    /// Unknown or expired.
    Unknown,
}

/// What became of a refresh token that was presented.
#[derive(Debug)]
pub enum Rotation {
    /// It was live and has been replaced.
    Rotated(Grant),
    /// It had been replaced a moment ago, and its successor is unused: here is the successor again.
    Repeated {
        /// The grant.
        grant: Grant,
        /// Opens with the presented token only.
        sealed_successor: Vec<u8>,
    },
    /// It had been used up. The grant is revoked.
    Reused(GrantId),
    /// Belongs to no grant.
    Unknown,
}

/// A refresh token's successor, and how it is to be kept.
#[derive(Debug, Clone)]
pub struct Successor {
    /// SHA-256 of the new token.
    pub hash: TokenHash,
    /// Its place in the line of the grant's tokens.
    pub line: Line,
    /// The new token, sealed with the old one.
    pub sealed: Vec<u8>,
    /// The grant's new end.
    pub expires_at: UnixTime,
}

impl Successor {
    /// Puts it in the place of the grant's live token.
    fn replace(&self, grant: &mut Grant, now: UnixTime) {
        let current = (self.hash, self.line.clone());
        grant.rotate(current, self.sealed.clone(), now, self.expires_at);
    }
}

/// The store.
#[async_trait]
pub trait Store: PendingStore + Portable + Installation {
    /// Finds `client` under one of `ids`, or registers it under the first of them that is free ([`Registration`]). Of
    /// equal registrations at once, one adds it.
    async fn register_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        terms: &RegistrationTerms,
    ) -> Result<Registration, StoreError>;
    /// The client that `client` is already, if it registered before: under one of `ids`, or under another identifier because the
    /// first of them was taken then.
    async fn registered_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        now: UnixTime,
    ) -> Result<Option<Client>, StoreError>;
    /// Enters a client of the operator's, to stay until it is deleted; false when its identifier is taken.
    async fn add_client(&self, client: &Client, now: UnixTime) -> Result<bool, StoreError>;
    /// The client of that identifier.
    async fn client(&self, id: &ClientId, now: UnixTime) -> Result<Option<Client>, StoreError>;
    /// Up to `most` clients by identifier, from the one after `after` on: the operator's view.
    async fn clients(
        &self,
        after: Option<&ClientId>,
        most: usize,
        now: UnixTime,
    ) -> Result<Vec<Client>, StoreError>;
    /// Replaces registration, secret, metadata, fingerprint and registration access token of a client (RFC 7592 §2.2);
    /// false when `management` is not its registration access token any more.
    async fn update_client(&self, management: &TokenHash, updated: &Client) -> Result<bool, StoreError>;
    /// Switches a client on or off; false when there is none.
    async fn set_client_disabled(&self, id: &ClientId, disabled: bool) -> Result<bool, StoreError>;
    /// Forgets a client, and with it every grant that it holds; false when there is none.
    async fn delete_client(&self, id: &ClientId) -> Result<bool, StoreError>;
    /// As [`Store::delete_client`], for the client itself (RFC 7592 §2.3); false when `management` is not its registration
    /// access token any more, since another party has registered it too.
    async fn delete_client_managed_by(
        &self,
        management: &TokenHash,
        id: &ClientId,
    ) -> Result<bool, StoreError>;

    /// Adds an account; false when the name is taken.
    async fn add_account(&self, account: &Account) -> Result<bool, StoreError>;
    /// Forgets an account; false when there is none.
    async fn remove_account(&self, subject: &Subject) -> Result<bool, StoreError>;
    /// The account of that name.
    async fn account_named(&self, username: &Username) -> Result<Option<Account>, StoreError>;
    /// The account of that person.
    async fn account(&self, subject: &Subject) -> Result<Option<Account>, StoreError>;
    /// All accounts, by name.
    async fn accounts(&self) -> Result<Vec<Account>, StoreError>;
    /// Replaces a password, and ends the logins from before `now`; false when it is no longer `old`, or the account
    /// is gone.
    async fn replace_password(
        &self,
        subject: &Subject,
        old: &StoredPassword,
        new: &StoredPassword,
        now: UnixTime,
    ) -> Result<bool, StoreError>;

    /// Switches an account on or off; false when there is none. One that is switched off is logged out, and its tokens
    /// open nothing.
    async fn set_account_disabled(&self, subject: &Subject, disabled: bool) -> Result<bool, StoreError>;
    /// Replaces the groups of an account; false when there is none.
    async fn set_account_groups(&self, subject: &Subject, groups: &[Group]) -> Result<bool, StoreError>;
    /// Replaces the address of an account; false when there is none.
    async fn set_account_email(&self, subject: &Subject, email: Option<&str>) -> Result<bool, StoreError>;

    /// Remembers a login.
    async fn add_session(&self, session: &LoginSession) -> Result<(), StoreError>;
    /// The live login behind a cookie.
    async fn session(&self, id: &TokenHash, now: UnixTime) -> Result<Option<LoginSession>, StoreError>;
    /// Forgets a login.
    async fn end_session(&self, id: &TokenHash) -> Result<(), StoreError>;

    /// Remembers a code, once for each `approval`: false when that approval already made one or was denied, or the client
    /// is gone.
    async fn add_code(
        &self,
        approval: &str,
        hash: &TokenHash,
        code: &AuthorizationCode,
        used: &ClientUse,
    ) -> Result<bool, StoreError>;
    /// Notes that `approval` was denied, at least until `until`: it makes no code from now on. False when it made one
    /// before. Denying it once more is no different.
    async fn deny(&self, approval: &str, until: UnixTime, now: UnixTime) -> Result<bool, StoreError>;
    /// Looks at a code without using it.
    async fn find_code(&self, hash: &TokenHash, now: UnixTime) -> Result<FoundCode, StoreError>;
    /// Uses a code and makes its grant, in one step. Of many at once one succeeds. `grant` has the identifier that the
    /// code was issued with.
    async fn redeem_code(
        &self,
        hash: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError>;

    /// Makes a grant that no code stands for; false when its client is gone or switched off.
    async fn add_grant(&self, grant: &Grant, used: &ClientUse) -> Result<bool, StoreError>;
    /// The live grant of that identifier.
    async fn grant(&self, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError>;
    /// The live grant that a refresh token, used or not, belongs to ([`Grant::has_issued`]).
    async fn grant_of_refresh(&self, token: &Presented, now: UnixTime) -> Result<Option<Grant>, StoreError>;
    /// Judges a refresh token ([`Grant::judge_refresh`]) and acts on it, in one step.
    async fn rotate_refresh(
        &self,
        presented: &Presented,
        successor: &Successor,
        used: &ClientUse,
        grace: Duration,
    ) -> Result<Rotation, StoreError>;
    /// Ends a grant and everything issued from it.
    async fn revoke_grant(&self, id: &GrantId) -> Result<(), StoreError>;
    /// A live grant of that client and person, if the client still holds it ([`Grant::is_held_by`]), with the person's
    /// account: what a check needs, in one round trip. A grant on behalf of another one counts only as long as that
    /// other one does.
    async fn held_grant(
        &self,
        id: &GrantId,
        client: &ClientId,
        subject: &Subject,
        now: UnixTime,
    ) -> Result<Option<(Grant, Account)>, StoreError>;

    /// The signing keys; none before the first start.
    async fn signing_keys(&self) -> Result<Option<KeySet>, StoreError>;
    /// Puts `changed` in the place of the set with the revision `seen` (none: there is no set yet); false when it is
    /// no longer that one: replicas that change the set at once agree on one change.
    async fn replace_signing_keys(&self, seen: Option<u64>, changed: &KeySet) -> Result<bool, StoreError>;

    /// Remembers `name` until `until`; false when it was remembered already (replay of assertions).
    async fn remember_once(&self, name: &str, until: UnixTime, now: UnixTime) -> Result<bool, StoreError>;

    /// Removes what has expired and does not go by itself; how many rows it was.
    async fn sweep(&self, now: UnixTime) -> Result<u64, StoreError>;
    /// What changes, for those who keep copies of what [`Store::held_grant`] said. A change is noted before the call
    /// that made it returns; those of other processes as soon as they are heard of.
    fn changes(&self) -> &Changes;
    /// Whether the store answers and accepts writes.
    async fn ping(&self) -> Result<(), StoreError>;
}
