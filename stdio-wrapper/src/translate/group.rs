//! The sessions for stateless clients. Clients of one principal with the same capabilities share sessions, so
//! that the state that a server keeps stays with its user.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::listen::Listeners;
use super::questions::{Needs, Question, QuestionParts, is_url, lacking, needs, refusal};
use super::results::{Greeting, LEVELS};
use super::watched::Watched;
use crate::attempts::Attempts;
use crate::budget::{Kept, TOO_MANY_ANSWERS};
use crate::child::Placeholders;
use crate::conversation::parsed;
use crate::legacy::{Session, TOO_MANY_QUESTIONS};
use crate::modern::ParamHeaders;
use crate::offload::Offload;
use crate::policy::{Own, Permit};
use crate::protocol::{Kind, Message, Outgoing, Parts, cancelled, parse_line, peek_cancelled, string};
use crate::stream::{Next, Stream};

/// Maximum number of questions that are queued until the running call sends them to its client.
const MAX_PROMPTS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    /// The principal against whom memory and sessions are counted.
    pub(super) owner: String,
    /// The capabilities that determine which questions clients can answer, in a normalized form.
    pub(super) capabilities: String,
    /// The values of the command's placeholders. A user who has left a group must not continue to use that
    /// group's child.
    pub(super) caller: Placeholders,
}

/// The sessions of one principal with one set of capabilities.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) capabilities: Value,
    /// The sessions in the order in which they were opened. The first one serves the requests that need no
    /// session of their own.
    pub(super) pooled_sessions: Mutex<Vec<Arc<PooledSession>>>,
    /// Sessions are opened one at a time. The error is the reason why one could not be opened, worded for
    /// callers.
    pub(super) opening: Attempts<String>,
    /// Notified when a session becomes free.
    pub(super) freed: Notify,
    pub(super) listeners: Listeners,
    /// The threads for large messages.
    pub(super) offload: Arc<Offload>,
}

impl Group {
    pub(super) fn new(key: &GroupKey, offload: &Arc<Offload>) -> Self {
        Self {
            capabilities: serde_json::from_str(&key.capabilities).unwrap_or_default(),
            pooled_sessions: Mutex::default(),
            opening: Attempts::default(),
            freed: Notify::new(),
            listeners: Listeners::of(&key.owner),
            offload: Arc::clone(offload),
        }
    }

    pub(super) fn pooled_sessions(&self) -> MutexGuard<'_, Vec<Arc<PooledSession>>> {
        self.pooled_sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first session that has not ended.
    pub(super) fn home(&self) -> Option<Arc<PooledSession>> {
        self.pooled_sessions().iter().find(|pooled| !pooled.session.is_ended()).cloned()
    }

    /// Takes a free session for a call that might ask questions. With `may_be_doubtful`, the session can be one
    /// in which the next question might belong to an earlier call.
    pub(super) fn take_free(&self, may_be_doubtful: bool) -> Option<Lease> {
        let pooled_sessions = self.pooled_sessions();
        let mut good = pooled_sessions.iter().filter(|pooled| may_be_doubtful || !pooled.is_doubtful());
        good.find_map(|pooled| Lease::take(pooled, true))
    }

    /// The number of sessions that are reserved for calls.
    pub(super) fn taken(&self) -> usize {
        self.pooled_sessions().iter().filter(|pooled| pooled.is_taken.load(Ordering::Acquire)).count()
    }

    /// Removes and returns the unused sessions, except the first one.
    pub(super) fn take_unused(&self) -> Vec<Arc<PooledSession>> {
        let mut pooled_sessions = self.pooled_sessions();
        let first = pooled_sessions.len().min(1);
        pooled_sessions.extract_if(first.., |pooled| pooled.users.load(Ordering::Acquire) == 0).collect()
    }

    /// Whether the group has been unused for at least `after`.
    pub(super) fn is_idle(&self, now: Instant, after: Duration) -> bool {
        let is_unused = |pooled: &Arc<PooledSession>| {
            let last = *pooled.last_used.lock().unwrap_or_else(PoisonError::into_inner);
            pooled.users.load(Ordering::Acquire) == 0 && now.saturating_duration_since(last) >= after
        };
        self.listeners.is_empty() && self.pooled_sessions().iter().all(is_unused)
    }
}

