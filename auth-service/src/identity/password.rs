//! Password hashing with Argon2id (RFC 9106) and the parameters that OWASP recommends.
//!
//! A hash needs 19 MiB and a few milliseconds of one core, and anybody can cause one by trying to log in.
//! Therefore only a few hashes are computed at the same time, each on a thread and in memory reserved at startup,
//! and only a few attempts can wait. If too many are waiting, an attempt is refused with a time to retry.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, oneshot};

use crate::domain::clock::Random;
use crate::keys::seal::SystemRandomSource;
use crate::threads::{self, NoThread};

/// Minimum length in characters of a password that a user chooses. NIST SP 800-63B §3.1.1 requires a minimum
/// length, but no particular kinds of characters.
pub const MIN_PASSWORD_LEN: usize = 12;
/// Maximum length of a password in bytes.
pub const MAX_PASSWORD_LEN: usize = 256;
/// Maximum number of attempts in each queue, including those whose hash is being computed. If a hash takes 25 ms,
/// the last attempt waits for less than a second.
pub const MAX_WAITING: usize = 32;
/// How long an attempt waits for its turn. On an overloaded machine, it is refused after this time, before a
/// browser or a proxy times out.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Delay in seconds before a retry after [`HashingError::Busy`].
pub const RETRY_AFTER_SECONDS: u64 = 2;
/// Maximum number of concurrent hashes on any number of cores. Each needs 19 MiB, which stays allocated while the
/// service runs.
const MAX_PARALLEL: usize = 4;
/// Assumed duration of a check before one has been measured.
const USUAL: Duration = Duration::from_millis(25);

/// The queue of an attempt. There are two queues, so that strangers cannot occupy the slots of users who have
/// already logged in with their browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Attempts from browsers in which the user has never logged in.
    Strangers,
    /// Attempts from browsers in which the same user has already logged in, and attempts from operators.
    Known,
}

/// Hashes and verifies passwords, with bounded memory.
#[derive(Clone)]
pub struct Passwords {
    /// One permit for each hashing thread, so that a task that is sent to the threads starts immediately.
    permits: Arc<Semaphore>,
    /// Sends tasks to the threads, which stop when this is dropped.
    tasks: mpsc::Sender<HashTask>,
    strangers: Arc<Semaphore>,
    known: Arc<Semaphore>,
    /// The hash that is verified if an account does not exist, so that this takes the same time as for an existing
    /// account.
    decoy: Arc<str>,
    /// How long an attempt waits for its turn.
    patience: Duration,
    /// Duration of the last check, including the wait.
    last: Arc<Mutex<Duration>>,
}

/// A task for a hashing thread, which passes its reserved memory.
type HashTask = Box<dyn FnOnce(&mut [Block]) + Send>;

/// Why password hashing cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// There is not enough memory.
    #[error("there is not enough memory for {0} password hashes of 19 MiB each")]
    Memory(usize),
    /// The operating system refused a thread.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// The first hash failed.
    #[error(transparent)]
    Hashing(#[from] HashingError),
}

/// Why a password was neither hashed nor checked. A wrong password is not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashingError {
    /// The queue of waiting attempts is full, or the attempt has waited for too long.
    #[error("too many passwords are being checked; try again in {RETRY_AFTER_SECONDS} seconds")]
    Busy,
    /// A stored hash cannot be read, Argon2 failed, or the service is stopping.
    #[error("the password could not be checked")]
    Failed,
}

