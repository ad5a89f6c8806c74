//! Provides children, either spares or newly started ones. None is started while children keep exiting before
//! their first response, or do not respond.

mod ending;
mod guard;
mod hidden;
mod roster;
mod stopping;
mod watching;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::guard::Relief;
use self::roster::Roster;
use super::backoff::{Backoffs, Broken, Pause};
use super::command::{CommandError, Placeholders, fill};
use super::keepers::{EXIT_PATIENCE, Keeper, Keepers, Newcomer};
use super::numbers::{Numbers, Random, Width};
use super::output::Output;
use super::process::Child;
use super::rate_limit::{Pass, RateLimit};
use super::reaper::Reaper;
use super::spares::{Shown, Spares, Wanted};
use super::spec::Spec;
use super::starts::{Busy, SPARES, Starts, Turn};
use super::warm_up::Pinged;
use super::writer::Outbox;
use crate::capacity::{Capacity, NoRoom, Usage};
use crate::metrics::Metrics;

const LOOK: Duration = Duration::from_secs(2);
/// Before it refuses a child, the launcher measures again what children use, unless the last measurement is
/// more recent than this.
const FRESH: Duration = Duration::from_millis(200);

/// Maximum number of log lines per second about children that do not answer `initialize`.
const SILENCE_RATE: u32 = 5;

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Children keep exiting before their first response. No child is started for this time.
    #[error("The MCP server keeps failing at start. The next attempt is possible in {} s.", .0.as_secs() + 1)]
    BackOff(Duration),
    /// The last child did not answer `initialize`. No child is started during the pause.
    #[error(
        "The MCP server did not answer initialize within {} s, so no further one is started for you. The next attempt is possible in {} s. If it needs longer to start, its operator can raise START_TIMEOUT; the log might show what it waits for.", within.as_secs_f32(), rest.as_secs() + 1
    )]
    Silent {
        /// The rest of the pause.
        rest: Duration,
        /// The time limit that the child exceeded.
        within: Duration,
    },
    /// The start did not get a slot, because other children are starting.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The container has no room for another child.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The operating system could not start the child.
    #[error("The MCP server could not be started: {0}.")]
    Spawn(#[from] std::io::Error),
    /// The caller does not have a value that the command needs.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl From<Pause> for StartError {
    fn from(Pause { rest, silence }: Pause) -> Self {
        silence.map_or(Self::BackOff(rest), |within| Self::Silent { rest, within })
    }
}

/// Starts children or takes spares, and limits how many start at the same time.
pub struct Launcher {
    spec: Spec,
    runtime: Handle,
    reaper: Arc<Reaper>,
    metrics: Arc<Metrics>,
    random: Random,
    next: AtomicU64,
    state: Mutex<State>,
    /// Limits the log lines about children that do not answer.
    silences: Mutex<RateLimit>,
    starts: Arc<Starts>,
    keepers: Keepers,
    relief: Relief,
    roster: Roster,
    taken: Notify,
}

impl std::fmt::Debug for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launcher").field("spec", &self.spec).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    spares: Spares,
    backoff: Backoffs,
    /// The time of the last measurement of what children use.
    looked: Option<Instant>,
}

impl Launcher {
    /// Creates a launcher whose children are watched on `runtime`.
    pub fn new(
        spec: Spec,
        runtime: Handle,
        reaper: Arc<Reaper>,
        metrics: Arc<Metrics>,
        random: Random,
    ) -> Arc<Self> {
        let starts = Starts::new(spec.max_starts, spec.start_timeout, Arc::clone(&metrics));
        Arc::new(Self {
            spec,
            runtime,
            reaper,
            metrics,
            random,
            next: AtomicU64::new(1),
            state: Mutex::default(),
            silences: Mutex::new(RateLimit::new(SILENCE_RATE, Instant::now())),
            starts,
            keepers: Keepers::default(),
            relief: Relief::new(Instant::now()),
            roster: Roster::default(),
            taken: Notify::new(),
        })
    }

    /// Waits until a child can be started for this principal. Returns immediately if a spare is ready, or with
    /// an error while starts fail.
    pub async fn turn(&self, owner: &str) -> Result<Arc<Turn>, StartError> {
        self.turn_for(Wanted::Greeting, owner).await
    }

    /// Like [`Launcher::turn`], for a child that has not received any message.
    pub async fn turn_for_untouched(&self, owner: &str) -> Result<Arc<Turn>, StartError> {
        self.turn_for(Wanted::Untouched, owner).await
    }

    async fn turn_for(&self, wanted: Wanted, owner: &str) -> Result<Arc<Turn>, StartError> {
        // If the server does not answer, its spares would not answer either.
        let pause = self.pause(owner);
        if let Some(silent) = pause.filter(|pause| pause.silence.is_some()) {
            return Err(silent.into());
        }
        if self.state().spares.has(wanted) {
            return Ok(Turn::without_start(owner, self.spec.start_timeout));
        }
        if let Some(pause) = pause {
            return Err(pause.into());
        }
        Ok(self.starts.turn(owner).await?)
    }

