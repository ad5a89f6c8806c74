//! The sessions that stand behind stateless clients: those of one principal with the same capabilities share some, so
//! that a server which remembers things remembers them for whom they are meant.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::listen::Listeners;
use super::questions::{Needs, Question};
use super::results::Greeting;
use crate::child::Placeholders;
use crate::legacy::Session;
use crate::modern::ParamHeaders;
use crate::protocol::{Kind, Message, Version, parse_line};
use crate::stream::{Next, Stream};

/// Questions that may wait for a call.
const MAX_QUESTIONS: usize = 64;
/// Names of log levels, the least severe first (RFC 5424).
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// Who shares sessions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    /// The principal.
    pub(super) owner: String,
    /// The client's capabilities in one spelling.
    pub(super) capabilities: String,
    /// What fills the command's placeholders: who has left a group must not go on with that group's child.
    pub(super) caller: Placeholders,
}

/// Sessions of one principal and one set of capabilities.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) capabilities: Value,
    /// In the order in which they were opened: the first one is where requests go that need no session of their own.
    pub(super) seats: Mutex<Vec<Arc<Seat>>>,
    /// Held while a session is opened.
    pub(super) opening: tokio::sync::Mutex<()>,
    /// A seat was given back.
    pub(super) freed: Notify,
    pub(super) listeners: Listeners,
}

impl Group {
    pub(super) fn new(key: &GroupKey) -> Self {
        Self {
            capabilities: serde_json::from_str(&key.capabilities).unwrap_or_default(),
            seats: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            freed: Notify::new(),
            listeners: Listeners::default(),
        }
    }

    pub(super) fn seats(&self) -> MutexGuard<'_, Vec<Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first session that lives.
    pub(super) fn home(&self) -> Option<Arc<Seat>> {
        self.seats().iter().find(|seat| !seat.session.is_ended()).cloned()
    }

    /// A session for a call that may ask back, if one is free.
    pub(super) fn take_free(&self) -> Option<Lease> {
        let seats = self.seats();
        seats.iter().find_map(|seat| Lease::take(seat, true))
    }

    /// Whether nobody uses it.
    pub(super) fn is_idle(&self, now: Instant, after: Duration) -> bool {
        let is_unused = |seat: &Arc<Seat>| {
            let last = *seat.last_used.lock().unwrap_or_else(PoisonError::into_inner);
            seat.users.load(Ordering::Acquire) == 0 && now.saturating_duration_since(last) >= after
        };
        self.listeners.is_empty() && self.seats().iter().all(is_unused)
    }
}

/// One session and what it says without being asked.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) session: Arc<Session>,
    pub(super) greeting: Greeting,
    users: AtomicUsize,
    /// Requests under way.
    pub(super) calls: AtomicUsize,
    /// Whether a call has it that may ask back. A question on stdio names no call, so there is only one such call.
    is_taken: AtomicBool,
    questions: Mutex<VecDeque<Question>>,
    /// A question has come.
    pub(super) asked: Notify,
    /// Where log messages go, and from which level on.
    log: Mutex<Option<(usize, Arc<Stream>)>>,
    /// The level that the child was told.
    pub(super) level: tokio::sync::Mutex<Option<String>>,
    last_used: Mutex<Instant>,
    tools: Mutex<Option<KnownTools>>,
}

/// What the tools of a session ask for.
#[derive(Debug, Clone)]
struct KnownTools {
    tools: Arc<HashMap<String, ParamHeaders>>,
    read: Instant,
    /// The changes that were announced before it was read.
    changes: u64,
}

impl Seat {
    pub(super) fn new(session: Arc<Session>, greeting: Greeting) -> Self {
        Self {
            session,
            greeting,
            users: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            is_taken: AtomicBool::new(false),
            questions: Mutex::default(),
            asked: Notify::new(),
            log: Mutex::default(),
            level: tokio::sync::Mutex::default(),
            last_used: Mutex::new(Instant::now()),
            tools: Mutex::default(),
        }
    }

    /// What the tools ask for, if that is known and young enough.
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

    /// The oldest question that nobody has put to the client.
    pub(super) fn question(&self) -> Option<Question> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Sends a response of the client, or an error of ours, to the child.
    pub(super) async fn respond(&self, text: &str) {
        if let Ok(message) = parse_line(text.as_bytes())
            && let Kind::Response { id: Some(id), .. } = &message.kind
        {
            self.session.reply(&message, message.at(id)).await;
        }
    }