impl Passwords {
    /// Creates the hasher for a service with this number of worker threads. At most half as many hashes are
    /// computed at the same time, so that the service can still answer other requests.
    ///
    /// # Errors
    /// Fails if there is not enough memory, or the operating system refuses a thread.
    pub fn new(threads: usize) -> Result<Self, SetUpError> {
        let parallel = (threads / 2).clamp(1, MAX_PARALLEL);
        let (tasks, waiting) = mpsc::channel::<HashTask>();
        let waiting = Arc::new(Mutex::new(waiting));
        let mut decoy = None;
        // Memory and threads are reserved now, so that the service does not need them later under load, when the
        // system might have none.
        for _ in 0..parallel {
            let mut memory = blocks().ok_or(SetUpError::Memory(parallel))?;
            if decoy.is_none() {
                decoy = Some(hash(b"decoy", &mut memory)?);
            }
            let waiting = Arc::clone(&waiting);
            threads::start("hash", "password hashes", move || work_on(&waiting, &mut memory))?;
        }
        let decoy = decoy.ok_or(HashingError::Failed)?;
        Ok(Self {
            permits: Arc::new(Semaphore::new(parallel)),
            tasks,
            strangers: Arc::new(Semaphore::new(MAX_WAITING)),
            known: Arc::new(Semaphore::new(MAX_WAITING)),
            decoy: decoy.into(),
            patience: MAX_WAIT,
            last: Arc::new(Mutex::new(USUAL)),
        })
    }

    /// Hashes a password with a new salt, and returns a PHC string.
    pub async fn hash(&self, password: SecretString) -> Result<String, HashingError> {
        self.bounded(Queue::Known, move |memory| hash(password.expose_secret().as_bytes(), memory)).await?
    }

    /// Whether `password` matches the hash `phc`. Without `phc`, the result is false, but takes the same time.
    pub async fn verify(
        &self,
        phc: Option<String>,
        password: SecretString,
        queue: Queue,
    ) -> Result<bool, HashingError> {
        let known = phc.is_some();
        let phc = phc.unwrap_or_else(|| self.decoy.to_string());
        let begun = tokio::time::Instant::now();
        let work = move |memory: &mut [Block]| matches(&phc, password.expose_secret().as_bytes(), memory);
        let matches = self.bounded(queue, work).await??;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = begun.elapsed();
        Ok(matches && known)
    }

    /// The number of strangers' attempts that are waiting or being hashed.
    pub fn waiting(&self) -> usize {
        MAX_WAITING.saturating_sub(self.strangers.available_permits())
    }

    /// Waits as long as the last check took, without hashing. Used when the submitted string cannot be a user
    /// name.
    pub async fn pretend(&self) {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::time::sleep(last).await;
    }

    async fn bounded<T: Send + 'static>(
        &self,
        queue: Queue,
        work: impl FnOnce(&mut [Block]) -> T + Send + 'static,
    ) -> Result<T, HashingError> {
        let places = match queue {
            Queue::Strangers => &self.strangers,
            Queue::Known => &self.known,
        };
        // If the caller is cancelled while it waits, this future is dropped, which releases the slot.
        let place = Arc::clone(places).try_acquire_owned().map_err(|_| HashingError::Busy)?;
        let turn = Arc::clone(&self.permits).acquire_owned();
        let turn = tokio::time::timeout(self.patience, turn).await.map_err(|_| HashingError::Busy)?;
        let permit = turn.map_err(|_| HashingError::Failed)?;
        let (done, outcome) = oneshot::channel();
        // The slot and the permit move into the task, so that they stay in use if the caller is cancelled from now
        // on.
        let task = Box::new(move |memory: &mut [Block]| {
            let outcome = work(memory);
            drop((permit, place));
            // Sending fails if the caller has been cancelled.
            let _ = done.send(outcome);
        });
        self.tasks.send(task).map_err(|_| HashingError::Failed)?;
        outcome.await.map_err(|_| HashingError::Failed)
    }
}

/// Runs tasks until all senders are dropped.
fn work_on(waiting: &Mutex<mpsc::Receiver<HashTask>>, memory: &mut [Block]) {
    loop {
        // One thread waits for a task, and the others wait for the lock.
        let task = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = task else { return };
        // If a task panics, its caller receives an error, and the thread continues.
        let _ = catch_unwind(AssertUnwindSafe(|| task(memory)));
    }
}

/// Allocates the memory for one hash with the default parameters, if there is enough.
fn blocks() -> Option<Vec<Block>> {
    let count = Params::default().block_count();
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(count).ok()?;
    blocks.resize(count, Block::default());
    Some(blocks)
}