    /// Provides a child for a session of one caller, with its input and output. Takes a spare if there is one.
    /// Input and output belong to the runtime of the calling function, so the thread of an HTTP connection can
    /// handle its messages alone.
    pub fn take(
        &self,
        caller: &Placeholders,
        turn: &Arc<Turn>,
    ) -> Result<(Child, Outbox, Output), StartError> {
        self.take_as(Wanted::Greeting, caller, turn)
    }

    /// Provides a child that has not received any message.
    pub fn take_untouched(
        &self,
        caller: &Placeholders,
        turn: &Arc<Turn>,
    ) -> Result<(Child, Outbox, Output), StartError> {
        self.take_as(Wanted::Untouched, caller, turn)
    }

    fn take_as(
        &self,
        wanted: Wanted,
        caller: &Placeholders,
        turn: &Arc<Turn>,
    ) -> Result<(Child, Outbox, Output), StartError> {
        let spare = self.state().spares.take(wanted);
        self.taken.notify_one();
        let child = if let Some(spare) = spare {
            spare
        } else {
            let child = self.start(caller, turn)?;
            child.occupy(Arc::clone(turn));
            child
        };
        child.set_owner(Arc::clone(turn.owner()));
        self.roster.enter(child.number, Arc::clone(turn.owner()), child.remains());
        Ok(child.connect(self.spec.max_queue)?)
    }

    /// The values of a caller that the command uses.
    pub fn used(&self, caller: &Placeholders) -> Placeholders {
        caller.used_by(&self.spec.child)
    }

    /// Creates the generator of request ids for one child.
    pub fn numbers(&self, width: Width) -> Numbers {
        Numbers::new(Arc::clone(&self.random), width)
    }

    /// Records that a child answered, which resets the count of failures.
    pub fn child_worked(&self, child: &Child) {
        self.state().backoff.worked(child.owner().map_or("", |owner| owner));
    }

    /// Records that a child exited before it answered.
    pub fn child_failed(&self, child: &Child) {
        self.failed(&child.owner().map_or_else(|| Arc::from(""), Arc::clone));
    }

    /// Records and logs that a child did not answer `initialize` within this time.
    pub fn child_was_silent(&self, child: &Child, within: Duration) {
        let owner = child.owner().map_or_else(|| Arc::from(""), Arc::clone);
        if let Pass::Yes { .. } =
            self.silences.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
        {
            tracing::warn!(
                child = child.number,
                "the server did not answer `initialize` within START_TIMEOUT ({} s) and was stopped. If it needs longer to start, \
                 raise START_TIMEOUT; if it waits for something, its standard error might show for what",
                within.as_secs_f32()
            );
        }
        self.state().backoff.was_silent(&owner, within, Instant::now());
    }

    fn failed(&self, owner: &Arc<str>) {
        self.metrics.children_failed_total.add();
        self.state().backoff.failed(owner, Instant::now());
    }