/// A session of a group, with the messages that its child sends outside calls.
#[derive(Debug)]
pub(super) struct PooledSession {
    pub(super) session: Arc<Session>,
    pub(super) greeting: Greeting,
    users: AtomicUsize,
    /// The number of requests in progress.
    pub(super) calls: AtomicUsize,
    /// Whether the session is reserved for a call in which the child can ask questions. On stdio, a question
    /// does not identify its call, so only one such call is allowed at a time.
    is_taken: AtomicBool,
    /// The number of abandoned calls that the child might still be processing.
    pub(super) given_up: AtomicUsize,
    /// Whether the child has ever asked a question in a call. Most children never do.
    has_asked: AtomicBool,
    prompts: Mutex<VecDeque<Prompt>>,
    /// Notified when a prompt is added.
    pub(super) asked: Notify,
    /// The stream for log messages, and their minimum level.
    log: Mutex<Option<(usize, Arc<Stream>)>>,
    /// The log level that was set in the child.
    pub(super) level: tokio::sync::Mutex<Option<String>>,
    /// Locked while the wrapper decides whether the child must watch a resource, and until the request is sent,
    /// so that the child receives these requests in the order of the decisions. The lock is released before
    /// waiting for the response.
    pub(super) watched: tokio::sync::Mutex<Watched>,
    last_used: Mutex<Instant>,
    tools: Mutex<Option<KnownTools>>,
}

/// A message from the child for the call that uses its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Prompt {
    /// A question for the client of the call.
    Ask(Question),
    /// The question with this id (JSON text) was withdrawn.
    Withdraw(Kept),
}

/// Whether a question can wait for the next call. A server can request roots as soon as the session is open,
/// and because roots belong to the client and not to a call, the next call can answer. All other questions
/// outside a call have no client.
fn may_wait(question: &Question) -> bool {
    question.method == "roots/list"
}

/// The headers that the tools of a session require.
#[derive(Debug, Clone)]
struct KnownTools {
    tools: Arc<HashMap<String, ParamHeaders>>,
    read: Instant,
    /// The number of changes that had been announced before the list was requested.
    changes: u64,
}

impl PooledSession {
    pub(super) fn new(session: Arc<Session>, greeting: Greeting) -> Self {
        Self {
            session,
            greeting,
            users: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            is_taken: AtomicBool::new(false),
            given_up: AtomicUsize::new(0),
            has_asked: AtomicBool::new(false),
            prompts: Mutex::default(),
            asked: Notify::new(),
            log: Mutex::default(),
            level: tokio::sync::Mutex::default(),
            watched: tokio::sync::Mutex::default(),
            last_used: Mutex::new(Instant::now()),
            tools: Mutex::default(),
        }
    }

    /// The headers that the tools require, if they are known and still valid.
    pub(super) fn tools(&self, changes: u64, life: Duration) -> Option<Arc<HashMap<String, ParamHeaders>>> {
        let known = self.tools.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let is_announced = self.greeting.has("/tools/listChanged");
        let is_young = is_announced || known.read.elapsed() < life;
        (known.changes == changes && is_young).then_some(known.tools)
    }