fn hash(password: &[u8], memory: &mut [Block]) -> Result<String, HashingError> {
    let random = SystemRandomSource.bytes().map_err(|_| HashingError::Failed)?;
    // RFC 9106 §3.1 recommends a salt of 16 bytes for passwords.
    let (salt, _) = random.split_at(16);
    let argon2 = Argon2::default();
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    argon2.hash_password_into_with_memory(password, salt, &mut output, memory).map_err(failed)?;
    let hash = PasswordHash {
        algorithm: Algorithm::default().ident(),
        version: Some(Version::default().into()),
        params: ParamsString::try_from(argon2.params()).map_err(failed)?,
        salt: Some(Salt::new(salt).map_err(failed)?),
        hash: Some(Output::new(&output).map_err(failed)?),
    };
    Ok(hash.to_string())
}

/// Whether the password matches the hash. If no hash can be computed, the result is an error instead of false.
fn matches(phc: &str, password: &[u8], memory: &mut [Block]) -> Result<bool, HashingError> {
    if password.len() > MAX_PASSWORD_LEN {
        return Ok(false);
    }
    let stored = PasswordHash::new(phc).map_err(failed)?;
    let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else {
        return Err(HashingError::Failed);
    };
    let algorithm = Algorithm::try_from(stored.algorithm.as_str()).map_err(failed)?;
    let version = stored.version.map(Version::try_from).transpose().map_err(failed)?.unwrap_or_default();
    let params = Params::try_from(&stored).map_err(failed)?;
    let mut buffer = [0; Output::MAX_LENGTH];
    let output = buffer.get_mut(..expected.len()).ok_or(HashingError::Failed)?;
    Argon2::new(algorithm, version, params)
        .hash_password_into_with_memory(password, salt, output, memory)
        .map_err(failed)?;
    Ok(output.ct_eq(expected.as_bytes()).into())
}