    /// The reason why no child can be started now, as a sentence for operators.
    pub fn why_not_ready(&self) -> Option<&'static str> {
        if self.relief.watching.has_too_few() {
            return Some(
                "connections and starts of servers can fail: programs with the user id of this wrapper use nearly all epoll watches of the machine (fs.epoll.max_user_watches); see the log",
            );
        }
        match self.state().backoff.broken(Instant::now()) {
            Some(Broken::Ends) => Some(
                "no MCP server can be started at the moment: it has failed several times while starting; see the log",
            ),
            Some(Broken::Silent) => Some(
                "the MCP server did not answer initialize within START_TIMEOUT, several times in a row; see the log",
            ),
            None => self
                .starts
                .is_full()
                .then_some("no MCP server can be started at the moment: too many starts are waiting"),
        }
    }

    /// Fails if no child is started for this principal at the moment, because previous starts failed.
    pub fn check_pause(&self, owner: &str) -> Result<(), StartError> {
        self.pause(owner).map_or(Ok(()), |pause| Err(pause.into()))
    }

    fn pause(&self, owner: &str) -> Option<Pause> {
        self.state().backoff.pause(owner, Instant::now())
    }

    /// Refuses all starts from now on.
    pub fn stop_starting(&self) {
        self.starts.close();
    }

    /// Whether there is a spare, or room for another child.
    pub fn has_room(&self) -> bool {
        self.spec.capacity.has_room() || self.state().spares.len() > 0
    }

    /// Adds a keeper of children.
    pub fn add_keeper(&self, keeper: Weak<dyn Keeper>) {
        self.keepers.add(keeper);
    }

    /// Stops the least recently used child, or one that is too large, and waits until it has exited. Returns
    /// whether a child was stopped.
    pub async fn make_room(self: &Arc<Self>, newcomer: Newcomer<'_>) -> bool {
        let mut gone = self.keepers.give_up(newcomer);
        if gone.is_none() && self.relief.one_has_ended().await {
            return true;
        }
        gone = gone.or_else(|| self.end_too_large(newcomer));
        // Who has the memory that belongs to no process might be known now.
        if gone.is_none() && self.relief.hidden.has_ended().await {
            gone = self.end_too_large(newcomer);
        }
        let Some(gone) = gone else { return false };
        let _ = tokio::time::timeout(EXIT_PATIENCE, gone).await;
        self.look();
        true
    }

    /// Whether a child could be stopped for another one.
    pub async fn can_make_room(self: &Arc<Self>, newcomer: Newcomer<'_>) -> bool {
        if self.keepers.can_give_up(newcomer) || self.too_large(newcomer).is_some() {
            return true;
        }
        self.relief.hidden.has_ended().await && self.too_large(newcomer).is_some()
    }

    /// Decides how many children fit into the container.
    pub fn capacity(&self) -> &Capacity {
        &self.spec.capacity
    }

    /// Measures what children use, at regular intervals, while the wrapper runs.
    pub async fn keep_looking(self: Arc<Self>) {
        while self.spec.capacity.is_limited() {
            self.measure_sharing(guard::WAIT).await;
            let usage = self.look();
            self.explain_hidden_memory(&usage);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Measures what children use now, unless the last measurement is very recent. Returns whether it measured.
    pub fn look_again(&self) -> bool {
        let now = Instant::now();
        let is_fresh = self.state().looked.is_some_and(|looked| now.duration_since(looked) < FRESH);
        if !is_fresh {
            self.look();
        }
        !is_fresh
    }

    /// Measures what each child uses now. Returns the usage by child number.
    pub fn look(&self) -> HashMap<u64, Usage> {
        let now = Instant::now();
        self.state().looked = Some(now);
        self.spec.capacity.look(&|| self.usage(), now)
    }

    /// Keeps spares ready while the wrapper runs.
    pub async fn keep_spares(self: Arc<Self>) {
        if self.spec.prewarm == 0 {
            return;
        }
        loop {
            self.refill();
            // A spare can exit without being taken, so this must not wait forever.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.taken.notified()).await;
        }
    }

    fn refill(self: &Arc<Self>) {
        let missing = {
            let mut state = self.state();
            if state.spares.forget_ended() {
                state.backoff.failed(&Arc::from(SPARES), Instant::now());
            }
            self.spec.prewarm.saturating_sub(state.spares.len())
        };
        for _ in 0..missing {
            let is_pinged = self.state().spares.will_ping();
            let Some(turn) = self.starts.spare_turn(is_pinged) else { return };
            match self.start(&Placeholders::default(), &turn) {
                Ok(spare) => self.add_spare(spare, turn),
                Err(error) => {
                    tracing::debug!(%error, "no spare child");
                    return;
                }
            }
        }
    }

    fn add_spare(self: &Arc<Self>, spare: Child, turn: Arc<Turn>) {
        let number = spare.number;
        let ping = {
            let mut state = self.state();
            let _runtime = self.runtime.enter();
            spare.occupy(Arc::clone(&turn));
            let ping = state.spares.wants_ping(number).then(|| spare.ping());
            state.spares.add(spare, ping.is_some());
            ping
        };
        let Some(ping) = ping else { return };
        let launcher = Arc::clone(self);
        let within = self.spec.start_timeout;
        self.runtime.spawn(async move {
            let pinged = match ping {
                Ok(ping) => tokio::time::timeout(within, ping).await.unwrap_or(Pinged::Refused),
                Err(_) => Pinged::Ended,
            };
            turn.leave();
            launcher.pinged(number, pinged);
        });
    }

    fn pinged(&self, number: u64, pinged: Pinged) {
        let shown = self.state().spares.pinged(number, pinged);
        match shown {
            Some(Shown::Work) => {
                tracing::debug!(child = number, "spares are warmed up with a ping");
            }
            Some(Shown::Harm) => tracing::info!(
                child = number,
                ?pinged,
                "the MCP server does not support a ping before initialize, so spares are not warmed up with one"
            ),
            None => {}
        }
        self.taken.notify_one();
    }

    fn start(&self, caller: &Placeholders, turn: &Turn) -> Result<Child, StartError> {
        self.check_pause(turn.owner())?;
        let filled = fill(&self.spec.child, caller)?;
        let _starting = self.spec.capacity.take()?;
        self.state().backoff.started(turn.owner(), Instant::now());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let _runtime = self.runtime.enter();
        let started = Child::start(number, &filled, &self.spec, &self.reaper, &self.metrics);
        started.map_err(|error| {
            tracing::error!(%error, program = filled.command.first(), "the child could not be started");
            self.failed(turn.owner());
            StartError::Spawn(error)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
