//! The open database. After a failed read or write, redb refuses all operations, because the state on disk is
//! unknown. The database is then closed and opened again. Reads succeed as soon as it is open, and writes as soon
//! as the disk accepts them. Opening it includes a repair, which writes. While the disk refuses that, the repair is
//! made in memory, so that the database can at least be read.

use std::fs::{self, File};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use metrics::Gauge;
use redb::{Builder, Database, DatabaseError, StorageBackend};
use rustix::fs::{Advice, fadvise};

use crate::domain::replaced_token::Grace;
use crate::store::StoreError;
use crate::store::outage::Outages;

use super::not_empty::NotEmpty;
use super::opened_file::{FileState, HEADER, OpenedFile, read_write, state_of};
use super::rows::unavailable;
use super::unwritten::Unwritten;

/// The first and the maximum pause before the next attempt to write to the disk.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How long to wait for readers to finish before a database is closed.
const LETTING_GO: Duration = Duration::from_secs(2);
/// Size of redb's page cache in bytes. The default is a gigabyte, which strangers could occupy by filling the
/// store. The operating system caches the rest of the file while it has free memory.
const CACHE: usize = 12 * 1024 * 1024;
/// Number of bytes that the disk must accept before the database is written to again. This is enough for a few
/// pages and the pages that point to them.
const TRIAL: usize = 64 * 1024;

/// The database file, and the state of its failures.
pub(super) struct Disk {
    path: PathBuf,
    file: OpenedFile,
    /// The open database. It is `None` while the database is being opened again, or if that failed.
    open: RwLock<Option<Open>>,
    /// The header and the length of the file after the last write of this process, if they could be read. If the
    /// header differs later, another process has written to the file. If the file is shorter, it was truncated.
    left: Mutex<Option<FileState>>,
    trouble: Mutex<Option<Trouble>>,
    /// The number of times that the database has been closed so that it can be reopened.
    closed: AtomicU64,
    /// Whether the current write takes so long that its callers have stopped waiting.
    is_stalled: AtomicBool,
    /// The most recent periods in which writes failed, or took longer than their callers wait.
    outages: Outages,
    failing: Gauge,
}

/// An open database.
struct Open {
    database: Arc<Database>,
    /// Whether writes go to the file. Otherwise, they would stay in memory, and must not be made.
    is_writable: bool,
}

/// The reason why writes fail, and the time of the next attempt.
struct Trouble {
    reason: String,
    pause: Duration,
    next_try: Instant,
}