    pub(super) fn set_tools(&self, tools: Arc<HashMap<String, ParamHeaders>>, changes: u64) {
        let known = KnownTools { tools, read: Instant::now(), changes };
        *self.tools.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    pub(super) fn forget_tools(&self) {
        *self.tools.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether a question could belong to an abandoned call. This is possible only if the child of the session
    /// has already asked questions.
    fn is_doubtful(&self) -> bool {
        self.given_up.load(Ordering::Acquire) > 0 && self.has_asked.load(Ordering::Acquire)
    }

    /// Removes and returns the oldest prompt that the call has not handled yet.
    pub(super) fn prompt(&self) -> Option<Prompt> {
        self.prompts().pop_front()
    }

    /// Keeps a question for the call that uses the session. The error is the reason why no client can answer
    /// it.
    fn keep(&self, question: Question) -> Result<(), &'static str> {
        let mut prompts = self.prompts();
        if !may_wait(&question) {
            self.has_asked.store(true, Ordering::Release);
            if !self.is_taken.load(Ordering::Acquire) {
                return Err("No client with a running call can answer this question.");
            }
            if self.given_up.load(Ordering::Acquire) > 0 {
                return Err(
                    "A cancelled call might still be running, so it is uncertain which call this question belongs to.",
                );
            }
        }
        if prompts.len() >= MAX_PROMPTS {
            return Err(TOO_MANY_QUESTIONS);
        }
        prompts.push_back(Prompt::Ask(question));
        drop(prompts);
        self.asked.notify_one();
        Ok(())
    }

    /// Records that the child has withdrawn this question. `id` is JSON text.
    fn withdraw(&self, id: &str) {
        let mut prompts = self.prompts();
        let count = prompts.len();
        prompts.retain(|prompt| !matches!(prompt, Prompt::Ask(question) if *question.id == *id));
        // The call might already have sent the question to its client.
        if prompts.len() == count
            && count < MAX_PROMPTS
            && self.is_taken.load(Ordering::Acquire)
            && let Some(id) = self.session.reservation().keep(id)
        {
            prompts.push_back(Prompt::Withdraw(id));
            drop(prompts);
            self.asked.notify_one();
        }
    }

    /// Releases the session. Returns the questions that the call has not handled and that the client of the
    /// next call must not receive. Questions that can wait stay queued (see [`may_wait`]), and withdrawals are
    /// dropped.
    fn give_back(&self) -> Vec<Question> {
        let mut prompts = self.prompts();
        self.is_taken.store(false, Ordering::Release);
        let mut unheard = Vec::new();
        for prompt in std::mem::take(&mut *prompts) {
            match prompt {
                Prompt::Ask(question) if !may_wait(&question) => unheard.push(question),
                Prompt::Ask(_) => prompts.push_back(prompt),
                Prompt::Withdraw(_) => {}
            }
        }
        unheard
    }

    fn prompts(&self) -> MutexGuard<'_, VecDeque<Prompt>> {
        self.prompts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a response from the client, or an error from the wrapper, to the child.
    pub(super) async fn respond(&self, text: &str) {
        if let Ok(message) = parse_line(text.as_bytes())
            && let Kind::Response { id: Some(id), .. } = &message.kind
        {
            self.session.reply(&message, message.at(id)).await;
        }
    }

    /// Responds to these questions with an error, because no client will answer them.
    pub(super) async fn refuse(&self, questions: Vec<Question>) {
        for question in questions {
            self.respond(&question.refusal(-32000, "The call to which this question belongs has ended."))
                .await;
        }
    }

    /// Sends one of the wrapper's own notifications to the child.
    pub(super) async fn notify(&self, own: Own, text: &str) {
        if let Ok(message) = parse_line(text.as_bytes()) {
            // If the child does not read its input, the notification is lost.
            let _ = self.session.notify(&message, &Permit::ours(own)).await;
        }
    }

    /// Cancels the wrapper's request with this id in the session, and sends the child the reason.
    pub(super) async fn cancel(&self, number: u64, why: &str) {
        self.notify(Own::Cancelled, &cancelled(number, why)).await;
    }

    /// Starts sending log messages to this stream, or starts dropping them if there is no level.
    pub(super) fn log_to(&self, level: Option<&str>, stream: &Arc<Stream>) {
        let at = level.and_then(|level| LEVELS.iter().position(|known| *known == level));
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = at.map(|at| (at, Arc::clone(stream)));
    }
}

/// Handles a message from a session's child, on any stream, that is neither a response nor progress.
pub(super) async fn take(group: &Group, pooled: &PooledSession, (text, parts): (ByteString, Parts)) {
    let message = &parts.of(&text);
    match &message.kind {
        Kind::Request { method, id } => {
            let id = message.at(id);
            if method == "ping" {
                return pooled.respond(&Outgoing::Result { id, result: "{}" }.text()).await;
            }
            let is_url = is_url(message);
            if needs(method, is_url, &group.capabilities) != Needs::Nothing {
                return pooled.respond(&lacking(id)).await;
            }
            let params = text.slice_ref(message.params_text().unwrap_or_default());
            let (owner, length) = (&pooled.session.owner, params.len());
            let read = move || QuestionParts::read(&params);
            let parts = group.offload.run_if_large(owner, length, read).await;
            let question = parts
                .and_then(|parts| Question::of(parts, (method, id), is_url, pooled.session.reservation()));
            if let Err(why) = question.ok_or(TOO_MANY_ANSWERS).and_then(|question| pooled.keep(question)) {
                pooled.respond(&refusal(id, -32000, why)).await;
            }
        }
        Kind::Notification { method } if method == "notifications/cancelled" => {
            if let Some(span) = peek_cancelled(message).ok().flatten() {
                pooled.withdraw(message.at(&span));
            }
        }
        Kind::Notification { method } if method == "notifications/message" => log(pooled, message),
        Kind::Notification { method } => group.listeners.tell(method, message).await,
        Kind::Response { .. } => {}
    }
}

fn log(pooled: &PooledSession, message: &Message<'_>) {
    let level = message.members(["level"]).ok().and_then(|[level]| {
        let level = level.and_then(string)?;
        LEVELS.iter().position(|known| *known == level)
    });
    let target = pooled.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let (Some(level), Some((from, stream))) = (level, target)
        && level >= from
        && stream.has_room()
    {
        stream.tell(message.part(&(0..message.text.len())).into_bytes().into());
    }
}

/// Reads the messages that a session's child sends outside calls, until the session ends.
pub(super) async fn pump(group: Arc<Group>, pooled: Arc<PooledSession>) {
    let consumer = pooled.session.get_stream().connect();
    loop {
        match consumer.next() {
            Next::Event(_, text) => {
                if let Some(parsed) = parsed(&group.offload, &pooled.session.owner, text).await {
                    take(&group, &pooled, parsed).await;
                }
                // The child might have written many messages.
                yield_now().await;
            }
            Next::End => break,
            Next::Wait => consumer.stream().changed().await,
        }
    }
    group.pooled_sessions().retain(|other| !Arc::ptr_eq(other, &pooled));
    group.freed.notify_waiters();
    // The clients then listen again, with a session that has not ended.
    group.listeners.end(&pooled.session.id);
}

/// The use of a session by a call. Dropping it releases the session.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) pooled: Arc<PooledSession>,
    /// Whether the session is reserved for this call.
    pub(super) is_exclusive: bool,
    freed: Option<Arc<Group>>,
}

