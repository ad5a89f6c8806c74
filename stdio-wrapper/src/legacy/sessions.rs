//! All sessions: opening within the ceilings, finding, ending, and clearing away what nobody uses.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use super::foreign::Foreign;
use super::link::{Audience, Link};
use super::routing;
use super::session::{Behind, Session, SessionLimits};
use super::shared::SharedChildren;
use crate::budget::{Budget, Memory};
use crate::child::{Framing, Launcher, Pass, Placeholders, Random, RateLimit, StartError};
use crate::metrics::Metrics;

/// Session tables; a lookup locks one of them for reading.
const SHARDS: usize = 64;
/// Time between two rounds of clearing.
const ROUND: Duration = Duration::from_millis(250);
/// A session that was used this recently is not given up for another one.
const EVICTABLE_AFTER: Duration = Duration::from_secs(30);

/// Refused sessions that are logged per second.
const REFUSAL_RATE: u32 = 5;

/// Ceilings and times.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Sessions at the same time.
    pub max_sessions: usize,
    /// Sessions of one principal at the same time.
    pub max_per_owner: usize,
    /// Requests of one session at the same time.
    pub max_in_flight: usize,
    /// Bytes kept for clients that come back.
    pub event_log: usize,
    /// Life of an unused session.
    pub idle: Duration,
    /// Longest silence of a child.
    pub request_timeout: Duration,
    /// Longest wait for `initialize`.
    pub start_timeout: Duration,
    /// How long a client may take to answer the child before a call of it counts as late all the same.
    pub input_timeout: Duration,
    /// Longest line of a child.
    pub max_line: usize,
    /// One child for all.
    pub shared: bool,
    /// Memory for what waits between clients and children.
    pub memory: Memory,
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The wrapper's ceiling.
    #[error("This server has no free session. Try again later.")]
    Full,
    /// The principal's ceiling.
    #[error("You have too many open sessions. End one of them, or try again later.")]
    OwnerFull,
    /// No child.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The wrapper is stopping.
    #[error("This server is shutting down. Try again in a moment.")]
    Stopping,
    /// No random bits for an id.
    #[error("This server has no random numbers, so it cannot open sessions.")]
    Random,
}

/// The sessions.
pub struct Sessions {
    settings: Settings,
    launcher: Arc<Launcher>,
    framing: Arc<dyn Framing>,
    shared: Option<Arc<SharedChildren>>,
    metrics: Arc<Metrics>,
    random: Random,
    hasher: RandomState,
    shards: Vec<RwLock<HashMap<String, Arc<Session>>>>,
    /// Open sessions of each principal; held while one is opened or removed, never while one is used.
    owners: Mutex<HashMap<String, usize>>,
    refusals: Mutex<RateLimit>,
    is_stopping: AtomicBool,
}

impl Sessions {
    /// No sessions yet.
    pub fn new(
        settings: Settings,
        launcher: Arc<Launcher>,
        framing: Arc<dyn Framing>,
        metrics: Arc<Metrics>,
        random: Random,
    ) -> Arc<Self> {
        let shared = settings.shared.then(|| {
            Arc::new(SharedChildren::new(
                settings.clone(),
                Arc::clone(&launcher),
                Arc::clone(&framing),
                Arc::clone(&metrics),
            ))
        });
        Arc::new(Self {
            settings,
            launcher,
            framing,
            shared,
            metrics,
            random,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            owners: Mutex::default(),
            refusals: Mutex::new(RateLimit::new(REFUSAL_RATE, Instant::now())),
            is_stopping: AtomicBool::new(false),
        })
    }

    /// Opens a session with a child behind it. The caller sends `initialize` on it.
    pub fn open(&self, owner: &str, caller: &Placeholders, is_sse: bool) -> Result<Arc<Session>, OpenError> {
        self.noted(self.try_open(owner, is_sse, &|session| self.behind(session, caller)))
    }

