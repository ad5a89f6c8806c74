//! The Redis store. It supports a single server, a server behind sentinels, and a cluster, and any number of
//! replicas of this service.
//!
//! Values are encrypted, so Redis cannot evaluate them. To change a row, the process reads it, and decides by the
//! same pure rules as the embedded store. A script then writes the result, on the condition that the row has not
//! changed in between (`docs/adr/0003-redis-store.md`).

mod accounts;
mod address;
mod age;
mod age_check;
mod age_report;
mod begin;
mod cells;
mod circuit;
mod client_use;
mod clients;
mod connection;
mod errors;
mod grants;
mod heartbeat_rows;
mod heartbeats;
mod history;
mod holdings;
mod identity;
mod installation;
mod keys;
mod pending;
mod permissions;
mod places;
mod portable;
mod renewal;
mod server_clock;
mod silence;
mod sole_clients;
mod store_name;
mod tracking;
mod tries;
mod turns;
mod words;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::domain::account::{Account, Group, LoginSession, StoredPassword, Subject, Username};
use crate::domain::client::{Client, ClientId};
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::domain::refresh_token::HashedRefreshToken;
use crate::keys::seal::{Purpose, Sealer, StoreKey};
use crate::keys::set::KeySet;

use super::changes::Changes;
use super::{
    Addition, Change, Deletion, Denial, DirectGrant, FoundCode, Issuance, LatestEnds, ManagedChange,
    OneTimeUse, Redemption, Registration, RegistrationTerms, Replacement, Rotation, Store, StoreError,
    Successor,
};
use age::Age;
use begin::NewStore;
use cells::{Cells, Found, Life};
use connection::Connection;
use keys::Keys;
use tracking::{Heard, Tracking};
use tries::Tries;
use turns::Turns;

pub use address::{InvalidRedisUrl, RedisAddress};
pub use heartbeats::HeartbeatPace;
pub use portable::RedisTarget;

/// The prefix of all keys.
const PREFIX: &str = "mcp-gate";
/// The content of the key-check row, which includes the schema version.
const KEY_CHECK: &str = "right key, schema 1";
/// The content of the key-check row during an import.
const UNFINISHED: &str = "an import is under way";
/// The schema version of this release.
const SCHEMA: u32 = 1;

/// A connection to Redis that implements [`Store`].
pub struct RedisStore {
    key: StoreKey,
    cells: Arc<Cells>,
    _tracking: Tracking,
    age_keeper: AbortHandle,
    age_changed: Arc<Notify>,
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.age_keeper.abort();
    }
}

/// Minimum time between two checks of the data's age after changes by other processes. Each check takes a round
/// trip.
const AGE_EVERY: Duration = Duration::from_millis(20);

/// Checks the age of the data whenever any process has changed the number of changes, their history or the identity of
/// the store, and whenever it is time to write a heartbeat. Cached values are used without a query to Redis, so they
/// must be dropped as soon as any of the three is missing or shows older data than before.
async fn keep_age(cells: Arc<Cells>, changed: Arc<Notify>) {
    loop {
        let _ = tokio::time::timeout(cells.age.pace().every, changed.notified()).await;
        // The identity is read first. Without it, the age is an error.
        let read = cells.identity().await;
        if read.is_err() || cells.check_age().await.is_err() {
            // The reason might also be that Redis did not respond. In that case, the next check queries it again.
            cells.changes.note_everything();
        } else {
            // If Redis does not respond, the next round tries again.
            let _ = cells.leave_heartbeat().await;
        }
        tokio::time::sleep(AGE_EVERY).await;
    }
}

impl RedisStore {
    /// Connects, and checks that the store key fits the stored data.
    ///
    /// # Errors
    /// Fails if Redis cannot be reached or used, or if its values were encrypted with a different key.
    pub async fn connect(address: &RedisAddress, key: &StoreKey) -> Result<Self, StoreError> {
        Self::connect_below(address, key, PREFIX).await
    }

    /// Like [`RedisStore::connect`], for commands that must not create a new store. They cannot determine whether
    /// Redis has never been used or has lost everything. In the second case, a backup will be restored, and
    /// nothing must be written before that.
    ///
    /// # Errors
    /// Fails in the cases of [`RedisStore::connect`], and if there is no store in Redis.
    pub async fn connect_to_known(address: &RedisAddress, key: &StoreKey) -> Result<Self, StoreError> {
        Self::unchecked(address, key, PREFIX).await?.checked(NewStore::Refuse).await
    }

