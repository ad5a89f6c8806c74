//! A single thread that performs all writes. All waiting writes go into one transaction with one sync to disk, so
//! that they share the latency of the disk. While the database cannot be written, changes that take access away go
//! into the overlay instead.

mod beside;
mod queued;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use redb::Database;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::keys::seal::Sealer;
use crate::store::StoreError;
use crate::store::changes::{About, Changes};

use super::current_overlay::CurrentOverlay;
use super::disk::Disk;
use super::reserve::APPLIED;
use super::rows::unavailable;
use super::tables::Table;
use super::writable::Writable;
use beside::Tried;
use queued::{Kind, QueuedWrite, Write, stopped};

/// The row that is written to test whether writes work.
const WRITABLE: &str = "writable";
/// Maximum number of writes in a transaction.
const BATCH: usize = 256;
/// Maximum number of queued writes. Further senders must wait.
const QUEUE: usize = 1024;
/// How long a caller waits for its write. A disk that takes longer has stalled, which can happen to a network
/// disk. Of the queued writes, only those that take access away are made if the disk responds later.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the caller of a test write waits. It is short, because the caller tests whether the disk is working
/// now.
const TRIAL_PATIENCE: Duration = Duration::from_secs(1);
/// How often a write to the database is attempted while there are changes that it does not contain.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    queue: Option<mpsc::Sender<Box<dyn QueuedWrite>>>,
    thread: Option<JoinHandle<()>>,
    disk: Arc<Disk>,
}

/// The parts of the store that the writer thread uses.
pub(super) struct Parts {
    pub(super) disk: Arc<Disk>,
    pub(super) sealer: Arc<Sealer>,
    pub(super) overlay: Arc<CurrentOverlay>,
    pub(super) changes: Arc<Changes>,
}

impl Writer {
    pub(super) fn start(parts: Parts) -> Result<Self, StoreError> {
        let (queue, mut waiting) = mpsc::channel::<Box<dyn QueuedWrite>>(QUEUE);
        // Waiting with a time limit needs a runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(unavailable)?;
        let disk = Arc::clone(&parts.disk);
        let run = move || {
            while let Some(batch) = parts.next_batch(&mut waiting, &runtime) {
                parts.write_batch(batch);
            }
        };
        let thread =
            std::thread::Builder::new().name("store-writer".to_owned()).spawn(run).map_err(unavailable)?;
        Ok(Self { queue: Some(queue), thread: Some(thread), disk })
    }

    /// Runs `work` in a transaction. Returns once it is on disk. The write is not made after its caller has stopped
    /// waiting, unless the disk stalls while it is being written. Otherwise, a client that received an error would
    /// have used up its code, its refresh token or its assertion. If the database cannot be written, a `work` that
    /// only removes rows goes into the overlay.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Writable<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.queue(work, Kind::InTime, PATIENCE).await
    }

    /// Like [`Writer::write`], for a `work` that removes rows and must be made even if its caller has stopped
    /// waiting.
    pub(super) async fn write_even_late<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Writable<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.queue(work, Kind::EvenLate, PATIENCE).await
    }

    /// Like [`Writer::write_even_late`], for a `work` that takes access away by writing rows. They go into the
    /// overlay if the database cannot be written.
    pub(super) async fn take_away<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Writable<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.queue(work, Kind::TakesAway, PATIENCE).await
    }

    /// Tests whether the disk accepts a write now.
    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.queue(write_something, Kind::EvenLate, TRIAL_PATIENCE).await
    }

    async fn queue<T, F>(&self, work: F, kind: Kind, patience: Duration) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Writable<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, outcome) = oneshot::channel();
        let queued = Instant::now();
        let deadline = queued + patience;
        let write = Box::new(Write { work, kind, queued, deadline, outcome: None, reply });
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        let Ok(place) = timeout_at(deadline, queue.reserve()).await else {
            self.disk.stalled(patience, QUEUE);
            return Err(not_queued(patience));
        };
        place.map_err(|_| stopped())?.send(write);
        match timeout_at(deadline, outcome).await {
            Ok(written) => written.map_err(|_| stopped())?,
            Err(_) => Err(self.disk.stalled(patience, QUEUE)),
        }
    }

    /// Queues a test write without waiting for its result.
    pub(super) fn try_disk(&self) {
        // If the queue is full, other writes test the disk anyway.
        let _ = self.queue.as_ref().map(|queue| queue.try_send(trial()));
    }
}

