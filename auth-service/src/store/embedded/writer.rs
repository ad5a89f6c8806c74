//! A single thread that writes. All writes that are waiting go into one transaction with one sync to disk, so
//! that they share the latency of the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use redb::Database;
use tokio::sync::{mpsc, oneshot};

use crate::keys::seal::Sealer;
use crate::store::StoreError;
use crate::store::changes::Changes;

use super::disk::Disk;
use super::rows::{WRITABLE, unavailable};
use super::tables::Table;
use super::writable::Writable;

/// Maximum number of writes in a transaction.
const BATCH: usize = 256;
/// Maximum number of queued writes. Further senders have to wait.
const QUEUE: usize = 1024;

pub(super) struct Writer {
    queue: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

/// A queued write. It can run more than once: if one write makes its transaction fail, the others are run
/// again.
trait Job: Send {
    fn run(&mut self, rows: &Writable<'_>) -> Result<(), StoreError>;
    fn finish(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Write<T, F> {
    work: F,
    outcome: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Write<T, F>
where
    T: Send,
    F: Fn(&Writable<'_>) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, rows: &Writable<'_>) -> Result<(), StoreError> {
        self.outcome = Some((self.work)(rows)?);
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { outcome, reply, .. } = *self;
        // The caller might have gone away, but its write counts all the same.
        let _ = reply.send(committed.and_then(|()| outcome.ok_or_else(stopped)));
    }
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the store's writer has stopped".to_owned())
}

impl Writer {
    pub(super) fn start(
        disk: Arc<Disk>,
        sealer: Arc<Sealer>,
        changes: Arc<Changes>,
    ) -> Result<Self, StoreError> {
        let (queue, mut waiting) = mpsc::channel::<Box<dyn Job>>(QUEUE);
        let run = move || {
            let mut batch = Vec::with_capacity(BATCH);
            while waiting.blocking_recv_many(&mut batch, BATCH) > 0 {
                write_batch(&disk, &sealer, &changes, std::mem::take(&mut batch));
            }
        };
        let thread =
            std::thread::Builder::new().name("store-writer".to_owned()).spawn(run).map_err(unavailable)?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Runs `work` in a transaction. Returns once it is on disk.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Writable<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, outcome) = oneshot::channel();
        let job = Box::new(Write { work, outcome: None, reply });
        self.queue.as_ref().ok_or_else(stopped)?.send(job).await.map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())?
    }

    /// Queues a test write whose result nobody waits for.
    pub(super) fn try_disk(&self) {
        let (reply, _) = oneshot::channel();
        let job = Box::new(Write { work: write_something, outcome: None, reply });
        // If the queue is full, other writes test the disk anyway.
        let _ = self.queue.as_ref().map(|queue| queue.try_send(job));
    }
}

/// Writes a row without meaning, to test whether writes work.
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

fn write_batch(disk: &Disk, sealer: &Sealer, changes: &Changes, mut batch: Vec<Box<dyn Job>>) {
    match attempt(disk, sealer, changes, &mut batch) {
        // One of the writes fails. Each is repeated alone, so that it gets its own result.
        Err(StoreError::Unreadable) if batch.len() > 1 => {
            for job in batch {
                write_batch(disk, sealer, changes, vec![job]);
            }
        }
        outcome => {
            for job in batch {
                job.finish(outcome.clone());
            }
        }
    }
}

/// Writes all jobs or none, and tells `disk` the outcome.
fn attempt(
    disk: &Disk,
    sealer: &Sealer,
    changes: &Changes,
    jobs: &mut [Box<dyn Job>],
) -> Result<(), StoreError> {
    let database = disk.writable()?;
    // A panic of redb must not end the writer thread, on which all callers depend.
    let committed = catch_unwind(AssertUnwindSafe(|| commit(&database, sealer, changes, jobs)))
        .unwrap_or_else(|_| {
            Err(StoreError::Unavailable(
                "the file is damaged: restore it from a backup, and restart".to_owned(),
            ))
        });
    drop(database);
    match &committed {
        Ok(()) => disk.succeeded(),
        Err(StoreError::Unreadable) => {}
        Err(error @ StoreError::Unavailable(_)) => disk.failed(error),
    }
    committed
}

fn commit(
    database: &Database,
    sealer: &Sealer,
    changes: &Changes,
    jobs: &mut [Box<dyn Job>],
) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(unavailable)?;
    let rows = Writable::new(&transaction, sealer);
    for job in jobs {
        job.run(&rows)?;
    }
    let touched = rows.touched();
    // With redb's default durability, the data is on disk when `commit` returns.
    let committed = transaction.commit().map_err(unavailable);
    // Changes are recorded before any caller is answered, even if the outcome of the commit is unknown.
    for (about, id) in touched {
        changes.note(about, &id);
    }
    committed
}
