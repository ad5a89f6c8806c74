//! One client's session: its streams, its child, and what it may send.

mod replies;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::foreign::Foreign;
use super::link::{Link, Outgoing, cancelled};
use super::questions::Questions;
use super::shared::SharedChildren;
use crate::budget::{Budget, Room};
use crate::metrics::Metrics;
use crate::policy::Permit;
use crate::protocol::{
    Code, Message, Patch, Span, StreamId, Version, error_message, peek_call, peek_cancelled,
};
use crate::stream::Stream;

/// Streams that are kept for clients that may come back.
const MAX_KEPT_STREAMS: usize = 64;

/// A session.
#[derive(Debug)]
pub struct Session {
    /// The id; who knows it and is the owner may use the session.
    pub id: String,
    /// The principal that opened it (attack 108).
    pub owner: String,
    pub(super) metrics: Arc<Metrics>,
    behind: OnceLock<Behind>,
    version: OnceLock<Version>,
    /// The revision that the client asked for; tells which shared child is its.
    slot: OnceLock<Version>,
    get_stream: Arc<Stream>,
    /// The principal's memory, of which its streams take some.
    room: Room,
    /// 2024-11-05: every answer goes to the one stream.
    is_sse: bool,
    limits: SessionLimits,
    state: Mutex<State>,
    next_stream: AtomicU64,
    in_flight: AtomicUsize,
    /// Those of the translation that use it, or would soon. It reads the session's own stream all the time, which then says
    /// nothing about a client.
    users: AtomicUsize,
    is_translated: AtomicBool,
    /// Milliseconds between `born` and the last use.
    last_used: AtomicU64,
    born: Instant,
    pub(super) is_ended: AtomicBool,
}

/// The bounds of a session.
#[derive(Debug, Clone)]
pub(super) struct SessionLimits {
    pub(super) max_in_flight: usize,
    pub(super) event_log: usize,
    pub(super) request_timeout: Duration,
    pub(super) start_timeout: Duration,
    pub(super) input_timeout: Duration,
}

/// What answers.
#[derive(Debug)]
pub(super) enum Behind {
    /// A child of its own.
    Own(Arc<Link>),
    /// A child for all.
    Shared(Arc<SharedChildren>),
    /// A server without sessions, translated.
    Foreign(Arc<dyn Foreign>),
}

#[derive(Debug, Default)]
struct State {
    /// Streams that were answered as events, oldest first.
    streams: VecDeque<Arc<Stream>>,
    questions: Questions,
}

impl State {
    /// Forgets completed streams that nobody reads, oldest first, until what is kept has at most so many bytes. Running ones
    /// are bounded by the requests in flight; `newest` stays.
    fn forget_streams(&mut self, newest: &Arc<Stream>, max_bytes: usize) {
        let mut kept: usize = self.streams.iter().map(|stream| stream.kept()).sum();
        let mut index = 0;
        while index < self.streams.len() && (kept > max_bytes || self.streams.len() > MAX_KEPT_STREAMS) {
            let is_done = self.streams.get(index).is_some_and(|stream| {
                stream.is_complete() && !stream.is_connected() && !Arc::ptr_eq(stream, newest)
            });
            if is_done && let Some(done) = self.streams.remove(index) {
                kept -= done.kept();
            } else {
                index += 1;
            }
        }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// JSON-RPC code.
    pub code: Code,
    /// For the caller.
    pub message: String,
}

impl Session {
    pub(super) fn new(
        id: String,
        owner: String,
        is_sse: bool,
        limits: SessionLimits,
        answers: &Arc<Budget>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let room = answers.room(&owner);
        Self {
            id,
            owner,
            metrics,
            behind: OnceLock::new(),
            version: OnceLock::new(),
            slot: OnceLock::new(),
            get_stream: Stream::endless(0, limits.event_log, room.sibling()),
            room,
            is_sse,
            limits,
            state: Mutex::default(),
            next_stream: AtomicU64::new(1),
            in_flight: AtomicUsize::new(0),
            users: AtomicUsize::new(0),
            is_translated: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            born: Instant::now(),
            is_ended: AtomicBool::new(false),
        }
    }

    /// Sets what answers; the first one stays.
    pub(super) fn attach(&self, behind: Behind) {
        // A session is attached once, right after it is made.
        let _ = self.behind.set(behind);
    }

    /// The revision that the child chose, once it has answered `initialize`.
    pub fn version(&self) -> Option<Version> {
        self.version.get().copied()
    }

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
    }

    /// Whether the session serves the 2024-11-05 endpoints.
    pub fn is_sse(&self) -> bool {
        self.is_sse
    }

    /// The stream for what belongs to no request.
    pub fn get_stream(&self) -> &Arc<Stream> {
        &self.get_stream
    }

    /// A stream for one POST with so many requests.
    pub fn post_stream(&self, requests: usize) -> Arc<Stream> {
        if self.is_sse {
            return Arc::clone(&self.get_stream);
        }
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        Stream::for_post(id, requests, self.limits.event_log, self.room.sibling())
    }