/// The error for a write that could not be queued and will not be made.
fn not_queued(patience: Duration) -> StoreError {
    StoreError::Unavailable(format!(
        "the disk has not completed a write for {} s, and {QUEUE} changes are already waiting for it. This one was not made: repeat it \
         when /ready returns 200",
        patience.as_secs()
    ))
}

/// A test write whose result is not used.
fn trial() -> Box<dyn QueuedWrite> {
    let (reply, _) = oneshot::channel();
    let now = Instant::now();
    Box::new(Write {
        work: write_something,
        kind: Kind::EvenLate,
        queued: now,
        deadline: now,
        outcome: None,
        reply,
    })
}

/// Writes a row that has no meaning, to test whether writes work.
pub(super) fn write_something(rows: &Writable<'_>) -> Result<(), StoreError> {
    rows.put(Table::Meta, WRITABLE, &true, None)
}

impl Drop for Writer {
    /// Waits until all queued writes are on disk.
    fn drop(&mut self) {
        self.queue.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Parts {
    /// The queued writes, or a test write if it is time to try the database again. Returns `None` when the store
    /// is closed.
    fn next_batch(
        &self,
        waiting: &mut mpsc::Receiver<Box<dyn QueuedWrite>>,
        runtime: &Runtime,
    ) -> Option<Vec<Box<dyn QueuedWrite>>> {
        let mut batch = Vec::with_capacity(BATCH);
        let received = if self.overlay.get().is_empty() {
            waiting.blocking_recv_many(&mut batch, BATCH)
        } else {
            let receive = async { tokio::time::timeout(RETRY, waiting.recv_many(&mut batch, BATCH)).await };
            match runtime.block_on(receive) {
                Ok(received) => received,
                Err(_) => return Some(vec![trial()]),
            }
        };
        (received > 0).then_some(batch)
    }

    fn write_batch(&self, batch: Vec<Box<dyn QueuedWrite>>) {
        let (late, mut batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(|write| write.is_late());
        for write in late {
            write.given_up().into_iter().for_each(|from| self.disk.kept_waiting(from));
            write.finish(Err(StoreError::Unavailable("the disk responded too late".to_owned())));
        }
        if batch.is_empty() {
            // The late writes have begun an outage, which only a successful write ends. This trial write is that write.
            batch.push(trial());
        }
        let begun = std::time::Instant::now();
        let database = match self.disk.writable() {
            Ok(database) => database,
            Err(error) => {
                self.disk.kept_waiting(begun);
                return self.write_beside(batch, &error, Tried::No);
            }
        };
        match self.attempt(&mut batch, database, begun) {
            // One of the writes fails. Each is repeated alone, so that it gets its own result.
            Err(StoreError::Unreadable) if batch.len() > 1 => {
                for write in batch {
                    self.write_batch(vec![write]);
                }
            }
            Err(error @ StoreError::Unavailable(_)) => self.write_beside(batch, &error, Tried::Yes),
            outcome => {
                for write in batch {
                    write.finish(outcome.clone());
                }
            }
        }
    }

    /// Makes either all writes or none, and reports the outcome to `disk`.
    fn attempt(
        &self,
        writes: &mut [Box<dyn QueuedWrite>],
        database: Arc<Database>,
        begun: std::time::Instant,
    ) -> Result<(), StoreError> {
        // A panic of redb must not terminate the writer thread, on which all callers depend.
        let committed =
            catch_unwind(AssertUnwindSafe(|| self.commit(&database, writes))).unwrap_or_else(|_| {
                Err(StoreError::Unavailable(
                    "the file is damaged: restore it from a backup, and restart".to_owned(),
                ))
            });
        drop(database);
        match &committed {
            Ok(()) => {
                // The callers of late writes have received an error, although the writes have taken effect.
                writes
                    .iter()
                    .filter_map(|write| write.given_up())
                    .for_each(|from| self.disk.kept_waiting(from));
                self.disk.succeeded();
            }
            Err(StoreError::Unreadable) => {}
            Err(error @ (StoreError::Unavailable(_) | StoreError::NeedsOperator(_))) => {
                // The data might have reached the disk in spite of the error.
                self.disk.kept_waiting(begun);
                self.disk.failed(error);
            }
        }
        committed
    }

    fn commit(&self, database: &Database, writes: &mut [Box<dyn QueuedWrite>]) -> Result<(), StoreError> {
        let transaction = database.begin_write().map_err(unavailable)?;
        let rows = Writable::new(&transaction, &self.sealer);
        let overlay = self.overlay.get();
        if !overlay.is_empty() {
            rows.lay(&overlay)?;
            rows.put(Table::Meta, APPLIED, &self.overlay.next_number(), None)?;
        }
        for write in writes {
            write.run(&rows)?;
        }
        let touched = rows.touched();
        // With redb's default durability, the data is on disk when `commit` returns.
        let committed = transaction.commit().map_err(unavailable);
        if committed.is_ok() && !overlay.is_empty() {
            self.overlay.clear();
            tracing::info!(changes = overlay.len(), "the changes kept in store.reserve are in the store now");
        }
        // Changes are recorded before any caller gets a result, even if the outcome of the commit is unknown.
        self.note(touched);
        committed
    }

    fn note(&self, touched: Vec<(About, String)>) {
        for (about, id) in touched {
            self.changes.note(about, &id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use crate::keys::seal::StoreKey;
    use crate::store::embedded::EmbeddedStore;

    use super::*;

    #[tokio::test]
    async fn a_change_for_which_there_was_no_place_is_not_made_later_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(directory.path(), &StoreKey::new([7; 32])).unwrap();
        let put = |name: String| {
            store.writer.write_even_late(move |rows| rows.put(Table::Once, &name, &true, None))
        };
        let (answer, disk) = mpsc::channel::<()>();
        let disk = std::sync::Mutex::new(disk);
        let (begun, begins) = oneshot::channel::<()>();
        let begun = std::sync::Mutex::new(Some(begun));
        // This write blocks until the test makes the disk respond.
        let stalled = store.writer.write(move |_| {
            drop(begun.lock().unwrap().take());
            let _ = disk.lock().unwrap().recv();
            Ok(())
        });
        let queued = async {
            begins.await.unwrap_err();
            let waiting = join_all((1..QUEUE).map(|n| put(n.to_string())));
            let in_time = store.writer.write(|rows| rows.put(Table::Once, "in time", &true, None));
            let late = async {
                // The pause gives the other writes time to fill the queue.
                tokio::time::sleep(Duration::from_secs(1)).await;
                put("late".to_owned()).await
            };
            tokio::join!(waiting, late, in_time)
        };
        let (stalled, (waiting, late, in_time)) = tokio::join!(stalled, queued);
        assert!(stalled.is_err() && in_time.is_err());
        for refused in waiting {
            let error = refused.unwrap_err().to_string();
            assert!(error.ends_with("the disk has not completed a write for 5 s"), "{error}");
        }
        let error = late.unwrap_err().to_string();
        assert!(error.contains("This one was not made"), "{error}");
        answer.send(()).unwrap();
        put("last".to_owned()).await.unwrap();
        let names = store.read(|rows| rows.keys(Table::Once)).unwrap();
        assert_eq!((names.len(), names.contains(&"late".to_owned())), (QUEUE, false));
        assert!(
            !names.contains(&"in time".to_owned()),
            "a refresh is made after its client received an error"
        );
        // Attack 32: the stall does not count towards the grace period of refresh tokens.
        let outage = *store.disk.grace(Duration::ZERO).outages.last().unwrap();
        let (lasted, second) = (outage.began.saturating_sub(outage.ended), Duration::from_secs(1));
        assert!(lasted >= PATIENCE && lasted < PATIENCE + 60 * second, "{outage:?}");
    }
}
