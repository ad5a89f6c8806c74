//! Opens sessions within the limits, finds them, ends them, and removes unused ones.

mod making_room;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use super::link::{Audience, Link};
use super::routing;
use super::session::{Backend, Session, SessionLimits};
use super::shared::SharedChildren;
use super::translated_server::TranslatedServer;
use crate::budget::{Budget, Memory, user};
use crate::child::{
    EXIT_PATIENCE, FEW, Framing, Keeper, Launcher, Pass, Placeholders, Random, RateLimit, StartError, Turn,
};
use crate::metrics::Metrics;
use crate::offload::Offload;
use crate::places::{Place, Places};

/// Number of session tables. A lookup locks one of them for reading.
const SHARDS: usize = 64;
/// Time between two rounds of removing sessions.
const ROUND: Duration = Duration::from_millis(250);
/// Maximum number of sessions that are ended to open one: one because of the limit of its owner, and one
/// because of the limit for all.
const MAX_GIVEN_UP: usize = 2;
/// Divisor for the maximum share of all sessions for one user, if there is no setting: half. Some clients
/// need several sessions, one for each window, and do not end them.
const SHARE: usize = 2;

/// Maximum number of log lines per second about refused sessions, and about sessions that are ended while
/// they are in use.
const REFUSAL_RATE: u32 = 5;

/// Limits and times of sessions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Maximum number of sessions.
    pub max_sessions: usize,
    /// Maximum number of sessions of one principal. `None` means a share of all sessions that fit.
    pub max_per_owner: Option<usize>,
    /// Maximum number of requests that a session has in progress.
    pub max_in_flight: usize,
    /// Memory for events that a client can ask for again, in bytes.
    pub event_log: usize,
    /// Time after which an unused session ends.
    pub idle: Duration,
    /// Maximum time without a sign of progress for a request.
    pub request_timeout: Duration,
    /// Maximum time for the answer to `initialize`.
    pub start_timeout: Duration,
    /// Time for a client to answer the child, after which a call that waits for it counts as late.
    pub input_timeout: Duration,
    /// Maximum length of a line of a child, in bytes.
    pub max_line: usize,
    /// Whether all sessions share one child.
    pub shared: bool,
    /// The memory for messages that wait between clients and children.
    pub memory: Memory,
    /// The threads for large lines of children.
    pub offload: Arc<Offload>,
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The limit of the wrapper is reached.
    #[error(
        "This server has no free session: it has the maximum of {0}. Try again later. Its operator can raise MAX_SESSIONS."
    )]
    Full(usize),
    /// The limit of the principal is reached.
    #[error(
        "You have too many open sessions: one caller can have {0}. End one of them, or try again later. The operator can raise MAX_SESSIONS_PER_PRINCIPAL."
    )]
    OwnerFull(usize),
    /// The next free place is reserved for another user.
    #[error(
        "This server has no free session: the next one is for a user who has none. Try again later. Its operator can raise MAX_SESSIONS."
    )]
    Claimed,
    /// No child could be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The wrapper is stopping.
    #[error("This server is shutting down. Try again in a moment.")]
    Stopping,
    /// There are no random bytes for an id.
    #[error("This server cannot generate random numbers, so it cannot open sessions.")]
    Random,
}

impl OpenError {
    /// Whether there are too many sessions, so that ending one might help.
    pub fn is_ceiling(&self) -> bool {
        matches!(
            self,
            Self::Full(_) | Self::OwnerFull(_) | Self::Claimed | Self::Start(StartError::NoRoom(_))
        )
    }
}

/// Some of the sessions, by id.
type Shard = RwLock<HashMap<String, (Arc<Session>, Arc<Place>)>>;

/// The origin of the child of a new session.
enum Source {
    /// It is started for the session, or is a spare.
    Own(Arc<Turn>),
    /// All sessions share it.
    Shared(Arc<SharedChildren>),
}

/// Connects a session to the server that answers its requests.
type Backing<'a> = dyn Fn(&Arc<Session>, &Arc<Place>) -> Result<Backend, StartError> + 'a;

