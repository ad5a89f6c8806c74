//! The children of the stateless revision: one for all clients, or one for each caller if the command depends
//! on the caller.

mod keeping;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::call_error::CallError;
use super::link::{Link, LinkSettings};
use super::probe::{self, Shows};
use super::verdict::{Probed, Verdict, Verdicts};
use crate::budget::{Budget, Memory};
use crate::child::{Framing, Keeper, Launcher, Newcomer, Placeholders, StartError};
use crate::conversation::Conversations;
use crate::metrics::Metrics;
use crate::offload::Offload;
use crate::places::{Place, Places};
use crate::stream::Stream;
use keeping::{oldest, user_of};

/// Interval at which unused children are removed.
const ROUND: Duration = Duration::from_millis(250);
/// Maximum time for which a client waits for the response to the probe. If a child starts more slowly, the
/// wrapper treats the server as one with sessions while it continues to wait for the response.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of children that are stopped to start one. Another user might use up the capacity that the
/// first one freed.
const MAX_GIVEN_UP: usize = 2;

/// Limits and timeouts of children.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether the command depends on the caller, so that each caller needs a separate child.
    pub is_per_caller: bool,
    /// Maximum number of children.
    pub max_children: usize,
    /// Maximum number of requests in progress for one principal, including subscriptions.
    pub max_in_flight: usize,
    /// Maximum number of bytes that are queued for a client that does not read.
    pub event_log: usize,
    /// Time after which an unused child of one caller is stopped.
    pub idle: Duration,
    /// Maximum time for a request without a response or progress.
    pub request_timeout: Duration,
    /// Maximum time for a child's first response.
    pub start_timeout: Duration,
    /// Maximum length of a line from a child, in bytes.
    pub max_line: usize,
    /// Size of the list cache of each child, in bytes. With 0, nothing is cached.
    pub list_cache: usize,
    /// The memory for messages that are queued between clients and children.
    pub memory: Memory,
    /// The threads that process large lines from children.
    pub offload: Arc<Offload>,
}

/// The children of the stateless revision.
pub struct Servers {
    settings: Settings,
    launcher: Arc<Launcher>,
    conversations: Conversations,
    verdicts: Verdicts,
    /// Locked while a server of an earlier revision is probed again.
    asking_again: Arc<tokio::sync::Mutex<()>>,
    /// A child that did not answer the probe in time, but might still do so.
    late: Mutex<Option<Arc<Link>>>,
    slots: Mutex<HashMap<Placeholders, Arc<Slot>>>,
    /// The requests in progress for each user, including subscriptions.
    under_way: Arc<Places>,
    is_stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct Slot {
    link: RwLock<Option<Arc<Link>>>,
    /// Locked while a child is started, so that all callers waiting for it share one start.
    starting: tokio::sync::Mutex<()>,
}

impl Slot {
    fn current(&self) -> Option<Arc<Link>> {
        let link = self.link.read().unwrap_or_else(PoisonError::into_inner);
        link.as_ref().filter(|link| !link.is_dead()).cloned()
    }
}

/// Records the result of a probe. `answer` is `None` if the child did not respond.
fn conclude(verdict: &Verdict, link: &Link, answer: Option<Bytes>) -> Shows {
    let has_answered = link.has_answered();
    let shows = answer.as_ref().map_or(Shows::Legacy, |answer| probe::read(answer));
    let probed = match (has_answered, answer) {
        (true, _) => Probed::Answered(shows),
        (false, Some(_)) => Probed::Ended,
        (false, None) => Probed::Silent,
    };
    verdict.record(probed, Instant::now());
    tracing::info!(
        modern = shows == Shows::Modern,
        has_answered,
        "the MCP server was probed for the revisions that it supports"
    );
    link.is_probe.store(false, Ordering::Relaxed);
    shows
}

impl Servers {
    /// Creates an empty set of children.
    pub fn new(
        settings: Settings,
        launcher: Arc<Launcher>,
        framing: Arc<dyn Framing>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let conversations = Conversations {
            framing,
            launcher: Arc::clone(&launcher),
            metrics,
            memory: settings.memory.clone(),
            max_line: settings.max_line,
            offload: Arc::clone(&settings.offload),
        };
        let servers = Arc::new(Self {
            verdicts: Verdicts::new(settings.is_per_caller),
            settings,
            launcher,
            conversations,
            asking_again: Arc::default(),
            late: Mutex::default(),
            slots: Mutex::default(),
            under_way: Arc::default(),
            is_stopping: AtomicBool::new(false),
        });
        let keeper: Weak<dyn Keeper> = Arc::<Self>::downgrade(&servers);
        servers.launcher.add_keeper(keeper);
        servers
    }