fn failed(error: impl std::fmt::Display) -> HashingError {
    tracing::error!(%error, "Argon2 failed");
    HashingError::Failed
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_password_verifies_against_its_own_hash_only() {
        let passwords = Passwords::new(1).unwrap();
        let phc = passwords.hash("correct horse battery".into()).await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let verify = async |phc: Option<&str>, password: &str| {
            passwords.verify(phc.map(str::to_owned), password.into(), Queue::Strangers).await
        };
        assert_eq!(verify(Some(&phc), "correct horse battery").await, Ok(true));
        assert_eq!(verify(Some(&phc), "correct horse batterz").await, Ok(false));
        assert_eq!(verify(Some(&phc), &"long".repeat(65)).await, Ok(false));
        assert_eq!(verify(None, "decoy").await, Ok(false));
    }

    #[tokio::test]
    async fn a_hash_of_an_earlier_release_still_verifies() {
        use argon2::PasswordHasher;
        let passwords = Passwords::new(1).unwrap();
        let phc = Argon2::default().hash_password(b"correct horse battery").unwrap().to_string();
        let right = passwords.verify(Some(phc.clone()), "correct horse battery".into(), Queue::Known).await;
        let wrong = passwords.verify(Some(phc), "correct horse batterz".into(), Queue::Known).await;
        assert_eq!((right, wrong), (Ok(true), Ok(false)));
    }

    #[tokio::test]
    async fn what_argon2_cannot_do_is_not_a_wrong_password() {
        let passwords = Passwords::new(1).unwrap();
        let salt_and_hash = "c2FsdHNhbHRzYWx0c2FsdA$YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY";
        for phc in [
            "not a hash".to_owned(),
            "$argon2id$v=19$m=19456,t=2,p=1".to_owned(),
            format!("$argon2id$v=99$m=19456,t=2,p=1${salt_and_hash}"),
            format!("$argon2id$v=19$m=1,t=2,p=1${salt_and_hash}"),
            format!("$scrypt$v=19$m=19456,t=2,p=1${salt_and_hash}"),
            // This hash needs more memory than is reserved.
            format!("$argon2id$v=19$m=4194304,t=2,p=1${salt_and_hash}"),
        ] {
            let outcome = passwords.verify(Some(phc.clone()), "x".into(), Queue::Strangers).await;
            assert_eq!(outcome, Err(HashingError::Failed), "{phc}");
        }
    }

    /// Returns work that runs until the sender is dropped, and a flag that is set when it begins.
    fn held() -> (mpsc::Sender<()>, Arc<AtomicBool>, impl FnOnce(&mut [Block]) + Send + 'static) {
        let (sender, receiver) = mpsc::channel::<()>();
        let has_begun = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&has_begun);
        let work = move |_: &mut [Block]| {
            begun.store(true, Ordering::Release);
            assert!(receiver.recv().is_err());
        };
        (sender, has_begun, work)
    }

    #[tokio::test]
    async fn a093_a_hash_keeps_its_permit_when_the_caller_goes_away() {
        let passwords = Passwords::new(1).unwrap();
        let (hold, has_begun, work) = held();
        let caller = tokio::spawn({
            let passwords = passwords.clone();
            async move { passwords.bounded(Queue::Strangers, work).await }
        });
        while !has_begun.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        assert_eq!(passwords.permits.available_permits(), 0);
        drop(hold);
        passwords.hash("correct horse battery".into()).await.unwrap();
    }

    #[tokio::test]
    async fn a093_few_attempts_wait_and_those_of_strangers_take_no_place_of_known_browsers() {
        let passwords = Passwords::new(1).unwrap();
        let (hold, _, work) = held();
        let first = tokio::spawn({
            let passwords = passwords.clone();
            async move { passwords.bounded(Queue::Strangers, work).await }
        });
        while passwords.permits.available_permits() == 1 {
            tokio::task::yield_now().await;
        }
        let wait = |queue| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.verify(None, "x".into(), queue).await })
        };
        let mut waiting: Vec<_> = (1..MAX_WAITING).map(|_| wait(Queue::Strangers)).collect();
        while passwords.strangers.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(wait(Queue::Strangers).await.unwrap(), Err(HashingError::Busy));
        let known = wait(Queue::Known);
        while passwords.known.available_permits() == MAX_WAITING {
            tokio::task::yield_now().await;
        }
        // An attempt whose caller is cancelled frees its slot, and is not hashed.
        for gone in waiting.drain(..) {
            gone.abort();
            assert!(gone.await.unwrap_err().is_cancelled());
        }
        assert_eq!(passwords.strangers.available_permits(), MAX_WAITING - 1);
        drop(hold);
        assert!(first.await.unwrap().is_ok());
        assert_eq!(known.await.unwrap(), Ok(false));
        assert_eq!(passwords.permits.available_permits(), 1);
    }

    #[tokio::test]
    async fn a093_an_attempt_whose_turn_does_not_come_is_told_to_come_again() {
        let passwords = Passwords { patience: Duration::from_millis(10), ..Passwords::new(1).unwrap() };
        // The attempt never gets a turn, as on an overloaded machine.
        let turn = Arc::clone(&passwords.permits).acquire_owned().await.unwrap();
        let outcome = passwords.verify(None, "x".into(), Queue::Strangers).await;
        assert_eq!(outcome, Err(HashingError::Busy));
        assert_eq!(passwords.strangers.available_permits(), MAX_WAITING, "its slot is free again");
        drop(turn);
    }

    #[tokio::test]
    async fn a_panic_in_a_hash_ends_neither_its_thread_nor_the_permit() {
        let passwords = Passwords::new(1).unwrap();
        let panicked = passwords.bounded(Queue::Known, |_| panic!("on purpose")).await;
        assert_eq!(panicked, Err::<(), _>(HashingError::Failed));
        assert_eq!(passwords.verify(None, "x".into(), Queue::Known).await, Ok(false));
    }
}