    /// Keeps a stream that is answered as events, so that the client can resume it.
    pub fn keep_stream(&self, stream: &Arc<Stream>) {
        let mut state = self.state();
        state.streams.push_back(Arc::clone(stream));
        state.forget_streams(stream, self.limits.event_log);
    }

    /// Notes that a stream got an answer. What waits for clients that may come back takes no more room because of it.
    pub(super) fn answered_on(&self, stream: &Arc<Stream>) {
        if !stream.is_connected() {
            self.state().forget_streams(stream, self.limits.event_log);
        }
    }

    /// Whether the client can resume this stream.
    pub(super) fn keeps(&self, stream: &Arc<Stream>) -> bool {
        self.state().streams.iter().any(|kept| Arc::ptr_eq(kept, stream))
    }

    /// A stream by its number, for resuming.
    pub fn stream(&self, id: StreamId) -> Option<Arc<Stream>> {
        if id == 0 {
            return Some(Arc::clone(&self.get_stream));
        }
        self.state().streams.iter().find(|stream| stream.id == id).cloned()
    }

    /// Sends the `initialize` request of this session.
    pub async fn initialize(self: &Arc<Self>, message: &Message<'_>, id: Span, stream: &Arc<Stream>) {
        match self.behind.get() {
            Some(Behind::Own(link)) => self.send_to(link, message, id, None, true, stream).await,
            Some(Behind::Shared(children)) => children.initialize(self, message, &id, stream).await,
            // The translation greets such a session itself.
            Some(Behind::Foreign(_)) | None => {
                self.refuse(
                    message,
                    &id,
                    stream,
                    Code::InvalidRequest,
                    "This session is initialized already.",
                );
            }
        }
    }

    /// Sends a request for which there is leave; whatever becomes of it comes on `stream`.
    pub async fn request(
        self: &Arc<Self>,
        message: &Message<'_>,
        id: Span,
        stream: &Arc<Stream>,
        permit: &Permit<'_>,
    ) {
        self.touch();
        let method = permit.method();
        if !message.has_method(method) {
            let why = "This request was not allowed under its method.";
            return self.refuse(message, &id, stream, Code::InternalError, why);
        }
        let params = match peek_call(message) {
            Ok(params) => params,
            Err(error) => return self.refuse(message, &id, stream, Code::InvalidRequest, &error.to_string()),
        };
        if self.in_flight.load(Ordering::Relaxed) >= self.limits.max_in_flight {
            let why = "Too many requests of this session are waiting. Wait for some of them, or raise MAX_IN_FLIGHT.";
            return self.refuse(message, &id, stream, Code::Refused, why);
        }
        match self.behind.get() {
            Some(Behind::Own(link)) => {
                self.send_to(link, message, id, params.progress_token, false, stream).await;
            }
            Some(Behind::Shared(children)) => match children.link_for(self, method).await {
                Ok(link) => self.send_to(&link, message, id, params.progress_token, false, stream).await,
                Err(refusal) => self.refuse(message, &id, stream, refusal.code, &refusal.message),
            },
            Some(Behind::Foreign(peer)) => {
                peer.request(self, message, &id, stream, permit);
            }
            None => self.refuse(message, &id, stream, Code::InternalError, "This session has no server."),
        }
    }

    async fn send_to(
        self: &Arc<Self>,
        link: &Arc<Link>,
        message: &Message<'_>,
        id: Span,
        token: Option<Span>,
        is_initialize: bool,
        stream: &Arc<Stream>,
    ) {
        let timeout = if is_initialize { self.limits.start_timeout } else { self.limits.request_timeout };
        link.request(self, stream, Outgoing { message, id, token, is_initialize, timeout }).await;
    }

    /// Answers a request with an error instead of sending it.
    pub fn refuse(&self, message: &Message<'_>, id: &Span, stream: &Stream, code: Code, why: &str) {
        self.metrics.requests_failed_total.add();
        stream.push(error_message(Some(message.at(id).as_bytes()), code, why).into(), true);
    }