    /// Like [`RedisStore::connect`], but with keys that start with `prefix`, so that several deployments can share
    /// one Redis server. The prefix can have letters, digits, `-` and `_`.
    pub async fn connect_below(
        address: &RedisAddress,
        key: &StoreKey,
        prefix: &str,
    ) -> Result<Self, StoreError> {
        Self::unchecked(address, key, prefix).await?.checked(NewStore::Begin).await
    }

    /// Changes the timing of heartbeats, so that tests do not take minutes.
    pub fn set_heartbeat_pace(&self, pace: HeartbeatPace) {
        self.cells.age.set_pace(pace);
        self.age_changed.notify_one();
    }

    async fn checked(self, new: NewStore) -> Result<Self, StoreError> {
        permissions::check(&self.cells).await?;
        begin::find(&self.cells, new).await?;
        let check = self.cells.keys.key_check();
        let found = self.cells.read::<String>(&check).await?;
        if found.is_none() {
            self.cells.swap(&check, found.as_ref(), &KEY_CHECK, None).await?;
        }
        // The service can start with a full Redis, because the stored data is still useful.
        self.check_schema().await?;
        // A process that has seen newer data might have left a claim.
        self.cells.check_age().await?;
        Ok(self)
    }

    /// Checks that the data in Redis has the schema of this release.
    async fn check_schema(&self) -> Result<(), StoreError> {
        match self.cells.read::<String>(&self.cells.keys.key_check()).await? {
            Some(check) if check.value == KEY_CHECK => Ok(()),
            Some(check) => Err(unfit(&check.value)),
            // Redis has been emptied since the connection was made, so all cached values become invalid.
            None => {
                self.cells.changes.note_everything();
                Ok(())
            }
        }
    }

    /// Connects without checking the stored data.
    async fn unchecked(address: &RedisAddress, key: &StoreKey, prefix: &str) -> Result<Self, StoreError> {
        let sealer = Sealer::new(key, Purpose::StoredValue)
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let mut random = [0_u8; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let age = Arc::new(Age::of_process(u64::from_be_bytes(random)));
        let connection = Connection::open(address, Arc::clone(&age)).await?;
        let (keys, changes) = (Keys::new(prefix), Arc::new(Changes::of_many_processes()));
        let age_changed = Arc::new(Notify::new());
        let heard =
            Heard { keys: keys.clone(), changes: Arc::clone(&changes), age: Arc::clone(&age_changed) };
        let tracking = Tracking::start(address, connection.followed(), heard);
        let cells = Arc::new(Cells {
            connection,
            keys,
            sealer,
            changes,
            age,
            turns: Turns::default(),
            making_room: tokio::sync::Mutex::default(),
        });
        let age_keeper = tokio::spawn(keep_age(Arc::clone(&cells), Arc::clone(&age_changed))).abort_handle();
        Ok(Self { key: key.clone(), cells, _tracking: tracking, age_keeper, age_changed })
    }
}

/// The error message for a key-check row of another release or an unfinished import.
fn unfit(check: &str) -> StoreError {
    let schema = check.strip_prefix("right key, schema ").and_then(|version| version.parse::<u32>().ok());
    StoreError::Unavailable(match schema {
        _ if check == UNFINISHED => {
            "an import into it was started but not finished: run `auth-service store import` or `migrate` again".to_owned()
        }
        Some(newer) if newer > SCHEMA => format!(
            "it was written by a newer release: its schema is version {newer}, and this one reads up to {SCHEMA}. Start \
             that release, or restore a backup from before it"
        ),
        _ => format!("it was written by another release ({check:?})"),
    })
}

#[async_trait]
impl Store for RedisStore {
    async fn register_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        terms: &RegistrationTerms,
    ) -> Result<Registration, StoreError> {
        clients::register(&self.cells, client, ids, terms).await
    }

