//! Everything from one place to another: out of a store or a dump, into a store or a dump. What arrived is counted in the
//! place where it arrived, before it is said to be there.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::domain::clock::{Clock, Random, RandomUnavailable, UnixTime};
use crate::keys::seal::StoreKey;

use super::dump::{DumpError, DumpReader, DumpWriter};
use super::embedded::OpenError;
use super::records::{Counts, Kind, Portable, Record, Sink};
use super::{Store, StoreError};

/// Batches on their way.
const WAITING: usize = 4;

/// Why not everything is where it should be.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store that it comes from failed.
    #[error("reading the store: {0}")]
    Source(#[source] StoreError),
    /// The dump cannot be used.
    #[error("{}: {source}", path.display())]
    Dump {
        /// Which.
        path: PathBuf,
        /// Why.
        source: DumpError,
    },
    /// The target cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The target failed on the way.
    #[error(
        "writing: {0}. What was there before an import into the embedded store still is; an import into Redis is begun anew by the same command"
    )]
    Writing(#[source] StoreError),
    /// Some did not arrive.
    #[error(
        "{missing} of {} did not arrive. Was the store in use meanwhile? Stop every service that uses either store, and \
         begin anew",
        kind.text()
    )]
    Missing {
        /// Of what.
        kind: Kind,
        /// How many.
        missing: u64,
    },
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
}

/// Why nothing can be brought into a store.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// There is something already.
    #[error("{0} is not empty. Name an empty store, or say --replace to have what is in it replaced")]
    NotEmpty(String),
    /// The embedded store cannot be used.
    #[error(transparent)]
    Open(OpenError),
    /// Files cannot be moved.
    #[error("the imported store cannot be put in its place: {0}")]
    Io(#[from] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where everything comes from.
pub enum Source {
    /// A store.
    Store(Arc<dyn Store>),
    /// A dump, and what opens it.
    Dump(PathBuf, StoreKey),
}

/// Where everything goes. Until it is finished, nobody takes it for a store.
#[async_trait]
pub trait Target: Send + Sized {
    /// Writes records, and whatever leads to them. To write one again changes nothing.
    async fn put(&mut self, records: Vec<Record>, now: UnixTime) -> Result<(), StoreError>;
    /// What was written, to look at.
    fn content(&self) -> Result<&dyn Store, StoreError>;
    /// Makes a store of it.
    async fn finish(self) -> Result<(), TargetError>;
}

fn dump_error(path: &Path) -> impl Fn(DumpError) -> TransferError + '_ {
    move |source| TransferError::Dump { path: path.to_owned(), source }
}

impl Source {
    /// Calls `each` with everything that is not over at `now`, batch by batch.
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
                let reading = tokio::task::spawn_blocking(move || read_dump(&file, &key, now, &to));
                while let Some(batch) = records.recv().await {
                    each(batch).await?;
                }
                let ended = reading.await.map_err(|error| DumpError::Io(std::io::Error::other(error)));
                ended.and_then(|ended| ended).map_err(dump_error(path))
            }
        }
    }

    /// Reads everything once, and says how much it is.
    pub async fn count(&self, now: UnixTime) -> Result<Counts, TransferError> {
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

/// Brings everything from `source` to a target that is made once the whole source was read and found sound. `progress`
/// hears how many records have been written so far.
pub async fn copy<T: Target>(
    source: &Source,
    target: impl AsyncFnOnce() -> Result<T, TargetError>,
    clock: &dyn Clock,
    progress: impl Fn(u64),
) -> Result<Counts, TransferError> {
    source.count(clock.now()).await?;
    let mut target = target().await?;
    let (now, mut written) = (clock.now(), 0);
    let each = async |batch: Vec<Record>| {
        written += batch.len() as u64;
        target.put(batch, now).await.map_err(TransferError::Writing)?;
        progress(written);
        Ok(())
    };
    source.read(now, each).await?;
    // Both at one moment: what ended on the way is missed by nobody.
    let now = clock.now();
    let (asked, there) = (source.count(now).await?, count(target.content(), now).await?);
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

/// Writes what a store keeps to a new file at `path`, readable by its owner only. It appears under that name when it is
/// whole.
///
/// # Errors
/// When there is a file of that name already, and when anything cannot be read or written.
pub async fn export(
    store: &dyn Portable,
    path: &Path,
    key: &StoreKey,
    (now, random): (UnixTime, &dyn Random),
    progress: impl Fn(u64),
) -> Result<Counts, TransferError> {
    let failed = dump_error(path);
    let beside = PathBuf::from([path.as_os_str(), OsStr::new(".part")].into_iter().collect::<OsString>());
    let begun = || -> Result<_, DumpError> {
        if path.exists() {
            return Err(std::io::Error::from(std::io::ErrorKind::AlreadyExists).into());
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        DumpWriter::new(file, key, random.bytes().map_err(std::io::Error::other)?, now)
    };
    let mut writer = begun().map_err(&failed)?;
    let (to, mut records) = mpsc::channel::<Vec<Record>>(WAITING);
    let out = &mut writer;
    // It owns the receiver: when it fails, the export ends too.
    let writing = async move {
        let mut written = 0;
        while let Some(batch) = records.recv().await {
            out.add(&batch)?;
            written += batch.len() as u64;
            progress(written);
        }
        Ok::<(), DumpError>(())
    };
    let exported = async {
        let (exported, written) = tokio::join!(store.export(now, to), writing);
        written.map_err(&failed)?;
        exported.map_err(TransferError::Source)
    };
    let ended = match exported.await {
        Ok(()) => finish(writer, &beside, path).map_err(&failed),
        Err(error) => Err(error),
    };
    if ended.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    ended
}

fn finish(writer: DumpWriter<File>, beside: &Path, path: &Path) -> Result<Counts, DumpError> {
    let (counts, file) = writer.finish()?;
    file.sync_all()?;
    std::fs::rename(beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(counts)
}
