//! The connection to one child: the requests waiting for its responses, and the ids that only this child knows.
//!
//! The wrapper replaces the id and the progress token of every request. Therefore clients never receive each
//! other's responses, even if they share a child or use id 1 for every request (attack 105).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::session::Session;
use super::unsettled::Unsettled;
use crate::budget::{Budget, Memory, Reservation, TOO_MANY_MESSAGES};
use crate::child::{Child, Framing, Launcher, LineLog, Numbers, Outbox, Width};
use crate::metrics::Metrics;
use crate::protocol::{Code, IdKey, Message, Patch, Span, Text, cancelled, error_message, same_id};
use crate::stream::Stream;

/// Progress extends the deadline of a request, up to this multiple of its timeout.
const MAX_EXTENSIONS: u32 = 12;
/// Maximum number of answered requests whose progress is still passed on. Tasks of 2025-11-25 report progress
/// after the response.
const MAX_RETIRED: usize = 64;

/// Maximum time for which a message waits for a child that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time for which a message waits for memory from the budget for messages to children. Children that
/// read their input free some soon.
const ROOM_PATIENCE: Duration = Duration::from_secs(2);

/// Maximum number of bytes by which the wrapper's ids can make a line longer than its message.
const REPLACED: usize = 64;

/// The recipient of messages that do not identify a request.
#[derive(Debug)]
pub(super) enum Audience {
    /// The only session of the child.
    Session(Weak<Session>),
    /// No recipient. The child serves many sessions, and it is unknown which of them such a message belongs to
    /// (attack 105).
    Nobody,
}

/// A child, and the requests waiting for its responses.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) child: Child,
    outbox: Outbox,
    pub(super) framing: Arc<dyn Framing>,
    pub(super) audience: Audience,
    pub(super) metrics: Arc<Metrics>,
    /// Memory for responses that clients have not read yet.
    pub(super) answers: Arc<Budget>,
    /// Memory for messages that the child has not read yet.
    messages: Arc<Budget>,
    pub(super) launcher: Arc<Launcher>,
    pub(super) log: LineLog,
    /// Whether several callers use the child. If so, an ambiguous message might belong to any of them.
    is_common: AtomicBool,
    state: Mutex<State>,
    /// Whether `initialize` has been answered.
    has_answered: AtomicBool,
    /// The reason why the child has exited, worded for callers.
    dead: OnceLock<String>,
}

/// The keys are the positions of the requests in the order of sending.
#[derive(Debug)]
struct State {
    numbers: Numbers,
    pending: BTreeMap<u64, Pending>,
    /// Progress tokens of answered requests, oldest first.
    retired: BTreeMap<u64, Box<[u8]>>,
    unsettled: Unsettled,
}

/// A request waiting for its response.
#[derive(Debug)]
pub(super) struct Pending {
    /// The request id that the child received.
    number: u64,
    pub(super) session: Arc<Session>,
    pub(super) stream: Arc<Stream>,
    /// The caller's id, as JSON text.
    pub(super) id: Box<[u8]>,
    key: IdKey,
    /// The caller's progress token, as JSON text.
    pub(super) token: Option<Box<[u8]>>,
    pub(super) is_initialize: bool,
    started: Instant,
    deadline: Instant,
    timeout: Duration,
}

impl State {
    fn remove(&mut self, place: u64) -> Option<Pending> {
        let pending = self.pending.remove(&place)?;
        self.numbers.release(pending.number);
        Some(pending)
    }

    /// Removes and returns the requests for which `is_over` returns true, oldest first.
    fn abandon(&mut self, is_over: impl Fn(&Pending) -> bool) -> Vec<Pending> {
        let over = self.pending.iter().filter(|(_, pending)| is_over(pending));
        let places: Vec<u64> = over.map(|(place, _)| *place).collect();
        for place in &places {
            self.unsettled.abandoned(*place);
        }
        places.into_iter().filter_map(|place| self.remove(place)).collect()
    }
}

impl Pending {
    /// Whether the caller's id equals `id`, whose key is `key`.
    fn has_id(&self, id: &str, key: IdKey) -> bool {
        self.key == key && std::str::from_utf8(&self.id).is_ok_and(|own| same_id(own, id))
    }

