//! The conversation with one child that serves many clients at once, without sessions.
//!
//! Ids, progress tokens and subscription ids of independent clients may be equal, so each request gets a number of ours,
//! which stands for all three, and the client's own come back on the way out (attack 105).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::check::Request;
use super::tools::Tools;
use super::{CAPABILITIES, PROTOCOL_VERSION, SUBSCRIPTION, VERSION};
use crate::child::{Child, Framing, Launcher, Outbox, Pass, RateLimit};
use crate::metrics::Metrics;
use crate::protocol::{Code, Kind, Message, Patch, Span, Text, error_message, parse_line};
use crate::stream::{First, Stream};

/// Progress keeps a request alive, but not for longer than so many times its timeout.
const MAX_EXTENSIONS: u32 = 12;
/// Junk lines of one child that are logged per second.
const JUNK_RATE: u32 = 5;
/// How long a message of ours may wait for a child that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// A child and what waits for it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) child: Child,
    outbox: Outbox,
    framing: Arc<FramingBox>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) launcher: Arc<Launcher>,
    pub(super) tools: Tools,
    junk_log: Mutex<RateLimit>,
    next: AtomicU64,
    pending: Mutex<BTreeMap<u64, Pending>>,
    has_answered: AtomicBool,
    /// Whether it is still open which revisions the child speaks; such a child may end as it likes.
    pub(super) is_probe: AtomicBool,
    last_used: Mutex<Instant>,
    /// Why the child is gone, in words for the caller.
    dead: OnceLock<String>,
}

/// The framing, behind something that can be printed.
pub(super) struct FramingBox(pub(super) Box<dyn Framing>);

impl std::fmt::Debug for FramingBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Framing")
    }
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// One answer.
    Answer,
    /// Notifications, until the client goes or the server ends it.
    Subscription,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) stream: Arc<Stream>,
    /// The caller's id, as JSON text.
    pub(super) id: Box<[u8]>,
    /// The caller's progress token, as JSON text.
    pub(super) token: Option<Box<[u8]>>,
    pub(super) owner: Arc<str>,
    pub(super) waits: Waits,
    pub(super) wants_logs: bool,
    started: Instant,
    deadline: Instant,
    timeout: Duration,
}

impl Pending {
    /// The completion of a subscription (2026-07-28, "Subscriptions").
    pub(super) fn completion(&self) -> Bytes {
        completion(&String::from_utf8_lossy(&self.id))
    }
}

/// The result that ends a subscription; `id` is JSON text.
pub fn completion(id: &str) -> Bytes {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{{"{SUBSCRIPTION}":{id}}}}}}}"#
    )
    .into()
}

/// A request under way. Dropping it tells the child that nobody waits any more (2026-07-28, "Cancellation": the end of
/// the response stream is the cancellation).
#[derive(Debug)]
pub struct Ticket {
    link: Arc<Link>,
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.link.take(self.number).is_some() {
            self.link.metrics.requests_cancelled_total.add();
            self.link.say(&cancelled(self.number, "the client has gone"));
        }
    }
}

