//! Copies the whole content of a store or dump to another store or dump. Before a copy is reported as successful,
//! the records in the target are counted.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{Either, select};
use tokio::sync::{mpsc, oneshot, watch};

use crate::domain::account::short_id;
use crate::domain::clock::{Clock, Random, RandomUnavailable, UnixTime};
use crate::keys::seal::StoreKey;
use crate::threads;

use super::dump::{DumpError, DumpReader, DumpWriter};
use super::embedded::OpenError;
use super::records::{Counts, Kind, Portable, Record, Sink};
use super::{Store, StoreError};

/// A time at which nothing has expired. An export or import does not decide whether a row has expired,
/// because the clock could be wrong at that moment. The target store removes expired rows later.
const BEFORE_ALL: UnixTime = UnixTime(0);

/// The number of batches that can wait in the channel.
const WAITING: usize = 4;

/// How long to wait for the file of an export after the export has failed.
const A_MOMENT: Duration = Duration::from_secs(1);

/// The reason why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The source store failed.
    #[error("reading the store: {0}")]
    Source(#[source] StoreError),
    /// The dump cannot be read.
    #[error("{}", about(path, source, "read", "Name a file that `auth-service store export` has written"))]
    Unreadable {
        /// The path of the dump.
        path: PathBuf,
        /// The reason why it cannot be used.
        source: DumpError,
    },
    /// The dump cannot be written.
    #[error(
        "{}",
        about(
            path,
            source,
            "written",
            "Name a new file in a directory that exists, to which the process that writes it can write (the running service, if \
             there is one), and with enough free space"
        )
    )]
    Unwritable {
        /// The path of the dump.
        path: PathBuf,
        /// The reason why it cannot be written.
        source: DumpError,
    },
    /// The target cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Writing to the target failed.
    #[error(
        "writing: {0}. An import into the embedded store has left the previous content unchanged; an import into Redis can be started again with the same command"
    )]
    Writing(#[source] StoreError),
    /// Some records are missing in the target.
    #[error(
        "{missing} {} did not arrive. The store might have been in use: stop every service that uses either store, and \
         start again",
        kind.text(*missing)
    )]
    Missing {
        /// The kind of the missing records.
        kind: Kind,
        /// The number of the missing records.
        missing: u64,
    },
    /// The operating system provided no random bytes.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
}

