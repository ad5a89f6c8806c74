//! One thread writes. Whatever waits when it is free goes into one transaction and one sync to disk, so that
//! the disk's latency is shared by all who wait for it.

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

/// How many writes share a transaction at most.
const BATCH: usize = 256;
/// How many writes may wait; more wait at their senders.
const QUEUE: usize = 1024;

pub(super) struct Writer {
    queue: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

/// A write that waits. It may run more than once, because a transaction that fails for one of its writes is
/// given up and the others run again.
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
        // A caller that went away wanted the write all the same.
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

    /// Runs `work` in a transaction; returns once it is on disk.
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

    /// Has the disk tried by a write that nobody waits for.
    pub(super) fn try_disk(&self) {
        let (reply, _) = oneshot::channel();
        let job = Box::new(Write { work: write_something, outcome: None, reply });
        // When the queue is full, enough others try it.
        let _ = self.queue.as_ref().map(|queue| queue.try_send(job));
    }
}

/// Writes a row that says nothing, to see whether that is possible.
pub(super) fn write_something(rows: &Writable<'_>) -> Result<(), StoreError> {
    rows.put(Table::Meta, WRITABLE, &true, None)
}

impl Drop for Writer {
    /// Waits until what was queued is on disk.
    fn drop(&mut self) {
        self.queue.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_batch(disk: &Disk, sealer: &Sealer, changes: &Changes, mut batch: Vec<Box<dyn Job>>) {
    match attempt(disk, sealer, changes, &mut batch) {
        // One of them cannot be done. Alone, each gets the answer that is its own.
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

/// Writes all of them or none, and has the disk looked after when it fails.
fn attempt(
    disk: &Disk,
    sealer: &Sealer,
    changes: &Changes,
    jobs: &mut [Box<dyn Job>],
) -> Result<(), StoreError> {
    let database = disk.writable()?;
    // What redb cannot go on with must not end the thread that everybody waits for.
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
    // redb's default durability: on disk when commit returns.
    let committed = transaction.commit().map_err(unavailable);
    // Noted before anybody is told, and also when nobody can say what became of it.
    for (about, id) in touched {
        changes.note(about, &id);
    }
    committed
}
