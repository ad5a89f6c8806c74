//! The Redis store. It supports a single server, a server behind sentinels, and a cluster, and any number of
//! replicas of this service.
//!
//! Values are encrypted, so Redis cannot evaluate them. To change a row, the process reads it, and decides by the
//! same pure rules as the embedded store. A script then writes the result, on the condition that the row has not
//! changed in between (`docs/adr/0003-redis-store.md`).

mod account_links;
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
mod codes;
mod connection;
mod consents;
mod devices;
mod errors;
mod grants;
mod heartbeat_rows;
mod heartbeats;
mod history;
mod holdings;
mod identity;
mod installation;
mod keys;
mod maintenance;
mod permissions;
mod places;
mod portable;
mod pushed_requests;
mod renewal;
mod replays;
mod server_clock;
mod sessions;
mod signing_keys;
mod silence;
mod sole_clients;
mod store_name;
mod tracking;
mod tries;
mod turns;
mod words;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::keys::seal::{Purpose, Sealer, StoreKey};

use super::changes::{Changes, Observable};
use super::{Store, StoreError};
use age::Age;
use begin::NewStore;
use cells::Cells;
use connection::Connection;
use keys::Keys;
use tracking::{Heard, Tracking};
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
    /// Redis has never been used or has lost everything. In the second case, they must not write anything before a
    /// backup is restored.
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

impl Store for RedisStore {}

impl Observable for RedisStore {
    fn changes(&self) -> &Changes {
        &self.cells.changes
    }
}