/// The reason why a store cannot be the target of a copy.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The store already has content.
    #[error("{0} is not empty. Name an empty store, or use --replace to replace its content")]
    NotEmpty(String),
    /// The clock of the target shows a different time. Rows could be removed too early, or kept too long.
    #[error(
        "the clock of Redis shows {}, and that of this machine {}: correct both clocks (NTP), and repeat the command. \
         Nothing was changed",
        .store.readable(),
        .here.readable()
    )]
    Clock {
        /// The time according to the target's clock.
        store: UnixTime,
        /// The time according to this machine's clock.
        here: UnixTime,
    },
    /// The embedded store cannot be opened.
    #[error(transparent)]
    Open(OpenError),
    /// The files of the store cannot be moved.
    #[error("the imported store cannot be moved to its place: {0}")]
    Io(#[from] std::io::Error),
    /// The target store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The source of a copy.
pub enum Source {
    /// A store that is open in this process.
    Store(Arc<dyn Store>),
    /// A dump, and the key with which it is encrypted.
    Dump(PathBuf, StoreKey),
}

/// The target of a copy. It cannot be used as a store until it is finished.
#[async_trait]
pub trait Target: Send + Sized {
    /// Writes records and the rows that point to them. Writing the same record again changes nothing.
    async fn put(&mut self, records: Vec<Record>, now: UnixTime) -> Result<(), StoreError>;
    /// The content written so far.
    fn content(&self) -> Result<&dyn Store, StoreError>;
    /// Whether the target removes expired rows on its own, so that they can no longer be counted.
    fn removes_expired(&self) -> bool;
    /// Completes the target, so that it can be used as a store.
    async fn finish(self) -> Result<(), TargetError>;
}

/// Describes an error in reading or writing a dump. The operating system's error alone does not state what was
/// attempted.
fn about(path: &Path, source: &DumpError, attempted: &str, fix: &str) -> String {
    let path = path.display();
    match source {
        DumpError::Io(error) => format!("{path} cannot be {attempted}: {error}. {fix}"),
        other => format!("{path}: {other}"),
    }
}

impl Source {
    /// Calls `each` with all records that have not expired at `now`, batch by batch.
    async fn read(
        &self,
        now: UnixTime,
        mut each: impl AsyncFnMut(Vec<Record>) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        let (to, mut records) = mpsc::channel(WAITING);
        match self {
            Self::Store(store) => {
                let store = Arc::clone(store);
                let reading = tokio::spawn(async move { store.export(now, to).await });
                while let Some(batch) = records.recv().await {
                    each(batch).await?;
                }
                let ended = reading.await.map_err(|error| StoreError::Unavailable(error.to_string()));
                ended.and_then(|ended| ended).map_err(TransferError::Source)
            }
            Self::Dump(path, key) => {
                let (file, key) = (path.clone(), key.clone());
                let read = move || read_dump(&file, &key, now, &to);
                let reading = tokio::spawn(threads::beside("dump", "the file of a dump", read));
                while let Some(batch) = records.recv().await {
                    each(batch).await?;
                }
                let ended = match reading.await {
                    Ok(Ok(ended)) => ended,
                    Ok(Err(no_thread)) => Err(DumpError::Io(std::io::Error::other(no_thread))),
                    Err(cut_off) => Err(DumpError::Io(std::io::Error::other(cut_off))),
                };
                ended.map_err(|source| TransferError::Unreadable { path: path.clone(), source })
            }
        }
    }

    /// Reads the whole source and counts its records.
    pub async fn count(&self) -> Result<Counts, TransferError> {
        self.count_at(BEFORE_ALL).await
    }

    async fn count_at(&self, now: UnixTime) -> Result<Counts, TransferError> {
        let mut counts = Counts::default();
        let each = async |batch: Vec<Record>| {
            counts.add(&batch);
            Ok(())
        };
        self.read(now, each).await?;
        Ok(counts)
    }
}

fn read_dump(path: &Path, key: &StoreKey, now: UnixTime, to: &Sink) -> Result<(), DumpError> {
    let mut reader = DumpReader::new(File::open(path)?, key)?;
    while let Some(mut records) = reader.next_records()? {
        records.retain(|record| record.until.is_none_or(|until| until > now));
        if !records.is_empty() && to.blocking_send(records).is_err() {
            break;
        }
    }
    Ok(())
}

/// Copies everything from `source` to the target. The target is created only once the whole source has been read
/// without an error. `progress` is called with the number of records written so far.
pub async fn copy<T: Target>(
    source: &Source,
    target: impl AsyncFnOnce() -> Result<T, TargetError>,
    clock: &dyn Clock,
    progress: impl Fn(u64),
) -> Result<Counts, TransferError> {
    source.count().await?;
    let mut target = target().await?;
    let (now, mut written) = (clock.now(), 0);
    let each = async |batch: Vec<Record>| {
        written += batch.len() as u64;
        target.put(batch, now).await.map_err(TransferError::Writing)?;
        progress(written);
        Ok(())
    };
    source.read(BEFORE_ALL, each).await?;
    // Both sides are counted as of the same time, so that records that expired during the copy make no difference.
    let now = if target.removes_expired() { clock.now() } else { BEFORE_ALL };
    let (asked, there) = (source.count_at(now).await?, count(target.content(), now).await?);
    if let Some((kind, missing)) = asked.missing_in(&there) {
        return Err(TransferError::Missing { kind, missing });
    }
    target.finish().await?;
    Ok(there)
}

async fn count(store: Result<&dyn Store, StoreError>, now: UnixTime) -> Result<Counts, TransferError> {
    let store = store.map_err(TransferError::Writing)?;
    let (to, mut records) = mpsc::channel::<Vec<Record>>(WAITING);
    let mut counts = Counts::default();
    let counting = async {
        while let Some(batch) = records.recv().await {
            counts.add(&batch);
        }
    };
    let (exported, ()) = tokio::join!(store.export(now, to), counting);
    exported.map_err(TransferError::Writing)?;
    Ok(counts)
}

/// Writes the content of a store to a new file at `path` that only its owner can read. The file gets this
/// name once it is complete.
///
/// # Errors
/// Fails if the file already exists, or if something cannot be read or written.
pub async fn export(
    store: &dyn Portable,
    path: &Path,
    key: &StoreKey,
    (now, random): (UnixTime, &dyn Random),
    progress: impl Fn(u64),
) -> Result<Counts, TransferError> {
    let (to, records) = mpsc::channel::<Vec<Record>>(WAITING);
    let (written, mut told) = watch::channel(0);
    let (complete, is_complete) = oneshot::channel();
    let id = random.bytes()?;
    let dump = NewDump { path: path.to_owned(), beside: incomplete(path, id), key: key.clone(), id, now };
    let exported = async {
        let exported = store.export(BEFORE_ALL, to).await.map_err(TransferError::Source);
        // If the export failed, the file is left incomplete.
        if exported.is_ok() {
            // Writing the file might have failed.
            let _ = complete.send(());
        }
        exported
    };
    let written = async {
        // A hanging disk must not block this thread, which other tasks need.
        let write = move || dump.write(records, &written, is_complete);
        let writing = threads::beside("dump", "the file of a dump", write);
        let telling = async {
            while told.changed().await.is_ok() {
                progress(*told.borrow_and_update());
            }
        };
        let (written, ()) = tokio::join!(writing, telling);
        let written = written.unwrap_or_else(|no_thread| Err(std::io::Error::other(no_thread).into()));
        written.map_err(|source| TransferError::Unwritable { path: path.to_owned(), source })
    };
    let outcome = match select(pin!(exported), pin!(written)).await {
        Either::Left((Ok(()), written)) => written.await?,
        Either::Left((Err(error), written)) => {
            // If writing the file failed, that is the cause of the failed export. A write that hangs is not
            // awaited.
            tokio::time::timeout(A_MOMENT, written).await.unwrap_or(Ok(None))?;
            return Err(error);
        }
        Either::Right((written, _)) => written?,
    };
    outcome.ok_or_else(|| {
        TransferError::Source(StoreError::Unavailable("the export was interrupted".to_owned()))
    })
}

/// A file that an export writes.
struct NewDump {
    path: PathBuf,
    /// The path of the file until it is complete.
    beside: PathBuf,
    key: StoreKey,
    id: [u8; 32],
    now: UnixTime,
}

impl NewDump {
    /// Writes all records to the file, and completes it if the export is complete.
    fn write(
        self,
        mut records: mpsc::Receiver<Vec<Record>>,
        written: &watch::Sender<u64>,
        is_complete: oneshot::Receiver<()>,
    ) -> Result<Option<Counts>, DumpError> {
        if self.path.exists() {
            return Err(DumpError::Exists);
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.beside)?;
        let completed =
            self.fill(file, &mut records, written).and_then(|writer| match is_complete.blocking_recv() {
                Ok(()) => finish(writer, &self.beside, &self.path).map(Some),
                Err(_) => Ok(None),
            });
        if !matches!(completed, Ok(Some(_))) {
            let _ = std::fs::remove_file(&self.beside);
        }
        completed
    }

    fn fill(
        &self,
        file: File,
        records: &mut mpsc::Receiver<Vec<Record>>,
        written: &watch::Sender<u64>,
    ) -> Result<DumpWriter<File>, DumpError> {
        let mut writer = DumpWriter::new(file, &self.key, self.id, self.now)?;
        while let Some(batch) = records.blocking_recv() {
            if written.is_closed() {
                break;
            }
            writer.add(&batch)?;
            written.send_modify(|written| *written += batch.len() as u64);
        }
        Ok(writer)
    }
}

/// The path of the file until it is complete. No other export has the same one, even if it writes the same dump at the
/// same time.
fn incomplete(path: &Path, id: [u8; 32]) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", short_id(id)));
    PathBuf::from(name)
}

