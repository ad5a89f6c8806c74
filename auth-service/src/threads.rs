//! Starts the threads of this program. The system can refuse a thread (`pids_limit` of a container, the limit
//! of processes of a user), and most libraries panic then. Here it is an error that says what to do.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle};

use tokio::sync::oneshot;

/// Maximum number of threads that serve requests, if `WORKERS` is not set.
pub const DEFAULT_WORKERS: usize = 16;

/// Maximum number of threads besides those of the workers: three that accept connections, one of the ops
/// listener, the main thread, the threads of log, policy file, store and gRPC, 4 for password hashes, 24 for
/// lookups of names, 4 of the allocator, one for files and names that libraries look up, and 8 of the health
/// check and of operators' commands in the same container.
pub const BESIDES: usize = 50;

/// Number of threads that a service with these workers can need. Each of the three listeners has a thread
/// for each worker.
pub const fn needed(workers: usize) -> usize {
    3 * workers + BESIDES
}

/// The system does not give the process another thread.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the system does not give another thread for {purpose} ({cause}); raise the limit of processes (pids_limit of the container, or ulimit -u), or set WORKERS lower"
)]
pub struct NoThread {
    purpose: &'static str,
    cause: String,
}

impl NoThread {
    fn new(purpose: &'static str, cause: &io::Error) -> Self {
        Self { purpose, cause: cause.to_string() }
    }
}

/// Starts a thread.
///
/// # Errors
/// If the system has none left.
pub fn start(
    name: &str,
    purpose: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, NoThread> {
    Builder::new().name(name.to_owned()).spawn(work).map_err(|cause| NoThread::new(purpose, &cause))
}

/// Runs `work` on a thread of its own, and returns what it returns. The thread keeps running if nobody waits
/// for it any more.
///
/// # Errors
/// If the system has no thread left, or `work` panics.
pub async fn beside<T: Send + 'static>(
    name: &str,
    purpose: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoThread> {
    let (done, outcome) = oneshot::channel();
    // The receiver might already have been dropped.
    start(name, purpose, move || drop(done.send(work())))?;
    outcome.await.map_err(|_| NoThread { purpose, cause: "it panicked".to_owned() })
}

/// Lets the runtime start the first of its threads for blocking work. If there is one, libraries that need
/// such a thread wait for it. If there is none, they panic when the system refuses one.
///
/// # Errors
/// If the system has no thread left.
pub async fn keep_one() -> Result<(), NoThread> {
    beside("trial", "blocking work", || ()).await?;
    let purpose = "blocking work";
    let started = tokio::task::spawn_blocking(|| ()).await;
    started.map_err(|error| NoThread { purpose, cause: error.to_string() })
}

/// Starts as many threads as the listeners of a service with these workers do, and ends them again. The
/// libraries of the listeners start theirs right after this, and panic if they get none.
///
/// # Errors
/// If the system does not have that many left.
pub fn try_listeners(workers: NonZeroUsize, has_grpc: bool) -> Result<(), NoThread> {
    let of_each = if has_grpc { 3 } else { 2 };
    let (stay, ended) = mpsc::channel::<()>();
    let ended = Arc::new(Mutex::new(ended));
    let mut threads = Vec::new();
    // Three accept connections, and the ops listener and the gRPC listener have one more each.
    for _ in 0..of_each * workers.get() + 5 {
        let ended = Arc::clone(&ended);
        let wait = move || {
            let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            // It returns when the sender is dropped.
            let _ = ended.recv();
        };
        threads.push(start("trial", "the listeners", wait));
    }
    drop(stay);
    let mut outcome = Ok(());
    for thread in threads {
        match thread {
            Ok(thread) => drop(thread.join()),
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_runs_beside_answers_and_a_panic_there_is_an_error() {
        assert_eq!(beside("test", "a test", || 7).await, Ok(7));
        let panicked = beside("test", "a test", || panic!("on purpose")).await;
        assert!(panicked.unwrap_err().to_string().contains("it panicked"));
        assert_eq!(try_listeners(NonZeroUsize::MIN, true), Ok(()));
    }
}
