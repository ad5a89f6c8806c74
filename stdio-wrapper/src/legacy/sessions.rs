//! All sessions: finds them, ends them, and removes unused ones.

mod making_room;
mod opening;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::session::Session;
use super::settings::Settings;
use super::shared::SharedChildren;
use crate::budget::Budget;
use crate::child::{Framing, Keeper, Launcher, Pass, Placeholders, Random, RateLimit};
use crate::conversation::Conversations;
use crate::metrics::Metrics;
use crate::places::{Place, Places};

pub use opening::OpenError;

/// Number of session tables. A lookup takes the read lock of one of them.
const SHARDS: usize = 64;
/// Interval at which unused sessions are removed.
const ROUND: Duration = Duration::from_millis(250);

/// Maximum number of log lines per second about refused sessions, and about sessions that are ended while they
/// are in use.
const REFUSAL_RATE: u32 = 5;

/// A part of the sessions, by id.
type Shard = RwLock<HashMap<String, (Arc<Session>, Arc<Place>)>>;

/// The open sessions of all clients, and the limits for them.
pub struct Sessions {
    settings: Settings,
    launcher: Arc<Launcher>,
    conversations: Conversations,
    shared: Option<Arc<SharedChildren>>,
    metrics: Arc<Metrics>,
    random: Random,
    hasher: RandomState,
    shards: Vec<Shard>,
    /// A session counts until the last process of its child has exited, so that no user can fill the container
    /// with children that exit slowly.
    places: Arc<Places>,
    /// The number of users without a session for whom a session of another user is being closed. During this
    /// time, no other user gets a session, because it could use up the capacity that is being freed.
    claims: AtomicUsize,
    refusals: Mutex<RateLimit>,
    /// Limits the log lines about sessions that are ended while in use. This is a separate limit, so that a
    /// flood of refusals does not suppress these lines.
    endings: Mutex<RateLimit>,
    is_draining: AtomicBool,
    is_stopping: AtomicBool,
}

impl Sessions {
    /// Creates an empty set of sessions.
    pub fn new(
        settings: Settings,
        launcher: Arc<Launcher>,
        framing: Arc<dyn Framing>,
        metrics: Arc<Metrics>,
        random: Random,
    ) -> Arc<Self> {
        let conversations = Conversations {
            framing,
            launcher: Arc::clone(&launcher),
            metrics: Arc::clone(&metrics),
            memory: settings.memory.clone(),
            max_line: settings.max_line,
            offload: Arc::clone(&settings.offload),
        };
        let shared =
            settings.shared.then(|| Arc::new(SharedChildren::new(settings.clone(), conversations.clone())));
        let sessions = Arc::new(Self {
            settings,
            launcher,
            conversations,
            shared,
            metrics,
            random,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            places: Arc::default(),
            claims: AtomicUsize::new(0),
            refusals: Mutex::new(RateLimit::new(REFUSAL_RATE, Instant::now())),
            endings: Mutex::new(RateLimit::new(REFUSAL_RATE, Instant::now())),
            is_draining: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
        });
        let keeper: Weak<dyn Keeper> = Arc::<Self>::downgrade(&sessions);
        sessions.launcher.add_keeper(keeper);
        sessions
    }

    /// Memory for responses that clients have not read yet.
    pub fn answers(&self) -> &Arc<Budget> {
        &self.settings.memory.answers
    }

    /// Finds the session with this id, if `may_use` accepts its owner. A session of another owner is treated as
    /// if it did not exist (attack 108). If the caller's command has changed since the session was opened, the
    /// session ends, and the client must open another one (attack 103).
    pub fn find(
        &self,
        id: &str,
        may_use: impl Fn(&str) -> bool,
        caller: &Placeholders,
    ) -> Option<Arc<Session>> {
        let session = {
            let shard = self.shard(id)?.read().unwrap_or_else(PoisonError::into_inner);
            let (session, _) = shard.get(id)?;
            Some(session).filter(|session| may_use(&session.owner) && !session.is_ended()).cloned()?
        };
        if session.is_filled_with(&self.launcher.used(caller)) {
            return Some(session);
        }
        self.end(&session, "the command for its user has changed");
        None
    }