    /// Opens a session with a translation behind it, which greets the client itself.
    pub fn open_foreign(&self, owner: &str, peer: &Arc<dyn Foreign>) -> Result<Arc<Session>, OpenError> {
        self.noted(self.try_open(owner, false, &|_| Ok(Behind::Foreign(Arc::clone(peer)))))
    }

    fn noted(&self, opened: Result<Arc<Session>, OpenError>) -> Result<Arc<Session>, OpenError> {
        match &opened {
            Ok(_) => self.metrics.sessions_opened_total.add(),
            Err(error) => {
                self.metrics.sessions_refused_total.add();
                // Whoever is refused may try again without end.
                let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
                if refusals.take(Instant::now()) != Pass::No {
                    tracing::warn!(%error, "no session was opened");
                }
            }
        }
        opened
    }

    fn try_open(
        &self,
        owner: &str,
        is_sse: bool,
        behind: &dyn Fn(&Arc<Session>) -> Result<Behind, StartError>,
    ) -> Result<Arc<Session>, OpenError> {
        if self.is_stopping() {
            return Err(OpenError::Stopping);
        }
        let id = self.new_id()?;
        self.reserve(owner)?;
        let limits = SessionLimits {
            max_in_flight: self.settings.max_in_flight,
            event_log: self.settings.event_log,
            request_timeout: self.settings.request_timeout,
            start_timeout: self.settings.start_timeout,
            input_timeout: self.settings.input_timeout,
        };
        let session =
            Arc::new(Session::new(id.clone(), owner.to_owned(), is_sse, limits, Arc::clone(&self.metrics)));
        match behind(&session) {
            Ok(behind) => session.attach(behind),
            Err(error) => {
                self.release(owner);
                return Err(error.into());
            }
        }
        if let Some(shard) = self.shard(&id) {
            shard.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&session));
        }
        Ok(session)
    }

    fn behind(&self, session: &Arc<Session>, caller: &Placeholders) -> Result<Behind, StartError> {
        if let Some(shared) = &self.shared {
            return Ok(Behind::Shared(Arc::clone(shared)));
        }
        let (child, outbox, output) = self.launcher.take(caller)?;
        let audience = Audience::Session(Arc::downgrade(session));
        let link = Link::new(
            child,
            outbox,
            Arc::clone(&self.framing),
            audience,
            Arc::clone(&self.launcher),
            Arc::clone(&self.metrics),
            self.settings.memory.clone(),
        );
        let link = Arc::new(link);
        let decoder = self.framing.decoder(self.settings.max_line);
        tokio::spawn(routing::read(Arc::clone(&link), output, decoder));
        Ok(Behind::Own(link))
    }

    /// Memory for answers that wait for their readers.
    pub fn answers(&self) -> &Arc<Budget> {
        &self.settings.memory.answers
    }

    /// The session with this id, if it belongs to this principal. Another principal's looks like none (attack 108).
    pub fn find(&self, id: &str, owner: &str) -> Option<Arc<Session>> {
        let shard = self.shard(id)?.read().unwrap_or_else(PoisonError::into_inner);
        shard.get(id).filter(|session| session.owner == owner && !session.is_ended()).cloned()
    }

    /// Ends a session and forgets it.
    pub fn end(&self, session: &Session, why: &str) {
        session.end(why);
        self.remove(session);
    }

    /// Whether new sessions can be opened.
    pub fn is_ready(&self) -> bool {
        !self.is_stopping() && self.launcher.is_ready()
    }

    /// Whether the wrapper is stopping.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Clears away, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ROUND).await;
            self.clear(Instant::now());
        }
    }

    /// One round: late requests fail, unused and ended sessions go.
    pub fn clear(&self, now: Instant) {
        if let Some(shared) = &self.shared {
            shared.expire(now);
        }
        for session in self.all() {
            if session.expire(now) {
                self.note_silence();
            }
            if session.idle_for(now).is_some_and(|idle| idle > self.settings.idle) {
                self.metrics.sessions_reaped_total.add();
                session.end("nobody used it");
            }
            if session.is_ended() {
                self.remove(&session);
            }
        }
    }

    fn note_silence(&self) {
        // Whoever opens sessions may do so without end.
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.take(Instant::now()) != Pass::No {
            tracing::warn!(
                "the server did not answer `initialize` within START_TIMEOUT ({} s) and was ended. If it needs longer to start, \
                 raise START_TIMEOUT; if it waits for something, its stderr may say for what",
                self.settings.start_timeout.as_secs_f32()
            );
        }
    }

    /// From now on no session is opened.
    pub fn begin_stopping(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Stops: no new sessions, running requests get half of the time, then everything ends, children too.
    pub async fn stop(&self, within: Duration) {
        self.begin_stopping();
        let start = Instant::now();
        while self.metrics.requests_in_flight.get() > 0 && start.elapsed() < within / 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let sessions = self.all();
        for session in &sessions {
            session.end("the wrapper is shutting down");
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
            self.launcher.stop_spares().await;
        };
        if tokio::time::timeout(within.saturating_sub(start.elapsed()), gone).await.is_err() {
            tracing::warn!("not every child ended in time; the rest is killed with the wrapper");
        }
    }

    fn all(&self) -> Vec<Arc<Session>> {
        let mut all = Vec::new();
        for shard in &self.shards {
            all.extend(shard.read().unwrap_or_else(PoisonError::into_inner).values().cloned());
        }
        all
    }

    /// Counts a session in, or gives up one that its owner has left lying about.
    fn reserve(&self, owner: &str) -> Result<(), OpenError> {
        if self.try_reserve(owner).is_ok() {
            return Ok(());
        }
        if let Some(oldest) = self.forgotten(owner) {
            self.metrics.sessions_reaped_total.add();
            self.end(&oldest, "its owner opened another one");
        }
        self.try_reserve(owner)
    }

    fn try_reserve(&self, owner: &str) -> Result<(), OpenError> {
        let mut owners = self.owners();
        if self.metrics.sessions.get() >= self.settings.max_sessions as u64 {
            return Err(OpenError::Full);
        }
        if owners.get(owner).copied().unwrap_or_default() >= self.settings.max_per_owner {
            return Err(OpenError::OwnerFull);
        }
        *owners.entry(owner.to_owned()).or_default() += 1;
        self.metrics.sessions.add();
        Ok(())
    }

    fn release(&self, owner: &str) {
        let mut owners = self.owners();
        if let Some(count) = owners.get_mut(owner) {
            *count -= 1;
            if *count == 0 {
                owners.remove(owner);
            }
            self.metrics.sessions.sub();
        }
    }

    /// The session of this owner that has been unused for the longest time, if that is long enough.
    fn forgotten(&self, owner: &str) -> Option<Arc<Session>> {
        let now = Instant::now();
        let idle = |session: Arc<Session>| Some((session.idle_for(now)?, session));
        self.all()
            .into_iter()
            .filter(|session| session.owner == owner)
            .filter_map(idle)
            .max_by_key(|(idle, _)| *idle)
            .filter(|(idle, _)| *idle >= EVICTABLE_AFTER)
            .map(|(_, session)| session)
    }

    fn remove(&self, session: &Session) {
        let Some(shard) = self.shard(&session.id) else {
            return;
        };
        let removed = shard.write().unwrap_or_else(PoisonError::into_inner).remove(&session.id);
        if removed.is_some() {
            self.release(&session.owner);
        }
    }

    /// 256 random bits, in letters that a header may carry (2025-11-25, "Session Management").
    fn new_id(&self) -> Result<String, OpenError> {
        let mut bytes = [0; 32];
        if (self.random)(&mut bytes) { Ok(URL_SAFE_NO_PAD.encode(bytes)) } else { Err(OpenError::Random) }
    }

    fn shard(&self, id: &str) -> Option<&RwLock<HashMap<String, Arc<Session>>>> {
        let index = self.hasher.hash_one(id) % SHARDS as u64;
        self.shards.get(usize::try_from(index).ok()?)
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