impl Lease {
    /// Takes a session. Returns `None` if the session has ended, or if it is requested exclusively and already
    /// reserved for another call.
    pub(super) fn take(pooled: &Arc<PooledSession>, is_exclusive: bool) -> Option<Self> {
        if pooled.session.is_ended() || (is_exclusive && pooled.is_taken.swap(true, Ordering::AcqRel)) {
            return None;
        }
        pooled.users.fetch_add(1, Ordering::AcqRel);
        pooled.session.hold();
        Some(Self { pooled: Arc::clone(pooled), is_exclusive, freed: None })
    }

    /// Notifies the group when the session becomes free.
    pub(super) fn of(mut self, group: &Arc<Group>) -> Self {
        self.freed = Some(Arc::clone(group));
        self
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.pooled.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if self.is_exclusive {
            *self.pooled.log.lock().unwrap_or_else(PoisonError::into_inner) = None;
            let unheard = self.pooled.give_back();
            if !unheard.is_empty() {
                let pooled = Arc::clone(&self.pooled);
                tokio::spawn(async move { pooled.refuse(unheard).await });
            }
        }
        self.pooled.session.let_go();
        self.pooled.users.fetch_sub(1, Ordering::AcqRel);
        if let Some(group) = &self.freed {
            group.freed.notify_one();
        }
    }
}
