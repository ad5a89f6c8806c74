//! The embedded store: one redb file that one process uses. Every write is on disk before it is acknowledged.

mod account_links;
mod accounts;
mod client_use;
mod clients;
mod codes;
mod consents;
mod current_overlay;
mod devices;
mod disk;
mod files;
mod grants;
mod holdings;
mod installation;
mod made;
mod maintenance;
mod not_empty;
mod opened_file;
mod overlay;
mod places;
mod portable;
mod pushed_requests;
mod replays;
mod reserve;
mod rows;
mod schema;
mod sessions;
mod signing_keys;
mod sole_clients;
mod tables;
mod unwritten;
mod writable;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{DatabaseError, ReadableDatabase};

use crate::domain::account::Username;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::domain::replaced_token::StoreTime;
use crate::keys::seal::{Purpose, Sealer, StoreKey};

use super::changes::{Changes, Observable};
use super::{Store, StoreError};
use current_overlay::CurrentOverlay;
use disk::Disk;
use places::Places;
use reserve::Reserve;
use rows::Reader;
use schema::Unfit;
use writer::{Parts, Writer};

pub use files::{OpenError, exists, has_key_file, readable_key_file, store_key};
pub use portable::EmbeddedTarget;

/// An open redb file that implements [`Store`].
pub struct EmbeddedStore {
    key: StoreKey,
    disk: Arc<Disk>,
    sealer: Arc<Sealer>,
    overlay: Arc<CurrentOverlay>,
    changes: Arc<Changes>,
    writer: Writer,
    swept_for_room: Pause,
    places: Places,
    /// Identifies the clock of this process. It is `None` if there was no randomness.
    clock: Option<u64>,
}

/// Minimum number of seconds between two searches for expired rows that can be removed to make room.
const PAUSE: u64 = 5;

/// Limits how often an action is performed. The value is the time of the last one, in seconds since 1970.
#[derive(Default)]
struct Pause(AtomicU64);

impl Pause {
    /// Whether enough time has passed since the last action for the caller to perform the next one. If several
    /// callers run at the same time, the result is true for only one of them.
    fn is_due(&self, now: UnixTime) -> bool {
        let due = |last: u64| (now.0 < last || now.0 >= last.saturating_add(PAUSE)).then_some(now.0);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }
}

impl EmbeddedStore {
    /// Opens or creates the store in `directory`.
    ///
    /// # Errors
    /// Fails if the directory cannot be used, if another process has the store open, or if it was written with a
    /// different key.
    pub fn open(directory: &Path, key: &StoreKey) -> Result<Self, OpenError> {
        let path = files::store_file(directory)?;
        let store = Self::open_file(&path, key)?;
        files::mark_made(directory)?;
        Ok(store)
    }

    fn open_file(path: &Path, key: &StoreKey) -> Result<Self, OpenError> {
        let disk = Disk::open(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
            other => OpenError::Damaged(path.to_owned(), other.to_string()),
        })?;
        let disk = Arc::new(disk);
        let sealer = Arc::new(Sealer::new(key, Purpose::StoredValue)?);
        let damaged = |error: StoreError| match error {
            StoreError::Unreadable => OpenError::WrongKey(path.to_owned()),
            StoreError::Unavailable(reason) | StoreError::NeedsOperator(reason) => {
                OpenError::Damaged(path.to_owned(), reason)
            }
        };
        let database = disk.database().map_err(damaged)?;
        schema::prepare(&database, &sealer).map_err(|unfit| match unfit {
            Unfit::Newer(found) => OpenError::Newer { path: path.to_owned(), found },
            Unfit::Store(error) => damaged(error),
        })?;
        let applied = schema::number_of_overlay(&database, &sealer).map_err(damaged)?;
        drop(database);
        disk.note_beginning();
        let reserve = Reserve::open(path, &sealer, applied).map_err(OpenError::ReserveLost)?;
        let overlay = Arc::new(CurrentOverlay::new(reserve));
        let changes = Arc::new(Changes::of_one_process());
        let writer = Writer::start(Parts {
            disk: Arc::clone(&disk),
            sealer: Arc::clone(&sealer),
            overlay: Arc::clone(&overlay),
            changes: Arc::clone(&changes),
        })
        .map_err(damaged)?;
        let (swept_for_room, places) = (Pause::default(), Places::default());
        let mut clock = [0; 8];
        let clock = aws_lc_rs::rand::fill(&mut clock).is_ok().then_some(u64::from_ne_bytes(clock));
        Ok(Self { key: key.clone(), disk, sealer, overlay, changes, writer, swept_for_room, places, clock })
    }

    /// The time of this use on a clock that cannot be set. It is comparable only while this process runs.
    fn time_at(&self, used: &ClientUse) -> Option<StoreTime> {
        self.clock.map(|clock| StoreTime { clock, at: UnixTime(used.bounds.up.as_secs()) })
    }

    // Reads are served from redb's page cache or from one page on disk. That takes microseconds, so they run
    // on the caller's thread.
    fn read<T>(&self, look: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let overlay = self.overlay.get();
        let found = self.disk.database().and_then(|database| {
            let transaction = database.begin_read().map_err(rows::unavailable)?;
            look(&Reader::new(&transaction, &self.sealer, &overlay))
        });
        if let Err(StoreError::Unavailable(_)) = &found {
            // The writer thread notices the failure and opens the database again.
            self.writer.try_disk();
        }
        found
    }
}

/// The key of a user name. It is hashed, because keys are not encrypted and user names are personal data.
fn name_key(username: &Username) -> String {
    hashed(username.as_str())
}

/// Hashes external text with SHA-256, for use as a key.
fn hashed(text: &str) -> String {
    TokenHash::of(text.as_bytes()).text()
}

impl Store for EmbeddedStore {}

impl Observable for EmbeddedStore {
    fn changes(&self) -> &Changes {
        &self.changes
    }
}