    /// Takes a notification for which there is leave. An error says why the child did not get it.
    pub async fn notify(
        self: &Arc<Self>,
        message: &Message<'_>,
        permit: &Permit<'_>,
    ) -> Result<(), &'static str> {
        self.touch();
        if !message.has_method(permit.method()) {
            return Ok(());
        }
        if permit.method() == "notifications/cancelled" {
            self.cancel(message).await;
            return Ok(());
        }
        match self.behind.get() {
            Some(Behind::Own(link)) => return link.pass(self, message, &mut []).await,
            Some(Behind::Foreign(peer)) => peer.notify(self, permit),
            // A shared child was greeted by us, and has no client whose state it could follow.
            Some(Behind::Shared(_)) | None => {}
        }
        Ok(())
    }

    /// Cancels the request that has this id in this session, under the id that the child knows.
    async fn cancel(&self, message: &Message<'_>) {
        let Ok(Some(span)) = peek_cancelled(message) else {
            return;
        };
        let id = message.at(&span);
        let link = match self.behind.get() {
            Some(Behind::Own(link)) => Some(Arc::clone(link)),
            Some(Behind::Shared(children)) => children.current(self),
            Some(Behind::Foreign(peer)) => return peer.cancel(id),
            None => None,
        };
        let Some(link) = link else { return };
        let Some(number) = link.find(self, id) else {
            tracing::debug!("a cancellation names no request, or more than one, and was ignored");
            return;
        };
        if matches!(self.behind.get(), Some(Behind::Own(_))) {
            let digits = number.to_string();
            let patch = Patch { span, with: digits.as_bytes() };
            // A child that does not read does not hear of it; the request is given up all the same.
            let _ = link.pass(self, message, &mut [patch]).await;
        } else {
            link.say(&cancelled(number, "cancelled by the client"));
        }
        // The child does not answer what is cancelled, so the waiting POST is.
        if let Some(pending) = link.give_up(number) {
            pending.fail(Code::Cancelled, "The request was cancelled.");
        }
    }

    /// Notes that the requests of this session come from several callers.
    pub fn set_common(&self) {
        if let Some(link) = self.own_link() {
            link.set_common();
        }
    }

    /// Whether the child waits for the client's answer under this id.
    pub(super) fn is_asked(&self, id: &str) -> bool {
        self.state().questions.has(id)
    }

    /// Whether the child has answered `initialize` in one way or the other.
    pub fn was_answered(&self) -> bool {
        self.own_link().is_some_and(|link| link.has_answered())
    }

    /// `initialize` was answered; without a version it was refused or made no sense.
    pub fn initialized(&self, version: Option<Version>) {
        match version {
            Some(version) => {
                // A session is initialized once.
                let _ = self.version.set(version);
            }
            None => self.end("initialize failed"),
        }
    }

    /// Longest silence of the child.
    pub(super) fn request_timeout(&self) -> Duration {
        self.limits.request_timeout
    }

    pub(super) fn set_slot(&self, version: Version) {
        // A session is initialized once.
        let _ = self.slot.set(version);
    }

    pub(super) fn slot(&self) -> Version {
        self.slot.get().copied().unwrap_or(Version::LATEST)
    }

    pub(super) fn request_started(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request_done(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.touch();
    }

    /// Notes that the session was used.
    pub fn touch(&self) {
        let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_used.store(age, Ordering::Relaxed);
    }

    /// How long nobody has used it; `None` while somebody does.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        if self.in_flight.load(Ordering::Relaxed) > 0 || self.get_stream.is_connected() {
            return None;
        }
        Some(self.since_last_use(now))
    }

    fn since_last_use(&self, now: Instant) -> Duration {
        let last = self.born + Duration::from_millis(self.last_used.load(Ordering::Relaxed));
        now.saturating_duration_since(last)
    }

    /// The same for a session that may be given up for another one: also if it is the translation's, and no client's.
    pub(super) fn unused_for(&self, now: Instant) -> Option<Duration> {
        if !self.is_translated.load(Ordering::Acquire) {
            return self.idle_for(now);
        }
        let is_used = self.users.load(Ordering::Acquire) > 0 || self.in_flight.load(Ordering::Relaxed) > 0;
        (!is_used).then(|| self.since_last_use(now))
    }

    /// Notes that the translation uses the session from now on, until [`Session::let_go`].
    pub fn hold(&self) {
        self.is_translated.store(true, Ordering::Release);
        self.users.fetch_add(1, Ordering::AcqRel);
        self.touch();
    }

    /// Notes that the use which [`Session::hold`] began is over.
    pub fn let_go(&self) {
        self.touch();
        self.users.fetch_sub(1, Ordering::AcqRel);
    }

    /// Fails what is late. A child that does not even answer `initialize` is given up: whether that
    /// is so.
    pub(super) fn expire(&self, now: Instant) -> bool {
        let is_lost = matches!(self.behind.get(), Some(Behind::Own(link)) if link.expire(now));
        if is_lost {
            self.end("the child did not answer initialize");
        }
        is_lost
    }

    /// Ends the session: waiting requests fail, streams end, a child of its own is stopped.
    pub fn end(&self, why: &str) {
        if self.is_ended.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::debug!(why, "session ended");
        match self.behind.get() {
            Some(Behind::Own(link)) => {
                link.child.stop();
                link.fail_all(Some(self), "The session has ended.");
            }
            Some(Behind::Shared(children)) => children.forget(self),
            Some(Behind::Foreign(peer)) => peer.end(),
            None => {}
        }
        self.get_stream.close();
        for stream in self.state().streams.drain(..) {
            stream.close();
        }
    }

    /// The link of a child of its own.
    pub(super) fn own_link(&self) -> Option<&Arc<Link>> {
        match self.behind.get() {
            Some(Behind::Own(link)) => Some(link),
            _ => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
