//! A single thread that performs all writes. All waiting writes go into one transaction with one sync to disk, so
//! that they share the latency of the disk. While the database cannot be written, changes that take access away go
//! into the overlay instead.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, ReadableDatabase};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::keys::seal::Sealer;
use crate::store::StoreError;
use crate::store::changes::{About, Changes};

use super::current_overlay::CurrentOverlay;
use super::disk::Disk;
use super::overlay::Overlay;
use super::reserve::APPLIED;
use super::rows::{Reader, unavailable};
use super::tables::Table;
use super::writable::Writable;

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

/// A queued write. It can run more than once: if one write makes its transaction fail, the others are run
/// again.
trait QueuedWrite: Send {
    fn run(&mut self, rows: &Writable<'_>) -> Result<(), StoreError>;
    /// Whether the rows of this write take access away, for example by disabling an account.
    fn takes_away(&self) -> bool;
    /// Whether this write must no longer be made, because its caller has stopped waiting.
    fn is_late(&self) -> bool {
        self.given_up().is_some()
    }
    /// If the caller of a [`Kind::InTime`] write has stopped waiting, the time at which it began to wait.
    fn given_up(&self) -> Option<std::time::Instant>;
    fn finish(self: Box<Self>, committed: Result<(), StoreError>);
}

/// What distinguishes one write from another for the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is made only while its caller waits.
    InTime,
    /// It is made even if its caller has stopped waiting.
    EvenLate,
    /// Like [`Kind::EvenLate`], for a write that takes access away by writing rows.
    TakesAway,
}

struct Write<T, F> {
    work: F,
    kind: Kind,
    /// The time at which the caller began to wait.
    queued: Instant,
    /// The time at which the caller stops waiting.
    deadline: Instant,
    outcome: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> QueuedWrite for Write<T, F>
where
    T: Send,
    F: Fn(&Writable<'_>) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, rows: &Writable<'_>) -> Result<(), StoreError> {
        self.outcome = Some((self.work)(rows)?);
        Ok(())
    }

    fn takes_away(&self) -> bool {
        self.kind == Kind::TakesAway
    }

    fn given_up(&self) -> Option<std::time::Instant> {
        let is_late = self.kind == Kind::InTime && Instant::now() >= self.deadline;
        is_late.then(|| self.queued.into_std())
    }

    fn finish(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { outcome, reply, .. } = *self;
        // The caller might no longer be waiting, but its write is nevertheless in effect.
        let _ = reply.send(committed.and_then(|()| outcome.ok_or_else(stopped)));
    }
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the store's writer has stopped".to_owned())
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
        match self.attempt(&mut batch) {
            // One of the writes fails. Each is repeated alone, so that it gets its own result.
            Err(StoreError::Unreadable) if batch.len() > 1 => {
                for write in batch {
                    self.write_batch(vec![write]);
                }
            }
            Err(StoreError::Unavailable(reason)) => self.write_beside(batch, &reason),
            outcome => {
                for write in batch {
                    write.finish(outcome.clone());
                }
            }
        }
    }

    /// Makes either all writes or none, and reports the outcome to `disk`.
    fn attempt(&self, writes: &mut [Box<dyn QueuedWrite>]) -> Result<(), StoreError> {
        let begun = std::time::Instant::now();
        let database = self.disk.writable().inspect_err(|_| self.disk.kept_waiting(begun))?;
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

    /// Puts the writes that take access away into the overlay, and refuses all others, because the database cannot
    /// be written.
    fn write_beside(&self, batch: Vec<Box<dyn QueuedWrite>>, reason: &str) {
        let mut accepted = Vec::with_capacity(batch.len());
        let mut overlay = self.overlay.get();
        for mut write in batch {
            match self.changes_of(&mut write, &overlay) {
                Ok((changed, touched)) => {
                    let is_change = !changed.is_empty();
                    if is_change {
                        overlay = Arc::new(overlay.with(&changed));
                    }
                    accepted.push((write, is_change, touched));
                }
                Err(StoreError::Unreadable) => write.finish(Err(StoreError::Unreadable)),
                Err(StoreError::Unavailable(_) | StoreError::NeedsOperator(_)) => {
                    write.finish(Err(refusal(reason, overlay.len(), self.overlay.is_kept())));
                }
            }
        }
        let kept = if accepted.iter().any(|(_, is_change, _)| *is_change) {
            self.overlay.replace(Overlay::clone(&overlay), &self.sealer)
        } else {
            self.overlay.keep(&self.sealer)
        };
        if let Err(error) = &kept {
            tracing::error!(%error, "{}", not_kept(reason));
        }
        for (write, is_change, touched) in accepted {
            self.note(touched);
            let is_lost_by_restart = is_change && kept.is_err();
            write.finish(if is_lost_by_restart { Err(unavailable(not_kept(reason))) } else { Ok(()) });
        }
    }

    /// Runs a write on top of `overlay`. Returns its changes, and the cached rows among them.
    ///
    /// # Errors
    /// Fails if the write does more than take access away, if there is no room for it, or if the database cannot
    /// even be read.
    fn changes_of(&self, write: &mut Box<dyn QueuedWrite>, overlay: &Overlay) -> Result<Beside, StoreError> {
        let database = self.disk.database()?;
        let transaction = database.begin_read().map_err(unavailable)?;
        let before = Reader::new(&transaction, &self.sealer, overlay);
        let rows = Writable::beside(&before, &self.sealer);
        write.run(&rows)?;
        let changed = rows.changed();
        let is_allowed = write.takes_away() || changed.only_removes();
        let fits = || changed.is_empty() || overlay.with(&changed).fits(&changed);
        if is_allowed && fits() {
            Ok((changed, rows.touched()))
        } else {
            Err(unavailable("the database cannot be written"))
        }
    }
}

/// The changes that a write makes in the overlay, and the kind and id of each changed row whose value can be
/// cached.
type Beside = (Overlay, Vec<(About, String)>);

/// The error for a write that is refused because it does more than take access away. `waiting` is the number of
/// rows in the overlay, and `is_kept` is whether they are on disk.
fn refusal(reason: &str, waiting: usize, is_kept: bool) -> StoreError {
    let rows = if waiting == 1 { "1 row".to_owned() } else { format!("{waiting} rows") };
    let kept = match (waiting, is_kept) {
        (0, _) => String::new(),
        (_, true) => format!(
            ". What has since been disabled, deleted or revoked is refused, and is kept in store.reserve ({rows})"
        ),
        (_, false) => format!(
            ". What has since been disabled, deleted or revoked is refused ({rows}), but store.reserve cannot be written either: a restart \
             undoes it"
        ),
    };
    StoreError::Unavailable(format!("{reason}{kept}"))
}

/// The error for a change that takes access away but could not be written to disk.
fn not_kept(reason: &str) -> String {
    format!(
        "{reason}. store.reserve cannot be written either: what was disabled, deleted or revoked is refused now, but a restart \
         before the disk accepts writes again undoes it. Do not restart the service; repeat the change when /ready returns 200"
    )
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
