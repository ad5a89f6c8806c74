//! Starts the threads of this program. If the operating system refuses a thread (because of the `pids_limit` of a
//! container or the process limit of a user), most libraries panic. The functions in this module return an error
//! that states what to do.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle};

use tokio::sync::oneshot;

/// Maximum number of workers if `WORKERS` is not set.
pub const DEFAULT_WORKERS: usize = 16;

/// Maximum number of threads in addition to the workers. The listeners need three threads that accept connections,
/// and one for the ops listener. The main thread, the log, the policy file, the store and gRPC need one each.
/// There are 4 threads for password hashes, 24 for name lookups, 4 for the allocator, and one for file access and
/// name lookups by libraries. The health check and operators' commands, which run in the same container, need 8.
pub const BESIDES: usize = 50;

/// Maximum number of threads of a service with this number of workers. Each of the three listeners has a thread
/// for each worker.
pub const fn needed(workers: usize) -> usize {
    3 * workers + BESIDES
}

/// The operating system refused to start a thread.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the operating system refused a thread for {purpose} ({cause}); raise the process limit (pids_limit of the container, or ulimit -u), or set WORKERS to a lower number"
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
/// Fails if the operating system refuses it.
pub fn start(
    name: &str,
    purpose: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, NoThread> {
    Builder::new().name(name.to_owned()).spawn(work).map_err(|cause| NoThread::new(purpose, &cause))
}

/// Runs `work` on a separate thread, and returns its result. The thread keeps running if this future is dropped.
///
/// # Errors
/// Fails if the operating system refuses the thread, or `work` panics.
pub async fn beside<T: Send + 'static>(
    name: &str,
    purpose: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoThread> {
    let (done, outcome) = oneshot::channel();
    // Sending fails only if the receiver has already been dropped.
    start(name, purpose, move || drop(done.send(work())))?;
    outcome.await.map_err(|_| NoThread { purpose, cause: "it panicked".to_owned() })
}

/// Makes the runtime start the first of its threads for blocking work. If one exists, libraries that need a thread
/// wait for it. If none exists and the operating system refuses one, they panic.
///
/// # Errors
/// Fails if the operating system refuses the thread.
pub async fn keep_one() -> Result<(), NoThread> {
    beside("trial", "blocking work", || ()).await?;
    let purpose = "blocking work";
    let started = tokio::task::spawn_blocking(|| ()).await;
    started.map_err(|error| NoThread { purpose, cause: error.to_string() })
}

/// Starts as many threads as the listeners will need, and stops them again. This tests the thread limit, because
/// the listeners' libraries start their threads immediately afterwards, and panic if one is refused.
///
/// # Errors
/// Fails if the operating system refuses one of them.
pub fn try_listeners(workers: NonZeroUsize, has_grpc: bool) -> Result<(), NoThread> {
    let of_each = if has_grpc { 3 } else { 2 };
    let (stay, ended) = mpsc::channel::<()>();
    let ended = Arc::new(Mutex::new(ended));
    let mut threads = Vec::new();
    // Three threads accept connections, and the ops listener and the gRPC listener have one more each.
    for _ in 0..of_each * workers.get() + 5 {
        let ended = Arc::clone(&ended);
        let wait = move || {
            let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            // `recv` returns when the sender is dropped.
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