impl Link {
    pub(super) fn new(
        child: Child,
        outbox: Outbox,
        framing: Arc<FramingBox>,
        launcher: Arc<Launcher>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            child,
            outbox,
            framing,
            metrics,
            launcher,
            tools: Tools::default(),
            junk_log: Mutex::new(RateLimit::new(JUNK_RATE, Instant::now())),
            next: AtomicU64::new(1),
            pending: Mutex::default(),
            has_answered: AtomicBool::new(false),
            is_probe: AtomicBool::new(false),
            last_used: Mutex::new(Instant::now()),
            dead: OnceLock::new(),
        }
    }

    /// Sends a client's request; whatever becomes of it comes on `stream`.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: &Request<'_>,
        owner: Arc<str>,
        timeout: Duration,
        stream: &Arc<Stream>,
    ) -> Ticket {
        let message = request.message;
        let waits =
            if request.method == "subscriptions/listen" { Waits::Subscription } else { Waits::Answer };
        let now = Instant::now();
        let token = request.meta.progress_token.clone();
        let pending = Pending {
            stream: Arc::clone(stream),
            id: request.id_text().as_bytes().into(),
            token: token.as_ref().map(|token| message.at(token).as_bytes().into()),
            owner,
            waits,
            wants_logs: request.meta.log_level.is_some(),
            started: now,
            deadline: now + timeout,
            timeout,
        };
        self.dispatch(message, request.id.clone(), token, pending).await
    }

    async fn dispatch(
        self: &Arc<Self>,
        message: &Message<'_>,
        id: Span,
        token: Option<Span>,
        pending: Pending,
    ) -> Ticket {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket { link: Arc::clone(self), number };
        self.metrics.requests_total.add();
        if pending.waits == Waits::Answer {
            self.metrics.requests_in_flight.add();
        }
        self.touch();
        let timeout = pending.timeout;
        let is_alone = {
            let mut all = self.pending();
            all.insert(number, pending);
            all.len() == 1
        };
        let digits = number.to_string();
        let mut patches = vec![Patch { span: id, with: digits.as_bytes() }];
        patches.extend(token.map(|span| Patch { span, with: digits.as_bytes() }));
        let line = self.framing.0.encode(message.text, &mut patches);
        let sent = match self.outbox.try_send(line, is_alone) {
            Ok(()) => Ok(Ok(())),
            // No room: wait for the child to read, for as long as the request may take.
            Err(line) => tokio::time::timeout(timeout.min(SEND_TIMEOUT), self.outbox.send(line)).await,
        };
        match sent {
            Ok(Ok(())) if self.dead.get().is_none() => {}
            Ok(Ok(())) => self.fail(number, &self.death()),
            Ok(Err(_)) => {
                // The child has closed its input. Its end, if it is one, is the better reason and follows at once.
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.fail(number, &self.death());
            }
            Err(_) => {
                self.fail(number, "The MCP server does not read its input, so the request ran out of time.");
            }
        }
        ticket
    }

    /// Asks the child something ourselves. The answer is the whole message, or an error in words.
    pub(super) async fn ask(
        self: &Arc<Self>,
        method: &str,
        params: &str,
        capabilities: &str,
        within: Duration,
    ) -> Result<Bytes, String> {
        let stream = Stream::for_post(1, 1, 1 << 20);
        let _ticket = self.open(method, params, capabilities, within, &stream).await?;
        let answered = async {
            loop {
                match stream.first() {
                    First::Answers(answers) => return answers.into_iter().next().map(Text::into_bytes),
                    First::Events => return None,
                    First::Wait => stream.changed().await,
                }
            }
        };
        let late = || format!("The MCP server did not answer {method} in time.");
        tokio::time::timeout(within, answered).await.ok().flatten().ok_or_else(late)
    }

    /// Starts a request of our own.
    pub(super) async fn open(
        self: &Arc<Self>,
        method: &str,
        params: &str,
        capabilities: &str,
        within: Duration,
        stream: &Arc<Stream>,
    ) -> Result<Ticket, String> {
        let params = params.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
        let comma = if params.trim().is_empty() { "" } else { "," };
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"{method}","params":{{{params}{comma}"_meta":{{"{PROTOCOL_VERSION}":"{VERSION}","{CAPABILITIES}":{capabilities},"io.modelcontextprotocol/clientInfo":{{"name":"stdio-wrapper","version":"{}"}}}}}}}}"#,
            env!("CARGO_PKG_VERSION")
        );
        let message = parse_line(text.as_bytes()).map_err(|error| error.to_string())?;
        let Kind::Request { id, .. } = message.kind.clone() else {
            return Err("no request".to_owned());
        };
        let now = Instant::now();
        let is_subscription = method == "subscriptions/listen";
        let pending = Pending {
            stream: Arc::clone(stream),
            id: (*b"0").into(),
            token: None,
            owner: Arc::from(""),
            waits: if is_subscription { Waits::Subscription } else { Waits::Answer },
            wants_logs: false,
            started: now,
            deadline: now + within,
            timeout: within,
        };
        Ok(self.dispatch(&message, id, None, pending).await)
    }

    /// Sends a message of our own if there is room.
    pub(super) fn say(&self, text: &str) {
        let _ = self.outbox.try_send(self.framing.0.encode(text, &mut []), false);
    }

    /// Takes a waiting request out.
    pub(super) fn take(&self, number: u64) -> Option<Pending> {
        let pending = self.pending().remove(&number)?;
        if pending.waits == Waits::Answer {
            self.metrics.requests_in_flight.sub();
        }
        self.touch();
        Some(pending)
    }

    /// Uses a waiting request.
    pub(super) fn with<R>(&self, number: u64, use_it: impl FnOnce(&mut Pending) -> R) -> Option<R> {
        self.pending().get_mut(&number).map(use_it)
    }

    /// A sign of life for a request.
    pub(super) fn extend(pending: &mut Pending) {
        pending.deadline = Instant::now() + pending.timeout;
    }

    /// Whose log messages these must be: of the only request that asked for any, while nobody else's request runs. The
    /// protocol has no other way to tell (2026-07-28, `NotificationMetaObject`).
    pub(super) fn log_stream(&self) -> Option<Arc<Stream>> {
        let all = self.pending();
        let calls =
            || all.values().filter(|pending| pending.waits == Waits::Answer && !pending.owner.is_empty());
        let mut wanting = calls().filter(|pending| pending.wants_logs);
        let one = wanting.next()?;
        let is_certain = wanting.next().is_none() && calls().all(|other| other.owner == one.owner);
        is_certain.then(|| Arc::clone(&one.stream))
    }

    /// Fails what has waited too long, and tells the child.
    pub(super) fn expire(&self, now: Instant) {
        let late: Vec<u64> = self
            .pending()
            .iter()
            .filter(|(_, pending)| pending.waits == Waits::Answer)
            .filter(|(_, pending)| {
                now >= pending.deadline || now >= pending.started + pending.timeout * MAX_EXTENSIONS
            })
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            let Some(pending) = self.take(number) else { continue };
            self.metrics.requests_timed_out_total.add();
            self.metrics.requests_failed_total.add();
            self.say(&cancelled(number, "timed out"));
            let message =
                format!("The MCP server did not answer within {} s.", pending.timeout.as_secs_f32());
            pending.stream.push(error_message(Some(&pending.id), Code::InternalError, &message).into(), true);
        }
    }

    /// The child is gone: everyone who waits is told. The first reason stays.
    pub(super) fn died(&self, reason: String) {
        let _ = self.dead.set(reason);
        self.end_all(&self.death());
    }

    /// Ends every subscription with its completion, and fails everything else.
    pub(super) fn end_all(&self, message: &str) {
        self.end_subscriptions();
        let numbers: Vec<u64> = self.pending().keys().copied().collect();
        for number in numbers {
            self.fail(number, message);
        }
    }

    /// Ends every subscription with its completion.
    pub(super) fn end_subscriptions(&self) {
        let numbers: Vec<u64> = {
            let all = self.pending();
            let listens = all.iter().filter(|(_, pending)| pending.waits == Waits::Subscription);
            listens.map(|(number, _)| *number).collect()
        };
        for number in numbers {
            if let Some(pending) = self.take(number) {
                pending.stream.push(pending.completion().into(), true);
            }
        }
    }

    fn fail(&self, number: u64, message: &str) {
        if let Some(pending) = self.take(number) {
            self.metrics.requests_failed_total.add();
            pending.stream.push(error_message(Some(&pending.id), Code::InternalError, message).into(), true);
        }
    }

    /// The child works: it has answered something.
    pub(super) fn set_answered(&self) {
        if !self.has_answered.swap(true, Ordering::Relaxed) {
            self.launcher.child_worked();
        }
    }

    /// Whether it ever has.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Whether one more junk line may be logged.
    pub(super) fn may_log_junk(&self) -> bool {
        let mut log = self.junk_log.lock().unwrap_or_else(PoisonError::into_inner);
        log.take(Instant::now()) != Pass::No
    }

    /// Whether the child is gone.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.get().is_some()
    }

    /// How long no client has used it; `None` while one does.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let is_used = self.pending().values().any(|pending| !pending.owner.is_empty());
        let last = *self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        (!is_used).then(|| now.saturating_duration_since(last))
    }

    /// Client requests that wait for an answer.
    pub(super) fn calls(&self) -> usize {
        self.pending().values().filter(|pending| pending.waits == Waits::Answer).count()
    }

    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn death(&self) -> String {
        self.dead.get().cloned().unwrap_or_else(|| "The MCP server closed its input.".to_owned())
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cancellation of ours.
fn cancelled(number: u64, reason: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"{reason}"}}}}"#
    )
}