    /// Ends a session, and removes it.
    pub fn end(&self, session: &Session, why: &str) {
        session.end(why);
        self.remove(session);
    }

    /// Returns why no new session can be opened now, even by ending an unused one.
    pub async fn why_not_ready(&self) -> Option<&'static str> {
        if self.is_draining() {
            Some("the wrapper is stopping")
        } else if let Some(why) = self.launcher.why_not_ready() {
            Some(why)
        } else if !self.has_room().await {
            Some(
                "there is no room for another session (MAX_SESSIONS, or the memory and the processes of the container)",
            )
        } else {
            None
        }
    }

    /// The number of open sessions.
    fn count(&self) -> usize {
        usize::try_from(self.metrics.sessions.get()).unwrap_or(usize::MAX)
    }

    /// Refuses a new session of a client when the wrapper is about to stop, because the session would soon be lost.
    pub fn check_for_client(&self) -> Result<(), OpenError> {
        if self.is_draining() { Err(OpenError::Stopping) } else { Ok(()) }
    }

    fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Removes unused sessions while the wrapper runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ROUND).await;
            self.clear(Instant::now());
        }
    }

    /// Fails requests that have timed out, and removes unused and ended sessions.
    pub fn clear(&self, now: Instant) {
        if let Some(shared) = &self.shared {
            shared.expire(now);
        }
        for session in self.all() {
            session.expire(now);
            if session.idle_for(now).is_some_and(|idle| idle > self.settings.idle) {
                self.metrics.sessions_reaped_total.add();
                session.end("it was unused");
            }
            if session.is_ended() {
                self.remove(&session);
            }
        }
    }

    /// From now on, clients get no new sessions. Requests of stateless clients still get them, because an edge sends
    /// these requests here until it uses another instance, and cannot send them again.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Stops everything. No new sessions are opened, and requests in progress get half of the time to complete.
    /// Then all sessions are ended and their children are stopped.
    pub async fn stop(&self, within: Duration) {
        self.drain();
        self.is_stopping.store(true, Ordering::Relaxed);
        self.launcher.stop_starting();
        let start = Instant::now();
        while self.metrics.requests_in_flight.get() > 0 && start.elapsed() < within / 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let sessions = self.all();
        for session in &sessions {
            session.end_with(
                "the wrapper is shutting down",
                "This server is shutting down, and the request did not complete in time. Try again in a moment.",
            );
        }
        let gone = async {
            for session in &sessions {
                if let Some(link) = session.own_link() {
                    link.child.exited().await;
                }
                self.remove(session);
            }
            if let Some(shared) = &self.shared {
                shared.stop().await;
            }
        };
        // The launcher logs whether children have not exited in time.
        let _ = tokio::time::timeout(within.saturating_sub(start.elapsed()), gone).await;
    }

    fn all(&self) -> Vec<Arc<Session>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.values().map(|(session, _)| Arc::clone(session)));
        }
        all
    }

    /// Whether another line can be logged about an event that clients can cause any number of times.
    fn may_log(of: &Mutex<RateLimit>) -> bool {
        of.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) != Pass::No
    }

    fn remove(&self, session: &Session) {
        let Some(shard) = self.shard(&session.id) else {
            return;
        };
        let removed = shard.write().unwrap_or_else(PoisonError::into_inner).remove(&session.id);
        if removed.is_some() {
            self.metrics.sessions.sub();
        }
    }

    fn shard(&self, id: &str) -> Option<&Shard> {
        let index = self.hasher.hash_one(id) % SHARDS as u64;
        self.shards.get(usize::try_from(index).ok()?)
    }
}