    /// Reserves a slot for another request from a principal. All clients of a user share the user's slots.
    pub fn admit(&self, owner: &str) -> Result<Place, CallError> {
        if self.is_stopping() {
            return Err(CallError::Stopping);
        }
        self.under_way.take(owner, self.settings.max_in_flight).ok_or(CallError::OwnerFull)
    }

    /// Finds or starts the child for a caller. Returns `None` if the command runs a server of an earlier
    /// revision. The first child is probed for the revisions that it supports, and kept only if it supports
    /// this revision. If it did not respond, it is probed again later, but no client waits for that.
    pub(crate) async fn native(
        self: &Arc<Self>,
        caller: &Placeholders,
    ) -> Result<Option<Arc<Link>>, CallError> {
        let verdict = self.verdict(caller);
        if verdict.known(Instant::now()) == Some(Shows::Legacy) {
            return Ok(None);
        }
        if verdict.was_legacy() {
            self.ask_again(caller, verdict);
            return Ok(None);
        }
        let slot = self.slot(caller)?;
        if let Some(link) = slot.current() {
            return Ok(Some(link));
        }
        // The start must not be aborted when the caller that triggered it disconnects. Other callers might wait
        // for the child, and the child must be stopped if it does not respond.
        let (servers, caller) = (Arc::clone(self), caller.clone());
        let started = tokio::spawn(async move { servers.start_once(&caller, &slot, &verdict).await }).await;
        started.unwrap_or_else(|error| {
            Err(CallError::Child(format!("The MCP server could not be started: {error}")))
        })
    }

    /// Probes a server of an earlier revision again, unless this is already in progress.
    fn ask_again(self: &Arc<Self>, caller: &Placeholders, verdict: Arc<Verdict>) {
        let (Ok(asking), Ok(slot)) = (Arc::clone(&self.asking_again).try_lock_owned(), self.slot(caller))
        else {
            return;
        };
        let (servers, caller) = (Arc::clone(self), caller.clone());
        tokio::spawn(async move {
            if let Err(error) = servers.start_once(&caller, &slot, &verdict).await {
                tracing::info!(%error, "the MCP server could not be probed again for the revisions that it supports");
            }
            drop(asking);
        });
    }