impl Disk {
    /// Opens the database at `path`. The file must exist, but can be empty.
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let io = |error| DatabaseError::Storage(redb::StorageError::Io(error));
        let file = OpenedFile::open(path).map_err(io)?;
        let opened = file.again(&read_write()).map_err(io)?;
        let database = without_panic(|| builder().create_file(opened))?;
        let failing = metrics::gauge!("mcp_gate_store_writes_failing");
        failing.set(0.0);
        Ok(Self {
            path: path.to_owned(),
            left: Mutex::new(file.state().ok()),
            file,
            open: RwLock::new(Some(Open { database: Arc::new(database), is_writable: true })),
            trouble: Mutex::new(None),
            closed: AtomicU64::new(0),
            is_stalled: AtomicBool::new(false),
            outages: Outages::default(),
            failing,
        })
    }

    /// The database for reading. The caller should drop it soon.
    pub(super) fn database(&self) -> Result<Arc<Database>, StoreError> {
        self.open_if(|_| true)
    }

    /// The database, if it is open and fulfils the condition.
    fn open_if(&self, condition: impl Fn(&Open) -> bool) -> Result<Arc<Database>, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let database = open.as_ref().filter(|open| condition(open)).map(|open| Arc::clone(&open.database));
        drop(open);
        database.ok_or_else(|| self.refusal())
    }

    /// The database for a long read such as an export, and a function that returns true when the caller must drop
    /// the database because it is about to be reopened.
    pub(super) fn database_for_long(
        &self,
    ) -> Result<(Arc<Database>, impl Fn() -> bool + use<'_>), StoreError> {
        let before = self.closed.load(Ordering::Acquire);
        Ok((self.database()?, move || self.closed.load(Ordering::Acquire) != before))
    }

    /// The database for writing, unless writes are known to fail. Only the writer thread calls this.
    pub(super) fn writable(&self) -> Result<Arc<Database>, StoreError> {
        if !self.is_as_we_left_it() {
            self.postpone(
                "it was removed, replaced, truncated or overwritten while it was in use, and new changes would be lost. If the \
                 original file is moved back unchanged, changes are accepted again within a few seconds. Otherwise, restore a backup, \
                 and restart",
            );
            return Err(self.refusal());
        }
        let from_file = || self.open_if(|open| open.is_writable);
        let is_due = match &*self.trouble() {
            None => return from_file(),
            Some(trouble) => Instant::now() >= trouble.next_try,
        };
        if !is_due {
            return Err(self.refusal());
        }
        if let Err(error) = self.try_disk() {
            self.postpone(&error.to_string());
            return Err(self.refusal());
        }
        if from_file().is_err() {
            self.open_again();
            self.note_beginning();
        }
        from_file()
    }

    fn is_as_we_left_it(&self) -> bool {
        let before = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |now: FileState, before: &FileState| {
            now.beginning == before.beginning && now.length >= before.length
        };
        self.file.at_path(File::options().read(true)).is_ok_and(|file| {
            before.as_ref().is_none_or(|before| state_of(&file).is_ok_and(|now| is_same(now, before)))
        })
    }

    /// Records the current header and length. Called after this process has changed the file.
    pub(super) fn note_beginning(&self) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = self.file.state().ok();
    }

    /// Records that a write succeeded.
    pub(super) fn succeeded(&self) {
        self.note_beginning();
        self.outages.succeeded();
        let was_stalled = self.is_stalled.swap(false, Ordering::Relaxed);
        if self.trouble().take().is_some() || was_stalled {
            self.failing.set(0.0);
            tracing::info!("the store can be written again");
        }
    }

    /// Records that a write takes longer than its caller waits, and returns the caller's error. At most `queue`
    /// writes wait for the disk.
    pub(super) fn stalled(&self, patience: Duration, queue: usize) -> StoreError {
        let reason = format!("the disk has not completed a write for {} s", patience.as_secs());
        if !self.is_stalled.swap(true, Ordering::Relaxed) {
            self.failing.set(1.0);
            tracing::error!(
                "{reason}. Until it does, no change takes effect: nobody can register or log in, and no access can be revoked. \
                 Changes that are requested in the meantime and take access away are made when the disk responds (at most {queue} of \
                 them), and others are not"
            );
        }
        StoreError::Unavailable(reason)
    }

    /// Records that a write requested at `from` failed, or took longer than its caller waits. The outage lasts until
    /// the next write that succeeds.
    pub(super) fn kept_waiting(&self, from: Instant) {
        self.outages.failed(from);
    }

    /// The grace period of refresh tokens, with the recent outages, which do not count. A client whose refresh token
    /// was replaced during an outage received an error, and might not have been able to retry until the outage was
    /// over.
    pub(super) fn grace(&self, period: Duration) -> Grace {
        self.outages.grace(period)
    }

    /// Records that a write or read failed, and opens the database again.
    pub(super) fn failed(&self, error: &StoreError) {
        self.postpone(&reason_of(error));
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
        let pause = trouble.as_ref().map_or(FIRST_PAUSE, |before| (before.pause * 2).min(MAX_PAUSE));
        if trouble.is_none() {
            self.failing.set(1.0);
            tracing::error!(
                reason,
                "the store cannot be written: nobody can log in or register until it can. Changes that disable, delete or revoke \
                 take effect immediately and are kept in store.reserve. Writing is tried again every {} s; free space on the disk of \
                 DATA_DIR, or repair the disk",
                MAX_PAUSE.as_secs()
            );
        }
        *trouble = Some(Trouble { reason: reason.to_owned(), pause, next_try: Instant::now() + pause });
    }

    /// Tests whether the disk accepts data. It writes to a different file, because a failed write to the database
    /// would require opening it again.
    fn try_disk(&self) -> std::io::Result<()> {
        let beside = self.path.with_extension("trial");
        // The file is always newly created. An existing one could be a pipe, for example, and opening it
        // would block.
        let _ = fs::remove_file(&beside);
        let tried = File::create_new(&beside).and_then(|mut file| {
            file.write_all(&vec![0; TRIAL])?;
            file.sync_all()
        });
        // A file that remains is removed at the next attempt.
        let _ = fs::remove_file(&beside);
        tried
    }

    fn open_again(&self) {
        self.closed.fetch_add(1, Ordering::Release);
        let before = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(()) = before.map_or(Some(()), |open| let_go(open.database)) else {
            tracing::error!("the store is still being read, and cannot be opened again");
            return;
        };
        self.forget_what_was_not_written();
        let opened = self.open_for_writing();
        let is_writable = opened.is_ok();
        let opened = opened.or_else(|error| {
            tracing::warn!(%error, "the store cannot be opened for writing again, and is opened for reading");
            self.open_for_reading()
        });
        match opened.map_err(unavailable) {
            Ok(database) => {
                let open = Open { database: Arc::new(database), is_writable };
                *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(open);
            }
            Err(error) => tracing::error!(%error, "the store cannot be opened again"),
        }
    }

    fn open_for_writing(&self) -> Result<Database, DatabaseError> {
        let file = self.file.again(&read_write()).map_err(redb::StorageError::Io)?;
        let file = NotEmpty::new(file)?;
        without_panic(|| builder().create_with_backend(file))
    }

    /// Opens the database so that its repair, and everything else that redb writes, stays in memory.
    fn open_for_reading(&self) -> Result<Database, DatabaseError> {
        let file = self.file.again(File::options().read(true)).map_err(redb::StorageError::Io)?;
        let unwritten = Unwritten::new(file, self.file.again(&read_write()).ok())?;
        // With this backend, an emptied file would become a new store.
        if unwritten.len().map_err(redb::StorageError::Io)? < HEADER as u64 {
            return Err(redb::StorageError::Corrupted("it is empty".to_owned()).into());
        }
        without_panic(|| builder().create_with_backend(unwritten))
    }

    /// Drops the system's cached pages of the file. After a failed sync, the cache can contain data that
    /// never reached the disk (`fsync(2)`), which must not be used. Data on disk is not affected.
    fn forget_what_was_not_written(&self) {
        let file = self.file.again(File::options().read(true));
        let forgotten = file.and_then(|file| Ok(fadvise(&file, 0, None, Advice::DontNeed)?));
        if let Err(error) = forgotten {
            tracing::warn!(%error, "the system's copies of the store's pages could not be dropped");
        }
    }
}

/// The reason in an error, without the words that all of these errors have in common.
pub(super) fn reason_of(error: &StoreError) -> String {
    match error {
        StoreError::Unavailable(reason) | StoreError::NeedsOperator(reason) => reason.clone(),
        StoreError::Unreadable => error.to_string(),
    }
}

/// The settings of redb for every database.
fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

/// redb panics if a damaged file contradicts its assumptions. This turns the panic into an error, so that it does
/// not terminate the process.
fn without_panic(open: impl FnOnce() -> Result<Database, DatabaseError>) -> Result<Database, DatabaseError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
        Err(redb::StorageError::Corrupted("its parts contradict each other".to_owned()).into())
    })
}

/// Closes a database once it has no readers. Returns `None` if that takes too long.
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

#[cfg(test)]
mod tests;