/// Gives the complete file its name, unless another export has completed a file with this name in the meantime.
fn place(beside: &Path, path: &Path) -> Result<(), DumpError> {
    match std::fs::hard_link(beside, path) {
        Ok(()) => Ok(std::fs::remove_file(beside)?),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(DumpError::Exists),
        // Some file systems have no hard links.
        Err(_) if path.exists() => Err(DumpError::Exists),
        Err(_) => Ok(std::fs::rename(beside, path)?),
    }
}

fn finish(writer: DumpWriter<File>, beside: &Path, path: &Path) -> Result<Counts, DumpError> {
    let (counts, file) = writer.finish()?;
    file.sync_all()?;
    place(beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use crate::keys::seal::SystemRandomSource;
    use crate::store::records::Resealed;

    use super::*;

    /// A store that sends no records: its exports either fail immediately or never end.
    struct Empty {
        key: StoreKey,
        fails: bool,
    }

    #[async_trait]
    impl Portable for Empty {
        async fn export(&self, _: UnixTime, to: Sink) -> Result<(), StoreError> {
            if self.fails {
                return Err(StoreError::Unavailable("it is away".to_owned()));
            }
            to.closed().await;
            Ok(())
        }

        async fn reseal(&self) -> Result<Resealed, StoreError> {
            Ok(Resealed::default())
        }

        fn key(&self) -> &StoreKey {
            &self.key
        }
    }

    #[tokio::test]
    async fn an_export_that_fails_or_is_broken_off_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dump");
        let left = || std::fs::read_dir(directory.path()).unwrap().count();
        let mut store = Empty { key: StoreKey::new([7; 32]), fails: true };
        let at = (UnixTime(1), &SystemRandomSource as &dyn Random);
        let error = export(&store, &path, &store.key, at, |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("it is away"), "{error}");
        assert_eq!(left(), 0);
        store.fails = false;
        let mut broken_off = export(&store, &path, &store.key, at, |_| {}).boxed_local();
        while left() == 0 {
            assert!((&mut broken_off).now_or_never().is_none());
        }
        drop(broken_off);
        while left() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn of_two_exports_to_one_file_at_the_same_time_neither_damages_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dump");
        let store = Empty { key: StoreKey::new([7; 32]), fails: false };
        let at = (UnixTime(1), &SystemRandomSource as &dyn Random);
        let left = || std::fs::read_dir(directory.path()).unwrap().count();
        let mut exports: Vec<_> =
            (0..2).map(|_| export(&store, &path, &store.key, at, |_| {}).boxed_local()).collect();
        while left() < 2 {
            for running in &mut exports {
                assert!(running.now_or_never().is_none());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        std::fs::write(&one, "one").unwrap();
        std::fs::write(&other, "other").unwrap();
        place(&one, &path).unwrap();
        assert!(matches!(place(&other, &path), Err(DumpError::Exists)));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        drop(exports);
    }
}
