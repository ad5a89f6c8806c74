//! The open database, which is closed and opened again after a failure of its disk: after one failed read or write redb
//! refuses everything, since it cannot know what is on disk. Reads go on as soon as it is open again; writes as soon as
//! the disk takes any.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use metrics::Gauge;
use redb::{Builder, Database, DatabaseError};
use rustix::fs::{Advice, fadvise};

use crate::store::StoreError;

use super::rows::unavailable;

/// The pause before the disk is tried again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long those who read may take to let go of a database that is to be closed.
const LETTING_GO: Duration = Duration::from_secs(2);
/// Bytes of redb's header.
const HEADER: usize = 320;
/// Bytes that redb keeps of the file, where it would keep a gigabyte: what strangers fill the store with must not fill our memory.
/// The system keeps the rest as long as it has room.
const CACHE: usize = 12 * 1024 * 1024;
/// What the disk has to take before the database is written to again: a few pages and what leads to them.
const TRIAL: usize = 64 * 1024;

/// See the module's text.
pub(super) struct Disk {
    path: PathBuf,
    /// The file that was opened, by device and number: another one may come to have its path.
    file: (u64, u64),
    /// Nothing while it is being opened again, or when it cannot be.
    database: RwLock<Option<Arc<Database>>>,
    /// How the file begins since our last write, if that could be read: with another beginning, somebody else has written over
    /// it.
    beginning: Mutex<Option<Vec<u8>>>,
    trouble: Mutex<Option<Trouble>>,
    failing: Gauge,
}

/// Why nothing can be written.
struct Trouble {
    reason: String,
    pause: Duration,
    next_try: Instant,
}

impl Disk {
    /// Opens the database at `path`, whose file is there, be it empty.
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let database = without_panic(|| builder().create(path))?;
        let failing = metrics::gauge!("mcp_gate_store_writes_failing");
        failing.set(0.0);
        Ok(Self {
            path: path.to_owned(),
            file: number(path).map_err(redb::StorageError::Io)?,
            beginning: Mutex::new(beginning(path).ok()),
            database: RwLock::new(Some(Arc::new(database))),
            trouble: Mutex::new(None),
            failing,
        })
    }

    /// The database, to read from. Whoever takes it lets go of it soon.
    pub(super) fn database(&self) -> Result<Arc<Database>, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner).clone();
        database.ok_or_else(|| self.refusal())
    }

    /// The database, to write to, unless nothing can be written at present. Only the one thread that writes asks.
    pub(super) fn writable(&self) -> Result<Arc<Database>, StoreError> {
        if !self.is_as_we_left_it() {
            self.postpone(
                "it was removed, replaced or written over while it was in use, and what is written now would be lost. Put it \
                 back, or restore a backup, and restart",
            );
            return Err(self.refusal());
        }
        let is_due = match &*self.trouble() {
            None => return self.database(),
            Some(trouble) => Instant::now() >= trouble.next_try,
        };
        if !is_due {
            return Err(self.refusal());
        }
        if let Err(error) = self.try_disk() {
            self.postpone(&error.to_string());
            return Err(self.refusal());
        }
        if self.database().is_err() {
            self.open_again();
            self.note_beginning();
        }
        self.database()
    }

    fn is_as_we_left_it(&self) -> bool {
        let before = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
        number(&self.path).ok() == Some(self.file)
            && before.as_ref().is_none_or(|before| beginning(&self.path).is_ok_and(|now| now == *before))
    }

    /// The file is as it is by our own doing.
    pub(super) fn note_beginning(&self) {
        *self.beginning.lock().unwrap_or_else(PoisonError::into_inner) = beginning(&self.path).ok();
    }

    /// Something was written.
    pub(super) fn succeeded(&self) {
        self.note_beginning();
        if self.trouble().take().is_some() {
            self.failing.set(0.0);
            tracing::info!("the store can be written again");
        }
    }

    /// Something could not be written, or read.
    pub(super) fn failed(&self, error: &StoreError) {
        let reason = match error {
            StoreError::Unavailable(reason) => reason.clone(),
            StoreError::Unreadable => error.to_string(),
        };
        self.postpone(&reason);
        self.open_again();
        self.note_beginning();
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusal(&self) -> StoreError {
        let reason =
            self.trouble().as_ref().map_or_else(|| "it is being opened".to_owned(), |t| t.reason.clone());
        StoreError::Unavailable(format!("{} cannot be written: {reason}", self.path.display()))
    }

    fn postpone(&self, reason: &str) {
        let mut trouble = self.trouble();
        let pause = trouble.as_ref().map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
        if trouble.is_none() {
            self.failing.set(1.0);
            tracing::error!(
                reason,
                "the store cannot be written: nobody can log in or register, and no user, client or token can be disabled or \
                 revoked until it can. It is tried again every {} s; free space on the disk of DATA_DIR, or mend it",
                LONGEST_PAUSE.as_secs()
            );
        }
        *trouble = Some(Trouble { reason: reason.to_owned(), pause, next_try: Instant::now() + pause });
    }

    /// Whether the disk takes anything at all. Tried beside the database, which would have to be closed again otherwise.
    fn try_disk(&self) -> std::io::Result<()> {
        let beside = self.path.with_extension("trial");
        // Made anew: what is there may be anything, a pipe too, which would be waited for.
        let _ = fs::remove_file(&beside);
        let tried = File::create_new(&beside).and_then(|mut file| {
            file.write_all(&vec![0; TRIAL])?;
            file.sync_all()
        });
        // What is left behind is overwritten next time.
        let _ = fs::remove_file(&beside);
        tried
    }

    fn open_again(&self) {
        let before = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(()) = before.map_or(Some(()), let_go) else {
            tracing::error!("the store is still being read, and cannot be opened again");
            return;
        };
        self.forget_what_was_not_written();
        // Not `create`, which would make a new store of a file that was emptied.
        match without_panic(|| builder().open(&self.path)).map_err(unavailable) {
            Ok(database) => {
                *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(database));
            }
            Err(error) => tracing::error!(%error, "the store cannot be opened again"),
        }
    }

    /// After a failed sync the system may show, as if it were on disk, what never got there (`fsync(2)`), and nothing is to
    /// be built on that. What is on disk stays.
    fn forget_what_was_not_written(&self) {
        let forgotten =
            File::open(&self.path).and_then(|file| Ok(fadvise(&file, 0, None, Advice::DontNeed)?));
        if let Err(error) = forgotten {
            tracing::warn!(%error, "the system's copies of the store's pages could not be dropped");
        }
    }
}

/// How redb is set up, whoever opens the file.
fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

/// redb ends itself when a damaged file contradicts what it is sure of. That is an answer about the file and not the end of us.
fn without_panic(open: impl FnOnce() -> Result<Database, DatabaseError>) -> Result<Database, DatabaseError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
        Err(redb::StorageError::Corrupted("its parts contradict each other".to_owned()).into())
    })
}

/// Closes a database when nobody reads any more.
fn let_go(mut database: Arc<Database>) -> Option<()> {
    let end = Instant::now() + LETTING_GO;
    loop {
        match Arc::try_unwrap(database) {
            Ok(last) => {
                drop(last);
                return Some(());
            }
            Err(still) if Instant::now() < end => database = still,
            Err(_) => return None,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// redb's header, which changes with every commit (320 bytes: magic number, geometry, two commit slots).
fn beginning(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(HEADER);
    File::open(path)?.take(HEADER as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn number(path: &Path) -> std::io::Result<(u64, u64)> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}