    /// Whether the request is late because of the client, and not because of the child.
    fn is_excused(&self, now: Instant) -> bool {
        self.session.excuses(self.started, self.timeout, now)
    }

    /// Responds with an error of the wrapper.
    pub(super) fn fail(self, code: Code, message: &str) {
        self.session.metrics.requests_failed_total.add();
        let answer = error_message(Some(&self.id), code, message);
        self.answer(answer.into());
    }

    /// Passes on the response.
    pub(super) fn answer(self, data: Text) {
        self.session.metrics.requests_in_flight.sub();
        self.session.request_done();
        self.stream.push(data, true);
        self.session.answered_on(&self.stream);
    }
}

/// What a child's error without an id can refer to.
#[derive(Debug, Clone, Copy)]
pub(super) enum About {
    /// A request.
    Request,
    /// A request, or any other message that was sent to the child.
    Anything,
}

/// The destination of progress from a child, and the token for it.
pub(super) struct Progress {
    /// The stream of the request, if the request still waits for its response.
    pub(super) stream: Option<Arc<Stream>>,
    /// The caller's progress token, as JSON text.
    pub(super) token: Box<[u8]>,
}

/// A request to send to the child.
pub(super) struct Call<'a> {
    pub(super) message: &'a Message<'a>,
    pub(super) id: Span,
    pub(super) token: Option<Span>,
    pub(super) is_initialize: bool,
    pub(super) timeout: Duration,
}

impl Link {
    pub(super) fn new(
        child: Child,
        outbox: Outbox,
        framing: Arc<dyn Framing>,
        audience: Audience,
        launcher: Arc<Launcher>,
        metrics: Arc<Metrics>,
        memory: Memory,
    ) -> Self {
        let is_common = matches!(audience, Audience::Nobody);
        let width = if is_common { Width::Long } else { Width::Short };
        let numbers = launcher.numbers(width);
        let log = LineLog::new(child.number);
        Self {
            child,
            outbox,
            framing,
            audience,
            metrics,
            answers: memory.answers,
            messages: memory.messages,
            launcher,
            log,
            is_common: AtomicBool::new(is_common),
            state: Mutex::new(State {
                numbers,
                pending: BTreeMap::new(),
                retired: BTreeMap::new(),
                unsettled: Unsettled::default(),
            }),
            has_answered: AtomicBool::new(false),
            dead: OnceLock::new(),
        }
    }

    /// Sends a request. Its response, or an error of the wrapper, is sent on `stream`.
    pub(super) async fn request(&self, session: &Arc<Session>, stream: &Arc<Stream>, outgoing: Call<'_>) {
        let message = outgoing.message;
        let Some((place, number)) = self.state().numbers.give() else {
            let why = "This server cannot generate random numbers.";
            return session.refuse(message, &outgoing.id, stream, Code::InternalError, why);
        };
        let now = Instant::now();
        let pending = Pending {
            number,
            session: Arc::clone(session),
            stream: Arc::clone(stream),
            id: message.at(&outgoing.id).as_bytes().into(),
            key: IdKey::of(message.at(&outgoing.id)),
            token: outgoing.token.as_ref().map(|token| message.at(token).as_bytes().into()),
            is_initialize: outgoing.is_initialize,
            started: now,
            deadline: now + outgoing.timeout,
            timeout: outgoing.timeout,
        };
        self.metrics.requests_total.add();
        self.metrics.requests_in_flight.add();
        session.request_started();
        let is_alone = {
            let mut state = self.state();
            state.pending.insert(place, pending);
            state.pending.len() == 1
        };
        let digits = number.to_string();
        let mut patches = vec![Patch { span: outgoing.id, with: digits.as_bytes() }];
        patches.extend(outgoing.token.map(|span| Patch { span, with: digits.as_bytes() }));
        let Some(reservation) = self.reserve(&session.owner, message.text).await else {
            return self.fail_one(number, TOO_MANY_MESSAGES);
        };
        let line = reservation.holding(self.framing.encode(message.text, &mut patches));
        let sent = match self.outbox.try_send(line, is_alone) {
            Ok(()) => Ok(Ok(())),
            // The queue is full, so this waits for the child to read. The request itself also stays in memory.
            Err(line) => {
                tokio::time::timeout(outgoing.timeout.min(SEND_TIMEOUT), self.outbox.send(line)).await
            }
        };
        // The reader fails all pending requests when the child exits. This handles requests that were added
        // after that.
        match sent {
            Ok(Ok(())) if self.dead.get().is_none() => {}
            Ok(Ok(())) => self.fail_one(number, &self.death()),
            Ok(Err(_)) => {
                // The child has closed its input. If it is exiting, its exit status gives a better error
                // message, and will be available shortly.
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.fail_one(number, &self.death());
            }
            Err(_) => {
                self.fail_one(number, "The MCP server does not read its input, so the request timed out.");
            }
        }
    }