/// All sessions.
pub struct Sessions {
    settings: Settings,
    launcher: Arc<Launcher>,
    framing: Arc<dyn Framing>,
    shared: Option<Arc<SharedChildren>>,
    metrics: Arc<Metrics>,
    random: Random,
    hasher: RandomState,
    shards: Vec<Shard>,
    /// A session counts until no process of its child is left, so that nobody can fill the container with
    /// children that are slow to end.
    places: Arc<Places>,
    /// The number of users without a session for whom a session of another user is ending. Nobody else gets a
    /// session in that time, because they could take the place of the one that ends.
    claims: AtomicUsize,
    refusals: Mutex<RateLimit>,
    /// Limits the log lines about sessions that are ended while in use. This limit is separate, so that a
    /// flood of refusals does not suppress these lines.
    endings: Mutex<RateLimit>,
    is_stopping: AtomicBool,
}

impl Sessions {
    /// Makes an empty set of sessions.
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
        let sessions = Arc::new(Self {
            settings,
            launcher,
            framing,
            shared,
            metrics,
            random,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            places: Arc::default(),
            claims: AtomicUsize::new(0),
            refusals: Mutex::new(RateLimit::new(REFUSAL_RATE, Instant::now())),
            endings: Mutex::new(RateLimit::new(REFUSAL_RATE, Instant::now())),
            is_stopping: AtomicBool::new(false),
        });
        let keeper: Weak<dyn Keeper> = Arc::<Self>::downgrade(&sessions);
        sessions.launcher.add_keeper(keeper);
        sessions
    }

    /// Opens a session with a child. The caller then sends `initialize` on it. If there is no room, ends the
    /// session or the stateless child that has been unused for the longest time.
    pub async fn open(
        &self,
        owner: &str,
        caller: &Placeholders,
        is_sse: bool,
    ) -> Result<Arc<Session>, OpenError> {
        let source = match self.source(owner).await {
            Ok(source) => source,
            Err(error) => return self.noted(Err(error)),
        };
        let start_timeout = match &source {
            Source::Own(turn) => turn.start_timeout(),
            Source::Shared(_) => self.settings.start_timeout,
        };
        let behind: &Backing<'_> = &|session, place| self.behind(session, place, caller, &source);
        let attempt = || self.try_open(owner, is_sse, start_timeout, behind);
        let mut opened = attempt();
        let until = Instant::now() + EXIT_PATIENCE;
        // A user who has just ended a session gets its place as soon as its child has ended.
        while opened.as_ref().is_err_and(OpenError::is_ceiling) && self.one_has_ended(owner, until).await {
            opened = attempt();
        }
        if matches!(&opened, Err(OpenError::Start(StartError::NoRoom(_)))) && self.launcher.look_again() {
            opened = attempt();
        }
        let _claim = opened.as_ref().is_err_and(OpenError::is_ceiling).then(|| self.claim(owner)).flatten();
        for _ in 0..MAX_GIVEN_UP {
            let Err(error) = &opened else { break };
            if !self.make_room_for_a_child(error, owner).await {
                break;
            }
            opened = attempt();
        }
        self.noted(opened)
    }

    /// Waits until a child can be started for a session of this owner, if the session needs a child of its
    /// own.
    async fn source(&self, owner: &str) -> Result<Source, OpenError> {
        if self.is_stopping() {
            return Err(OpenError::Stopping);
        }
        Ok(match &self.shared {
            Some(shared) => {
                shared.check_pause()?;
                Source::Shared(Arc::clone(shared))
            }
            None => Source::Own(self.launcher.turn(user(owner)).await?),
        })
    }

    /// Opens a session that the translation serves, which answers `initialize` itself.
    pub fn open_foreign(
        &self,
        owner: &str,
        caller: &Placeholders,
        peer: &Arc<dyn TranslatedServer>,
    ) -> Result<Arc<Session>, OpenError> {
        let behind: &Backing<'_> = &|session, _| {
            session.fill(self.launcher.used(caller));
            Ok(Backend::Translated(Arc::clone(peer)))
        };
        let attempt = || self.try_open(owner, false, self.settings.start_timeout, behind);
        let mut opened = attempt();
        for _ in 0..MAX_GIVEN_UP {
            if opened.as_ref().err().and_then(|error| self.make_place(error, owner)).is_none() {
                break;
            }
            opened = attempt();
        }
        self.noted(opened)
    }

    fn noted(&self, opened: Result<Arc<Session>, OpenError>) -> Result<Arc<Session>, OpenError> {
        match &opened {
            Ok(_) => self.metrics.sessions_opened_total.add(),
            Err(error) => {
                self.metrics.sessions_refused_total.add();
                if Self::may_log(&self.refusals) {
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
        start_timeout: Duration,
        behind: &Backing<'_>,
    ) -> Result<Arc<Session>, OpenError> {
        if self.is_stopping() {
            return Err(OpenError::Stopping);
        }
        let id = self.new_id()?;
        let place = Arc::new(self.reserve(owner)?);
        let limits = SessionLimits {
            max_in_flight: self.settings.max_in_flight,
            event_log: self.settings.event_log,
            request_timeout: self.settings.request_timeout,
            start_timeout,
            input_timeout: self.settings.input_timeout,
        };
        let session = Arc::new(Session::new(
            id.clone(),
            owner.to_owned(),
            is_sse,
            limits,
            self.answers(),
            Arc::clone(&self.metrics),
        ));
        match behind(&session, &place) {
            Ok(behind) => session.attach(behind),
            Err(error) => {
                self.metrics.sessions.sub();
                return Err(error.into());
            }
        }
        if let Some(shard) = self.shard(&id) {
            let entry = (Arc::clone(&session), place);
            shard.write().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
        }
        Ok(session)
    }

    fn behind(
        &self,
        session: &Arc<Session>,
        place: &Arc<Place>,
        caller: &Placeholders,
        source: &Source,
    ) -> Result<Backend, StartError> {
        session.fill(self.launcher.used(caller));
        let (child, outbox, output) = match source {
            Source::Own(turn) => self.launcher.take(caller, turn)?,
            Source::Shared(shared) => return Ok(Backend::Shared(Arc::clone(shared))),
        };
        child.hold(Arc::clone(place));
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
        let large = (self.settings.max_line, Arc::clone(&self.settings.offload));
        tokio::spawn(routing::read(Arc::clone(&link), output, decoder, large));
        Ok(Backend::Own(link))
    }

    /// Memory for answers that wait until their clients read them.
    pub fn answers(&self) -> &Arc<Budget> {
        &self.settings.memory.answers
    }

    /// Finds the session with this id, if `may_use` accepts its owner. A session of anybody else is treated
    /// as if it did not exist (attack 108). If the caller's command has changed since then, the session ends,
    /// and the client has to open another one (attack 103).
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

    /// Why no new session can be opened now, not even by ending an unused one.
    pub fn why_not_ready(&self) -> Option<&'static str> {
        if self.is_stopping() {
            Some("the wrapper is stopping")
        } else if let Some(why) = self.launcher.why_not_ready() {
            Some(why)
        } else if !self.has_room() {
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

    /// Whether the wrapper is stopping.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Removes unused sessions, as long as the wrapper runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ROUND).await;
            self.clear(Instant::now());
        }
    }

    /// Makes one round: late requests fail, and unused and ended sessions are removed.
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
        if Self::may_log(&self.refusals) {
            tracing::warn!(
                "the server did not answer `initialize` within START_TIMEOUT ({} s) and was ended. If it needs longer to start, \
                 raise START_TIMEOUT; if it waits for something, its stderr may say for what",
                self.settings.start_timeout.as_secs_f32()
            );
        }
    }

    /// From now on, no session is opened.
    pub fn begin_stopping(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.launcher.stop_starting();
    }

    /// Stops everything. No new sessions are opened, requests in progress get half of the time, and then all
    /// sessions and children end.
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
            tracing::warn!("not every child ended in time; the others are killed with the wrapper");
        }
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

    /// Counts another session.
    fn reserve(&self, owner: &str) -> Result<Place, OpenError> {
        self.places.take_if(owner, |own| {
            let (max, all) = (self.settings.max_sessions, self.count());
            if all >= max {
                return Err(OpenError::Full(max));
            }
            let max = self.settings.max_per_owner.unwrap_or_else(|| {
                let more = self.launcher.capacity().more();
                let fit = more.map_or(max, |more| max.min(all.saturating_add(more)));
                (fit / SHARE).max(FEW)
            });
            if own >= max {
                return Err(OpenError::OwnerFull(max));
            }
            if own > 0 && self.claims.load(Ordering::Acquire) > 0 {
                return Err(OpenError::Claimed);
            }
            self.metrics.sessions.add();
            Ok(())
        })
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

    /// Makes an id of 256 random bits, in characters that a header can contain (2025-11-25, "Session
    /// Management").
    fn new_id(&self) -> Result<String, OpenError> {
        let mut bytes = [0; 32];
        if (self.random)(&mut bytes) { Ok(URL_SAFE_NO_PAD.encode(bytes)) } else { Err(OpenError::Random) }
    }

    fn shard(&self, id: &str) -> Option<&Shard> {
        let index = self.hasher.hash_one(id) % SHARDS as u64;
        self.shards.get(usize::try_from(index).ok()?)
    }
}