    async fn registered_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        now: UnixTime,
    ) -> Result<Option<Client>, StoreError> {
        clients::registered(&self.cells, client, ids, now).await
    }

    async fn add_client(&self, client: &Client, now: UnixTime) -> Result<Addition, StoreError> {
        clients::enter_for_good(&self.cells, client, now).await
    }

    async fn client(&self, id: &ClientId, now: UnixTime) -> Result<Option<Client>, StoreError> {
        clients::live(&self.cells, id, now).await
    }

    async fn clients(
        &self,
        after: Option<&ClientId>,
        most: usize,
        now: UnixTime,
    ) -> Result<Vec<Client>, StoreError> {
        clients::page(&self.cells, after, most, now).await
    }

    async fn update_client(
        &self,
        management: &TokenHash,
        updated: &Client,
    ) -> Result<ManagedChange, StoreError> {
        clients::update(&self.cells, management, updated).await
    }

    async fn set_client_disabled(&self, id: &ClientId, disabled: bool) -> Result<Change, StoreError> {
        clients::set_disabled(&self.cells, id, disabled).await
    }

    async fn delete_client(&self, id: &ClientId) -> Result<Deletion, StoreError> {
        clients::delete(&self.cells, id).await
    }

    async fn delete_client_managed_by(
        &self,
        management: &TokenHash,
        id: &ClientId,
    ) -> Result<ManagedChange, StoreError> {
        clients::delete_managed_by(&self.cells, management, id).await
    }

    async fn add_account(&self, account: &Account) -> Result<Addition, StoreError> {
        accounts::add(&self.cells, account).await
    }

    async fn remove_account(&self, subject: &Subject) -> Result<Deletion, StoreError> {
        accounts::remove(&self.cells, subject).await
    }

    async fn account_named(&self, username: &Username) -> Result<Option<Account>, StoreError> {
        accounts::named(&self.cells, username).await
    }

    async fn account(&self, subject: &Subject) -> Result<Option<Account>, StoreError> {
        accounts::by_subject(&self.cells, subject).await
    }

    async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        accounts::all(&self.cells).await
    }

    async fn replace_password(
        &self,
        subject: &Subject,
        old: &StoredPassword,
        new: &StoredPassword,
    ) -> Result<Option<Account>, StoreError> {
        accounts::replace_password(&self.cells, subject, old, new).await
    }

    async fn set_account_disabled(&self, subject: &Subject, disabled: bool) -> Result<Change, StoreError> {
        accounts::change(&self.cells, subject, |account| account.set_disabled(disabled)).await
    }

    async fn set_account_groups(&self, subject: &Subject, groups: &[Group]) -> Result<Change, StoreError> {
        accounts::change(&self.cells, subject, |account| account.groups = groups.to_vec()).await
    }

    async fn set_account_email(&self, subject: &Subject, email: Option<&str>) -> Result<Change, StoreError> {
        accounts::change(&self.cells, subject, |account| account.email = email.map(str::to_owned)).await
    }

    async fn add_session(&self, session: &LoginSession) -> Result<(), StoreError> {
        // Sessions are added within a second of the login, so the time of login is the current time.
        let life = Life { until: session.expires_at, now: session.authenticated_at };
        let key = self.cells.keys.session(&session.id);
        let turn = self.cells.turn(&session.subject).await;
        self.cells.write(&key, session, life).await?;
        let held = holdings::try_hold(&self.cells, &holdings::New::session(session), &turn).await;
        if held.is_err() {
            // The login is refused, so its session is removed. The session might be in no list, and would
            // then not count against the limit of its account.
            let _ = self.cells.remove(&key).await;
        }
        held.map(|_| ())
    }

    async fn session(&self, id: &TokenHash, now: UnixTime) -> Result<Option<LoginSession>, StoreError> {
        self.cells.live(&self.cells.keys.session(id), now).await
    }

    async fn end_session(&self, id: &TokenHash) -> Result<(), StoreError> {
        holdings::remove_session(&self.cells, id).await
    }

    async fn add_code(
        &self,
        approval: &str,
        hash: &TokenHash,
        code: &AuthorizationCode,
        used: &ClientUse,
    ) -> Result<Issuance, StoreError> {
        grants::add_code(&self.cells, approval, hash, code, used).await
    }

    async fn deny(&self, approval: &str, until: UnixTime, now: UnixTime) -> Result<Denial, StoreError> {
        grants::deny(&self.cells, approval, until, now).await
    }

    async fn find_code(&self, hash: &TokenHash, now: UnixTime) -> Result<FoundCode, StoreError> {
        grants::find_code(&self.cells, hash, now).await
    }

    async fn redeem_code(
        &self,
        hash: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError> {
        grants::redeem_code(&self.cells, hash, grant, used).await
    }

    async fn add_grant(&self, grant: &Grant, used: &ClientUse) -> Result<DirectGrant, StoreError> {
        grants::add(&self.cells, grant, used).await
    }

    async fn grant(&self, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError> {
        grants::live(&self.cells, id, now).await
    }

    async fn grant_of_refresh(
        &self,
        token: &HashedRefreshToken,
        now: UnixTime,
    ) -> Result<Option<Grant>, StoreError> {
        grants::live_of_refresh(&self.cells, token, now).await
    }

    async fn rotate_refresh(
        &self,
        presented: &HashedRefreshToken,
        successor: &Successor,
        used: &ClientUse,
        grace: Duration,
    ) -> Result<Rotation, StoreError> {
        grants::rotate(&self.cells, presented, successor, used, grace).await
    }

    async fn revoke_grant(&self, id: &GrantId) -> Result<(), StoreError> {
        holdings::remove_grant(&self.cells, id).await
    }

    async fn held_grant(
        &self,
        id: &GrantId,
        client: &ClientId,
        subject: &Subject,
        now: UnixTime,
    ) -> Result<Option<(Grant, Account)>, StoreError> {
        grants::held(&self.cells, id, client, subject, now).await
    }

    async fn signing_keys(&self) -> Result<Option<KeySet>, StoreError> {
        // The age of the data is checked, because an older copy of the data could bring back a revoked key.
        let key = self.cells.keys.signing_keys();
        let (found, ()) = try_join(self.cells.read(&key), self.cells.check_age()).await?;
        Ok(found.map(|found| found.value))
    }

    async fn replace_signing_keys(
        &self,
        seen: Option<u64>,
        changed: &KeySet,
    ) -> Result<Replacement, StoreError> {
        let key = self.cells.keys.signing_keys();
        let found = self.cells.read::<KeySet>(&key).await?;
        if found.as_ref().map(|found| found.value.revision()) != seen {
            return Ok(Replacement::Outdated);
        }
        let is_replaced = match found {
            // It must be possible to revoke a key even if Redis is full.
            Some(found) => self.cells.swap_although_full(&key, &found, changed).await?,
            None => self.cells.swap(&key, None::<&Found<KeySet>>, changed, None).await?,
        };
        self.cells.count_change().await?;
        Ok(if is_replaced { Replacement::Replaced } else { Replacement::Outdated })
    }

    async fn remember_once(
        &self,
        name: &str,
        until: UnixTime,
        now: UnixTime,
    ) -> Result<OneTimeUse, StoreError> {
        let key = self.cells.keys.once(name);
        let mut tries = Tries::default();
        loop {
            tries.next().await?;
            let found = self.cells.read::<bool>(&key).await?;
            if found.as_ref().is_some_and(|found| found.is_live(now)) {
                return Ok(OneTimeUse::Replayed);
            }
            if self.cells.swap(&key, found.as_ref(), &true, Some(Life { until, now })).await? {
                return Ok(OneTimeUse::First);
            }
        }
    }

    /// Redis deletes expired rows itself. Only the index of clients must be updated.
    async fn sweep(&self, now: UnixTime) -> Result<u64, StoreError> {
        clients::sweep(&self.cells, now).await
    }

    /// Does nothing. Redis measures the lifetime of a row with its own clock, from the moment when the row is
    /// written.
    async fn shorten(&self, _ends: &LatestEnds) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn changes(&self) -> &Changes {
        &self.cells.changes
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Permissions are checked first, because the errors of other scripts do not name the command that was
        // refused.
        permissions::check(&self.cells).await?;
        self.check_schema().await?;
        self.cells.check_age().await?;
        // If `maxmemory` is reached, or if the server is a replica, reading works but writing does not.
        self.cells.write_for(&self.cells.keys.writable(), &true, None).await?;
        self.cells.count_owed().await
    }
}
