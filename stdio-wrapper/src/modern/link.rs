//! The connection to one child that serves many clients at the same time, without sessions.
//!
//! Independent clients can use the same ids, progress tokens and subscription ids. Therefore the wrapper gives
//! each request a number, which replaces all three. Messages to the client contain the client's own values
//! again (attack 105).

mod ending;
mod own;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::check::Request;
use super::lists::{Key, Lists};
use super::pending::{Pending, Waits};
use super::tools::Tools;
use crate::budget::{Budget, Memory, TOO_MANY_ANSWERS, TOO_MANY_MESSAGES};
use crate::child::{Child, Framing, Launcher, LineLog, Numbers, Outbox, Width};
use crate::metrics::Metrics;
use crate::policy::Permit;
use crate::protocol::{Code, Message, Outgoing, Patch, Span, cancelled, error_message};
use crate::stream::Stream;

/// Maximum time for which a message waits for a child that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time for which a message waits for memory from the budget for messages to children. Children that
/// read their input free some soon.
const ROOM_PATIENCE: Duration = Duration::from_secs(2);

/// Maximum number of bytes by which the wrapper's ids can make a line longer than its message.
const REPLACED: usize = 64;

/// A child, and the requests waiting for its responses.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) child: Child,
    outbox: Outbox,
    framing: Arc<dyn Framing>,
    pub(super) metrics: Arc<Metrics>,
    /// Memory for responses that clients have not read yet.
    pub(super) answers: Arc<Budget>,
    /// Memory for messages that the child has not read yet.
    messages: Arc<Budget>,
    pub(super) launcher: Arc<Launcher>,
    pub(super) tools: Tools,
    /// Cached results that can be used for later requests.
    pub(super) lists: Lists,
    pub(super) log: LineLog,
    numbers: Mutex<Numbers>,
    pending: Mutex<BTreeMap<u64, Pending>>,
    has_answered: AtomicBool,
    /// Whether it is still unknown which revisions the child supports. If such a child exits, this does not
    /// count as a failure.
    pub(super) is_probe: AtomicBool,
    last_used: Mutex<Instant>,
    /// The reason why the child has exited, worded for callers.
    dead: OnceLock<String>,
}

/// A request in progress. Dropping it cancels the request in the child (2026-07-28, "Cancellation": closing the
/// response stream cancels the request).
#[derive(Debug)]
pub struct Ticket {
    link: Arc<Link>,
    /// The number of the request, or 0 if it was never sent.
    number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.link.take(self.number).is_some() {
            self.link.metrics.requests_cancelled_total.add();
            self.link.say(&cancelled(self.number, "the client has disconnected"));
        }
    }
}

impl Link {
    pub(super) fn new(
        child: Child,
        outbox: Outbox,
        framing: Arc<dyn Framing>,
        launcher: Arc<Launcher>,
        metrics: Arc<Metrics>,
        cache: usize,
        memory: Memory,
    ) -> Self {
        let numbers = Mutex::new(launcher.numbers(Width::Long));
        let log = LineLog::new(child.number);
        Self {
            child,
            outbox,
            framing,
            metrics,
            answers: memory.answers,
            messages: memory.messages,
            launcher,
            tools: Tools::default(),
            lists: Lists::new(cache),
            log,
            numbers,
            pending: Mutex::default(),
            has_answered: AtomicBool::new(false),
            is_probe: AtomicBool::new(false),
            last_used: Mutex::new(Instant::now()),
            dead: OnceLock::new(),
        }
    }