    /// Passes on a message of a session that needs no response. The error contains the reason why the child did
    /// not receive it.
    pub(super) async fn pass(
        &self,
        session: &Session,
        message: &Message<'_>,
        patches: &mut [Patch<'_>],
    ) -> Result<(), &'static str> {
        let reservation = self.reserve(&session.owner, message.text).await.ok_or(TOO_MANY_MESSAGES)?;
        let line = reservation.holding(self.framing.encode(message.text, patches));
        self.note();
        let patience = session.request_timeout().min(SEND_TIMEOUT);
        match tokio::time::timeout(patience, self.outbox.send(line)).await {
            // A child that has exited needs no messages.
            Ok(_) => Ok(()),
            Err(_) => Err("The MCP server does not read its input, so it did not receive the message."),
        }
    }

    /// Reserves memory for the line of a message before the line is created.
    async fn reserve(&self, owner: &str, text: &str) -> Option<Reservation> {
        self.messages.reserve(owner, text.len() + REPLACED, ROOM_PATIENCE).await
    }

    /// Sends a message of the wrapper if there is space in the queue.
    pub(super) fn say(&self, text: &str) {
        self.note();
        let _ = self.outbox.try_send(self.framing.encode(text, &mut []), false);
    }

    /// Removes and returns the request to which the child has responded.
    pub(super) fn take(&self, number: u64) -> Option<Pending> {
        let mut state = self.state();
        let place = state.numbers.place(number)?;
        state.unsettled.answered(place);
        self.remove(&mut state, place)
    }

    /// Removes and returns an abandoned request.
    pub(super) fn give_up(&self, number: u64) -> Option<Pending> {
        let mut state = self.state();
        let place = state.numbers.place(number)?;
        let pending = self.remove(&mut state, place)?;
        state.unsettled.abandoned(place);
        Some(pending)
    }

    fn remove(&self, state: &mut State, place: u64) -> Option<Pending> {
        let pending = state.remove(place)?;
        if let Some(token) = pending.token.clone().filter(|_| matches!(self.audience, Audience::Session(_))) {
            state.retired.insert(place, token);
            if state.retired.len() > MAX_RETIRED {
                state.retired.pop_first();
            }
        }
        Some(pending)
    }

    /// The number of the only waiting request, if an error of the child without an id cannot refer to anything
    /// else. If the child has several callers, returns `None` except for `initialize`, which precedes their
    /// requests.
    pub(super) fn sole(&self, about: About) -> Option<u64> {
        let state = self.state();
        let (_, pending) = state.pending.first_key_value()?;
        let is_certain = pending.is_initialize || !self.is_common.load(Ordering::Relaxed);
        let is_settled = match about {
            About::Request => state.unsettled.has_no_request(),
            About::Anything => state.unsettled.is_nothing(),
        };
        (is_certain && is_settled && state.pending.len() == 1).then_some(pending.number)
    }

    /// Whether a request with this number waits for its response.
    pub(super) fn waits(&self, number: u64) -> bool {
        let state = self.state();
        state.numbers.place(number).is_some_and(|place| state.pending.contains_key(&place))
    }

    /// Whether a response can be accepted if other text precedes it on its line.
    pub(super) fn accepts_prefixed(&self) -> bool {
        let is_sole = || !self.is_common.load(Ordering::Relaxed) && self.state().pending.len() == 1;
        !self.has_answered() || is_sole()
    }

    /// Records that the requests come from several callers, although they share one session.
    pub(super) fn set_common(&self) {
        self.is_common.store(true, Ordering::Relaxed);
    }