    /// Starts the child of a slot, unless another caller has just started it.
    async fn start_once(
        self: &Arc<Self>,
        caller: &Placeholders,
        slot: &Slot,
        verdict: &Arc<Verdict>,
    ) -> Result<Option<Arc<Link>>, CallError> {
        let _one_at_a_time = slot.starting.lock().await;
        if let Some(link) = slot.current() {
            return Ok(Some(link));
        }
        let link = match verdict.known(Instant::now()) {
            Some(Shows::Legacy) => return Ok(None),
            Some(Shows::Modern) => self.start_in_room(caller, false).await?,
            None => match self.probe(caller, verdict).await {
                // A server that did not answer an earlier probe is still used through sessions.
                Err(CallError::Start(StartError::NoRoom(_))) if verdict.was_legacy() => return Ok(None),
                Err(error) => return Err(error),
                Ok(Some(link)) => link,
                Ok(None) => return Ok(None),
            },
        };
        tokio::spawn(Arc::clone(&link).watch());
        *slot.link.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&link));
        Ok(Some(link))
    }

    /// Starts a child. If there is no room, stops the least recently used session or stateless child.
    async fn start_in_room(&self, caller: &Placeholders, is_probe: bool) -> Result<Arc<Link>, CallError> {
        let has_no_room =
            |started: &Result<_, _>| matches!(started, Err(CallError::Start(StartError::NoRoom(_))));
        let mut started = self.start(caller, is_probe).await;
        if has_no_room(&started) && self.launcher.look_again() {
            started = self.start(caller, is_probe).await;
        }
        let user = self.user(caller);
        for _ in 0..MAX_GIVEN_UP {
            if !has_no_room(&started) || !self.launcher.make_room(Newcomer { user, has: 0 }).await {
                break;
            }
            started = self.start(caller, is_probe).await;
        }
        started
    }

    /// The user for whom the child would be started. Empty for a child that serves all users.
    fn user<'a>(&self, caller: &'a Placeholders) -> &'a str {
        if self.settings.is_per_caller { user_of(caller) } else { "" }
    }

    async fn start(&self, caller: &Placeholders, is_probe: bool) -> Result<Arc<Link>, CallError> {
        let turn = self.launcher.turn_for_untouched(self.user(caller)).await?;
        if self.is_stopping() {
            return Err(CallError::Stopping);
        }
        let child = self.launcher.take_untouched(caller, &turn)?;
        let settings = LinkSettings {
            list_cache: self.settings.list_cache,
            request_timeout: self.settings.request_timeout,
            start_timeout: self.settings.start_timeout,
        };
        Ok(self.conversations.open(child, |conversation| Link::new(conversation, settings, is_probe)))
    }

    async fn probe(
        self: &Arc<Self>,
        caller: &Placeholders,
        verdict: &Arc<Verdict>,
    ) -> Result<Option<Arc<Link>>, CallError> {
        // No session is ended just to probe a server of an earlier revision again.
        let link = if verdict.was_legacy() {
            self.start(caller, true).await?
        } else {
            self.start_in_room(caller, true).await?
        };
        let (asked, most) = (Arc::clone(&link), self.settings.start_timeout);
        let mut asking = tokio::spawn(async move { asked.ask("server/discover", "{}", "{}", most).await });
        let Ok(answer) = tokio::time::timeout(PROBE_TIMEOUT.min(most), &mut asking).await else {
            verdict.record(Probed::Silent, Instant::now());
            tracing::warn!(
                waited = ?PROBE_TIMEOUT.min(most),
                "it is not known which revisions the MCP server supports, because it starts slowly or does not respond; it is used with \
                 sessions (up to 2025-11-25), and the wrapper waits for its response until START_TIMEOUT"
            );
            *self.late() = Some(Arc::clone(&link));
            let (servers, verdict) = (Arc::clone(self), Arc::clone(verdict));
            tokio::spawn(async move {
                let answer = asking.await;
                if link.has_answered() {
                    conclude(&verdict, &link, answer.ok().and_then(Result::ok));
                }
                servers.late().take_if(|late| Arc::ptr_eq(late, &link));
                link.child.stop();
            });
            return Ok(None);
        };
        if conclude(verdict, &link, answer.ok().and_then(Result::ok)) == Shows::Modern {
            return Ok(Some(link));
        }
        link.child.stop();
        Ok(None)
    }

    /// The verdict on the child for this caller.
    fn verdict(&self, caller: &Placeholders) -> Arc<Verdict> {
        self.verdicts.of(|| self.launcher.used(caller), Instant::now())
    }

    fn late(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, caller: &Placeholders) -> Result<Arc<Slot>, CallError> {
        let key = if self.settings.is_per_caller { caller.clone() } else { Placeholders::default() };
        let mut slots = self.slots();
        if let Some(slot) = slots.get(&key) {
            return Ok(Arc::clone(slot));
        }
        if slots.len() >= self.settings.max_children {
            let newcomer = Newcomer { user: user_of(caller), has: 0 };
            let (_, oldest) = oldest(&slots, newcomer, Some(Duration::MAX)).ok_or(CallError::Full)?;
            if let Some(link) = slots.remove(&oldest).and_then(|slot| slot.current()) {
                link.child.stop();
            }
        }
        let slot = Arc::<Slot>::default();
        slots.insert(key, Arc::clone(&slot));
        Ok(slot)
    }

    /// The threads that process large messages.
    pub fn offload(&self) -> &Offload {
        &self.settings.offload
    }

    /// Memory for responses that clients have not read yet.
    pub fn answers(&self) -> &Arc<Budget> {
        &self.settings.memory.answers
    }

    /// Memory for messages that children have not read yet.
    pub fn messages(&self) -> &Arc<Budget> {
        &self.settings.memory.messages
    }

    /// Creates a stream for one response to a principal.
    pub fn stream(&self, owner: &str) -> Arc<Stream> {
        Stream::for_post(1, 1, self.settings.event_log, self.answers().reservation(owner))
    }

    /// Fails requests that have timed out and removes unused children while the wrapper runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ROUND).await;
            let now = Instant::now();
            for link in self.links() {
                link.expire(now);
            }
            if self.settings.is_per_caller {
                self.slots().retain(|_, slot| match slot.current() {
                    None => Arc::strong_count(slot) > 1,
                    Some(link) => {
                        let is_idle = link.idle_for(now).is_some_and(|idle| idle > self.settings.idle);
                        if is_idle {
                            link.child.stop();
                        }
                        !is_idle
                    }
                });
            }
        }
    }

    /// Stops everything. No new requests are accepted, subscriptions end with a completed result, and calls in
    /// progress get half of the time to complete.
    pub async fn stop(&self, within: Duration) {
        self.is_stopping.store(true, Ordering::Relaxed);
        let start = Instant::now();
        let links = self.links();
        for link in &links {
            link.end_subscriptions();
        }
        while links.iter().any(|link| link.running() > 0) && start.elapsed() < within / 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for link in &links {
            link.end_all(
                "This server is shutting down, and the request did not complete in time. Try again in a moment.",
            );
            link.child.stop();
        }
        let gone = async {
            for link in &links {
                link.child.exited().await;
            }
        };
        // The launcher logs whether children have not exited in time.
        let _ = tokio::time::timeout(within.saturating_sub(start.elapsed()), gone).await;
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.slots().values().filter_map(|slot| slot.current()).collect()
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Placeholders, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