    /// Sends a client's request, or responds to it with a cached list. Its response and all related messages
    /// are sent on `stream`.
    pub(super) async fn send(
        self: &Arc<Self>,
        (request, permit): (&Request<'_>, &Permit<'_>),
        owner: Arc<str>,
        timeout: Duration,
        stream: &Arc<Stream>,
    ) -> Ticket {
        let message = request.message;
        if !message.has_method(permit.method()) {
            let why = "This request was permitted for another method.";
            let id = request.id_text().as_bytes();
            stream.push(error_message(Some(id), Code::InternalError, why).into(), true);
            return Ticket { link: Arc::clone(self), number: 0 };
        }
        let waits =
            if request.method == "subscriptions/listen" { Waits::Subscription } else { Waits::Answer };
        let now = Instant::now();
        let token = request.meta.progress_token.clone();
        let key = if self.lists.is_on() { Key::of(request, &owner) } else { None };
        if let Some(key) = &key {
            if let Some(result) = self.lists.get(key, now) {
                self.metrics.list_cache_hits_total.add();
                let id = request.id_text();
                let answer = Outgoing::Result { id, result: &result }.bytes();
                let counted = self.answers.count(&owner, answer.into());
                let refused = || error_message(Some(id.as_bytes()), Code::InternalError, TOO_MANY_ANSWERS);
                stream.push(counted.unwrap_or_else(|| refused().into()), true);
                return Ticket { link: Arc::clone(self), number: 0 };
            }
            self.metrics.list_cache_misses_total.add();
        }
        let pending = Pending {
            stream: Arc::clone(stream),
            id: request.id_text().as_bytes().into(),
            token: token.as_ref().map(|token| message.at(token).as_bytes().into()),
            keep: key.map(|key| (key, self.lists.generation())),
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
        // The number 0 is never used for a request.
        let number = self.numbers().give().map_or(0, |(_, number)| number);
        let ticket = Ticket { link: Arc::clone(self), number };
        self.metrics.requests_total.add();
        if pending.waits == Waits::Answer {
            self.metrics.requests_in_flight.add();
        }
        self.touch();
        let (timeout, owner) = (pending.timeout, Arc::clone(&pending.owner));
        let is_alone = {
            let mut all = self.pending();
            all.insert(number, pending);
            all.len() == 1
        };
        if number == 0 {
            self.fail(number, "This server cannot generate random numbers.");
            return ticket;
        }
        let digits = number.to_string();
        let mut patches = vec![Patch { span: id, with: digits.as_bytes() }];
        patches.extend(token.map(|span| Patch { span, with: digits.as_bytes() }));
        let length = message.text.len() + REPLACED;
        let Some(reservation) = self.messages.reserve(&owner, length, ROOM_PATIENCE).await else {
            self.fail(number, TOO_MANY_MESSAGES);
            return ticket;
        };
        let line = reservation.holding(self.framing.encode(message.text, &mut patches));
        let sent = match self.outbox.try_send(line, is_alone) {
            Ok(()) => Ok(Ok(())),
            // The queue is full, so this waits for the child to read.
            Err(line) => tokio::time::timeout(timeout.min(SEND_TIMEOUT), self.outbox.send(line)).await,
        };
        match sent {
            Ok(Ok(())) if self.dead.get().is_none() => {}
            Ok(Ok(())) => self.fail(number, &self.death()),
            Ok(Err(_)) => {
                // The child has closed its input. If it is exiting, its exit status gives a better error
                // message, and will be available shortly.
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.fail(number, &self.death());
            }
            Err(_) => {
                self.fail(number, "The MCP server does not read its input, so the request timed out.");
            }
        }
        ticket
    }

    /// Sends one of the wrapper's own messages if there is space in the queue.
    pub(super) fn say(&self, text: &str) {
        let _ = self.outbox.try_send(self.framing.encode(text, &mut []), false);
    }

    /// Removes and returns a waiting request.
    pub(super) fn take(&self, number: u64) -> Option<Pending> {
        let pending = self.pending().remove(&number)?;
        self.numbers().release(number);
        if pending.waits == Waits::Answer {
            self.metrics.requests_in_flight.sub();
        }
        self.touch();
        Some(pending)
    }

    /// The number of the probe, which is the first request to a child. After the probe, the child serves many
    /// callers, and an error without an id could refer to a message of any of them.
    pub(super) fn probe(&self) -> Option<u64> {
        let is_first = self.is_probe.load(Ordering::Relaxed) && self.numbers().next_place() == 1;
        let number = self.pending().keys().next().copied();
        number.filter(|_| is_first)
    }

    /// Whether a request has recently been sent with this number.
    pub(super) fn was_given(&self, number: u64) -> bool {
        self.numbers().place(number).is_some()
    }

    /// Calls `use_it` with the waiting request that has this number, if there is one.
    pub(super) fn with<R>(&self, number: u64, use_it: impl FnOnce(&mut Pending) -> R) -> Option<R> {
        self.pending().get_mut(&number).map(use_it)
    }

    /// Extends the deadline of a request after progress.
    pub(super) fn extend(pending: &mut Pending) {
        pending.deadline = Instant::now() + pending.timeout;
    }

    /// The stream for log messages from the child. It is the stream of the only request that asked for log
    /// messages, if no request from another caller is in progress. The protocol offers no other way to assign
    /// log messages to a request (2026-07-28, `NotificationMetaObject`).
    pub(super) fn log_stream(&self) -> Option<Arc<Stream>> {
        let all = self.pending();
        let calls =
            || all.values().filter(|pending| pending.waits == Waits::Answer && !pending.owner.is_empty());
        let mut wanting = calls().filter(|pending| pending.wants_logs);
        let one = wanting.next()?;
        let is_certain = wanting.next().is_none() && calls().all(|other| other.owner == one.owner);
        is_certain.then(|| Arc::clone(&one.stream))
    }

    /// Records that the child has responded to a request, which shows that it works.
    pub(super) fn set_answered(&self) {
        if !self.has_answered.swap(true, Ordering::Relaxed) {
            self.child.set_answered();
            self.launcher.child_worked(&self.child);
        }
    }

    /// Whether the child has responded to any request.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Whether the child has exited.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.get().is_some()
    }

    /// How long no client has used the child. Returns `None` while it is in use.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let is_used = self.pending().values().any(|pending| !pending.owner.is_empty());
        let last = *self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        (!is_used).then(|| now.saturating_duration_since(last))
    }

    /// The number of requests waiting for a response.
    pub(super) fn calls(&self) -> usize {
        self.pending().values().filter(|pending| pending.waits == Waits::Answer).count()
    }

    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