    /// Sends a notification to the child.
    pub(super) async fn notify(&self, text: &str) {
        if let Ok(message) = parse_line(text.as_bytes())
            && let Kind::Notification { method } = &message.kind
        {
            self.session.notify(&message, method).await;
        }
    }

    /// Sends log messages to a stream from now on, or no more.
    pub(super) fn log_to(&self, level: Option<&str>, stream: &Arc<Stream>) {
        let at = level.and_then(|level| LEVELS.iter().position(|known| *known == level));
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = at.map(|at| (at, Arc::clone(stream)));
    }
}

/// Takes a message that a session's child sent, on whatever stream, and that is neither an answer nor progress.
pub(super) async fn take(group: &Group, seat: &Seat, message: &Message<'_>) {
    match &message.kind {
        Kind::Request { method, id } => {
            let id = message.at(id);
            if method == "ping" {
                return seat.respond(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#)).await;
            }
            let question = Question::of(message, method, id);
            if question.needs(&group.capabilities) != Needs::Nothing {
                return seat.respond(&question.lacking()).await;
            }
            let has_room = {
                let mut questions = seat.questions.lock().unwrap_or_else(PoisonError::into_inner);
                let has_room = questions.len() < MAX_QUESTIONS;
                if has_room {
                    questions.push_back(question.clone());
                }
                has_room
            };
            if has_room {
                seat.asked.notify_one();
            } else {
                seat.respond(&question.refusal(-32000, "Too many questions wait for this client.")).await;
            }
        }
        Kind::Notification { method } if method == "notifications/message" => log(seat, message),
        Kind::Notification { method } => group.listeners.tell(method, message),
        Kind::Response { .. } => {}
    }
}

fn log(seat: &Seat, message: &Message<'_>) {
    let level = message.params_text().and_then(|params| {
        let params: Value = serde_json::from_str(params).ok()?;
        let level = params.get("level")?.as_str()?.to_owned();
        LEVELS.iter().position(|known| *known == level)
    });
    let target = seat.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let (Some(level), Some((from, stream))) = (level, target)
        && level >= from
        && stream.has_room()
    {
        stream.push(bytes::Bytes::copy_from_slice(message.text.as_bytes()).into(), false);
    }
}

/// Reads what a session's child says outside of any call, until the session ends.
pub(super) async fn pump(group: Arc<Group>, seat: Arc<Seat>) {
    let consumer = seat.session.get_stream().connect();
    loop {
        match consumer.next() {
            Next::Event(_, text) => {
                if let Ok(message) = parse_line(&text.into_bytes()) {
                    take(&group, &seat, &message).await;
                }
            }
            Next::End => break,
            Next::Wait => consumer.stream().changed().await,
        }
    }
    group.seats().retain(|other| !Arc::ptr_eq(other, &seat));
    group.freed.notify_waiters();
    // Clients listen again, and then to a session that lives.
    group.listeners.end(&seat.session.id);
}

/// The use of a session.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) seat: Arc<Seat>,
    is_exclusive: bool,
    freed: Option<Arc<Group>>,
}

impl Lease {
    /// Takes a session; `None` if it has ended, or is to be one call's and is another's already.
    pub(super) fn take(seat: &Arc<Seat>, is_exclusive: bool) -> Option<Self> {
        if seat.session.is_ended() || (is_exclusive && seat.is_taken.swap(true, Ordering::AcqRel)) {
            return None;
        }
        seat.users.fetch_add(1, Ordering::AcqRel);
        Some(Self { seat: Arc::clone(seat), is_exclusive, freed: None })
    }

    /// Tells the group when the session is free again.
    pub(super) fn of(mut self, group: &Arc<Group>) -> Self {
        self.freed = Some(Arc::clone(group));
        self
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.seat.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if self.is_exclusive {
            *self.seat.log.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.seat.is_taken.store(false, Ordering::Release);
        }
        self.seat.users.fetch_sub(1, Ordering::AcqRel);
        if let Some(group) = &self.freed {
            group.freed.notify_one();
        }
    }
}

/// `initialize` as the wrapper says it for a client.
pub(super) fn initialize(capabilities: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{}","capabilities":{capabilities},"clientInfo":{{"name":"stdio-wrapper","version":"{}"}}}}}}"#,
        Version::LATEST.as_str(),
        env!("CARGO_PKG_VERSION")
    )
}