    /// Records the sending of a message that needs no response.
    fn note(&self) {
        let mut state = self.state();
        let next = state.numbers.next_place();
        state.unsettled.note(next);
    }

    /// Whether a request has recently been sent with this number.
    pub(super) fn was_given(&self, number: u64) -> bool {
        self.state().numbers.place(number).is_some()
    }

    /// Returns the stream and the caller's token for the progress of a request, and extends the deadline of the
    /// request.
    pub(super) fn progress(&self, number: u64) -> Option<Progress> {
        let mut state = self.state();
        let place = state.numbers.place(number)?;
        if let Some(pending) = state.pending.get_mut(&place) {
            pending.deadline = Instant::now() + pending.timeout;
            return Some(Progress {
                stream: Some(Arc::clone(&pending.stream)),
                token: pending.token.clone()?,
            });
        }
        state.retired.get(&place).cloned().map(|token| Progress { stream: None, token })
    }

    /// The stream of the newest waiting request for which `is_good` is true. A message that does not identify
    /// its request most likely belongs to the newest one.
    pub(super) fn newest_stream(&self, is_good: impl Fn(&Arc<Stream>) -> bool) -> Option<Arc<Stream>> {
        self.state()
            .pending
            .values()
            .rev()
            .map(|pending| &pending.stream)
            .find(|stream| is_good(stream))
            .cloned()
    }

    /// The only waiting request of a session with this id of the caller. If two requests have the same id, none
    /// is returned, because cancelling the wrong one would harm its caller.
    pub(super) fn find(&self, session: &Session, id: &str) -> Option<u64> {
        let key = IdKey::of(id);
        let state = self.state();
        let mut found = state.pending.iter().filter(|(_, pending)| {
            std::ptr::eq(&raw const *pending.session, session) && pending.has_id(id, key)
        });
        let (_, pending) = found.next()?;
        (found.next().is_none() && !pending.is_initialize).then_some(pending.number)
    }

    /// Fails all waiting requests, either of every session or of the given one.
    pub(super) fn fail_all(&self, session: Option<&Session>, message: &str) {
        let failed = self.state().abandon(|pending| {
            session.is_none_or(|session| std::ptr::eq(&raw const *pending.session, session))
        });
        for pending in failed {
            pending.fail(Code::InternalError, message);
        }
    }

    /// Fails the requests that have waited for too long, and cancels them in the child. Returns whether
    /// `initialize` was one of them.
    pub(super) fn expire(&self, now: Instant) -> bool {
        self.log.tell(now);
        let late = self.state().abandon(|pending| {
            let is_over = now >= pending.started + pending.timeout * MAX_EXTENSIONS;
            is_over || (now >= pending.deadline && !pending.is_excused(now))
        });
        let mut lost_initialize = false;
        for pending in late {
            self.metrics.requests_timed_out_total.add();
            // `initialize` must not be cancelled (2025-11-25, "Cancellation").
            if pending.is_initialize {
                lost_initialize = true;
                self.launcher.child_was_silent(&self.child, pending.timeout);
            } else {
                self.say(&cancelled(pending.number, "timed out"));
            }
            let seconds = pending.timeout.as_secs_f32();
            pending.fail(Code::InternalError, &format!("The MCP server did not answer within {seconds} s."));
        }
        lost_initialize
    }

    /// Records that the child has exited, and fails all waiting requests.
    pub(super) fn died(&self, reason: String) {
        // The first reason is the most accurate one.
        let _ = self.dead.set(reason);
        self.fail_all(None, &self.death());
    }

    /// Records that the child has responded to `initialize`, which shows that it works.
    pub(super) fn set_answered(&self) {
        self.has_answered.store(true, Ordering::Relaxed);
        self.child.set_answered();
        self.launcher.child_worked(&self.child);
    }

    /// Whether the child has responded to `initialize`.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Whether the child has exited.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.get().is_some()
    }

    fn death(&self) -> String {
        self.dead.get().cloned().unwrap_or_else(|| "The MCP server closed its input.".to_owned())
    }

    fn fail_one(&self, number: u64, message: &str) {
        if let Some(pending) = self.give_up(number) {
            pending.fail(Code::InternalError, message);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
