//! What a session keeps for its client: its streams, the questions to it, its share of memory, and the number of its
//! requests and the time of the last one. `session.rs` adds the server that answers the requests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::giving_up::Use;
use super::questions::{Question, Questions};
use crate::budget::{Budget, Reservation, user};
use crate::metrics::Metrics;
use crate::protocol::{Code, Message, Span, StreamId, Version, error_message};
use crate::stream::Stream;

/// Maximum number of streams that are kept for clients that might resume them.
const MAX_KEPT_STREAMS: usize = 64;

/// The error for the requests of a session that has ended.
pub(super) const ENDED: &str = "The session has ended.";

/// The client of a session.
#[derive(Debug)]
pub struct Client {
    /// The session id. Only `owner` can use the session.
    pub id: String,
    /// The principal who opened the session (attack 108).
    pub owner: String,
    pub(super) metrics: Arc<Metrics>,
    version: OnceLock<Version>,
    /// The revision that the client requested. It determines which shared child the session uses.
    slot: OnceLock<Version>,
    get_stream: Arc<Stream>,
    /// The principal's memory for the streams.
    reservation: Reservation,
    /// Whether the session uses the transport of 2024-11-05, which sends all responses on one stream.
    is_sse: bool,
    limits: SessionLimits,
    state: Mutex<State>,
    next_stream: AtomicU64,
    in_flight: AtomicUsize,
    /// The number of translation requests that are using the session or are about to use it. The translation
    /// reads the session's GET stream permanently, so that stream does not show whether a client is connected.
    users: AtomicUsize,
    is_translated: AtomicBool,
    /// Milliseconds between `born` and the last use.
    last_used: AtomicU64,
    born: Instant,
    has_ended: AtomicBool,
}

/// The limits of a session.
#[derive(Debug, Clone)]
pub(super) struct SessionLimits {
    pub(super) max_in_flight: usize,
    pub(super) event_log: usize,
    pub(super) request_timeout: Duration,
    pub(super) start_timeout: Duration,
    pub(super) input_timeout: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// Streams whose responses have been sent as events, oldest first.
    streams: VecDeque<Arc<Stream>>,
    questions: Questions,
}

impl State {
    /// Removes completed streams that no client is reading, oldest first, until the kept streams have at most
    /// `max_bytes` bytes. The number of incomplete streams is limited by the limit on requests in progress.
    /// `newest` is always kept.
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

impl Client {
    pub(super) fn new(
        id: String,
        owner: String,
        is_sse: bool,
        limits: SessionLimits,
        answers: &Arc<Budget>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let reservation = answers.reservation(&owner);
        Self {
            id,
            owner,
            metrics,
            version: OnceLock::new(),
            slot: OnceLock::new(),
            get_stream: Stream::endless(0, limits.event_log, reservation.sibling()),
            reservation,
            is_sse,
            limits,
            state: Mutex::default(),
            next_stream: AtomicU64::new(1),
            in_flight: AtomicUsize::new(0),
            users: AtomicUsize::new(0),
            is_translated: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            born: Instant::now(),
            has_ended: AtomicBool::new(false),
        }
    }

    /// The revision that the child chose. It is known once the child has responded to `initialize`.
    pub fn version(&self) -> Option<Version> {
        self.version.get().copied()
    }

    /// The memory reserved for the principal. It holds responses and all other data kept for the session.
    pub fn reservation(&self) -> &Reservation {
        &self.reservation
    }

    /// Whether the session has ended.
    pub fn is_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Whether the session uses the 2024-11-05 endpoints.
    pub fn is_sse(&self) -> bool {
        self.is_sse
    }

    /// The stream for messages that do not belong to a request.
    pub fn get_stream(&self) -> &Arc<Stream> {
        &self.get_stream
    }

    /// Creates a stream for a POST with this number of requests.
    pub fn post_stream(&self, requests: usize) -> Arc<Stream> {
        if self.is_sse {
            return Arc::clone(&self.get_stream);
        }
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        Stream::for_post(id, requests, self.limits.event_log, self.reservation.sibling())
    }

    /// Keeps a stream whose responses are sent as events, so that the client can resume it.
    pub fn keep_stream(&self, stream: &Arc<Stream>) {
        let mut state = self.state();
        state.streams.push_back(Arc::clone(stream));
        state.forget_streams(stream, self.limits.event_log);
    }

    /// Called when a response has been added to a stream. If no client is reading the stream, older streams are
    /// removed, so that the kept streams do not need more memory than before.
    pub(super) fn answered_on(&self, stream: &Arc<Stream>) {
        if !stream.is_connected() {
            self.state().forget_streams(stream, self.limits.event_log);
        }
    }

    /// Whether the client can resume this stream.
    pub(super) fn keeps(&self, stream: &Arc<Stream>) -> bool {
        self.state().streams.iter().any(|kept| Arc::ptr_eq(kept, stream))
    }

    /// Finds a stream by its number when a client resumes it.
    pub fn stream(&self, id: StreamId) -> Option<Arc<Stream>> {
        if id == 0 {
            return Some(Arc::clone(&self.get_stream));
        }
        self.state().streams.iter().find(|stream| stream.id == id).cloned()
    }

    /// Whether the child waits for the client's response to a request with this id.
    pub(super) fn is_asked(&self, id: &str) -> bool {
        self.state().questions.has(id)
    }

    /// Records the revision that the server chose.
    pub fn set_version(&self, version: Version) {
        // This cannot fail, because a session is initialized once.
        let _ = self.version.set(version);
    }

    /// Maximum time for a request without a response or progress.
    pub(super) fn request_timeout(&self) -> Duration {
        self.limits.request_timeout
    }

    /// Maximum time for the response to `initialize`.
    pub(super) fn start_timeout(&self) -> Duration {
        self.limits.start_timeout
    }

    /// Maximum time for the client's response to a question.
    pub fn input_timeout(&self) -> Duration {
        self.limits.input_timeout
    }

    pub(super) fn set_slot(&self, version: Version) {
        // This cannot fail, because a session is initialized once.
        let _ = self.slot.set(version);
    }

    pub(super) fn slot(&self) -> Version {
        self.slot.get().copied().unwrap_or(Version::LATEST)
    }

    pub(super) fn request_started(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the maximum number of requests is in progress.
    pub(super) fn is_full(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) >= self.limits.max_in_flight
    }

    pub(super) fn request_done(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.touch();
    }

    /// Records that the session was used.
    pub fn touch(&self) {
        let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_used.store(age, Ordering::Relaxed);
    }

    /// How long the session has been unused. Returns `None` while it is in use.
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

    /// Returns how the session is used, which decides whether it can be closed for another one. For a session
    /// that only the translation uses, an open GET stream does not count as use.
    pub(super) fn usage(&self, now: Instant, makes_room: bool) -> Use {
        // A request from the translation is counted in both numbers, so the larger one is used.
        let running = self.in_flight.load(Ordering::Relaxed).max(self.users.load(Ordering::Acquire));
        let last = self.since_last_use(now);
        let is_translated = self.is_translated.load(Ordering::Acquire);
        let unused = if is_translated { (running == 0).then_some(last) } else { self.idle_for(now) };
        Use { user: user(&self.owner).to_owned(), unused, running, last, makes_room }
    }

    /// Records that the translation uses the session until [`Client::let_go`] is called.
    pub fn hold(&self) {
        self.is_translated.store(true, Ordering::Release);
        self.users.fetch_add(1, Ordering::AcqRel);
        self.touch();
    }

    /// Ends a use that started with [`Client::hold`].
    pub fn let_go(&self) {
        self.touch();
        self.users.fetch_sub(1, Ordering::AcqRel);
    }

    /// Responds to a request with an error instead of sending it to the child.
    pub fn refuse(&self, message: &Message<'_>, id: &Span, stream: &Stream, code: Code, why: &str) {
        self.metrics.requests_failed_total.add();
        stream.push(error_message(Some(message.at(id).as_bytes()), code, why).into(), true);
    }

    /// Starts giving every question from the child an id that the wrapper chooses and uses only once. Otherwise a
    /// response to a question that the child has withdrawn could be mistaken for a response to another question
    /// with the same id.
    pub fn number_questions(&self) {
        self.state().questions.number();
    }

    /// Records a request from the child to which the client must respond. Returns its id for the client, as
    /// JSON text, or `None` if there are too many.
    pub(super) fn expect_answer(&self, id: &str, method: &str, stream: &Arc<Stream>) -> Option<String> {
        self.state().questions.put(id, method, stream, Instant::now(), &self.reservation)
    }

    /// Records that the child no longer needs a response. Returns the stream on which the question was sent,
    /// and its id for the client.
    pub(super) fn withdrawn(&self, id: &str) -> Option<(Arc<Stream>, String)> {
        self.state().questions.take_own(id, Instant::now()).map(|(question, shown)| (question.stream, shown))
    }

    /// Whether a request that was sent at `started` is not late yet, because the child is waiting for this
    /// client, or was until recently.
    pub(super) fn excuses(&self, started: Instant, timeout: Duration, now: Instant) -> bool {
        self.state().questions.excuse(started, timeout, self.limits.input_timeout, now)
    }

    /// Removes and returns the question that has this id for the client.
    pub(super) fn take_question(&self, id: &str) -> Option<Question> {
        self.state().questions.take(id, Instant::now())
    }

    /// Removes and returns the question if only one is waiting.
    pub(super) fn take_only_question(&self) -> Option<Question> {
        self.state().questions.take_only(Instant::now())
    }

    /// Sends a question to the client on the stream of the related request. Returns false if too many questions
    /// are waiting, or if there is no memory for it.
    pub fn put(&self, id: &str, method: &str, text: Bytes, stream: &Arc<Stream>) -> bool {
        let is_noted = self.expect_answer(id, method, stream).is_some();
        is_noted && stream.tell(text.into())
    }

    /// Removes a question whose response is no longer needed. `id` is JSON text.
    pub fn take_back(&self, id: &str) {
        self.withdrawn(id);
    }

    /// Ends the session, unless it has already ended: `fail_requests` fails the waiting requests, and then the
    /// streams are closed. `why` is logged.
    pub(super) fn close(&self, why: &str, fail_requests: impl FnOnce()) {
        if self.has_ended.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::debug!(why, "session ended");
        fail_requests();
        self.get_stream.close();
        for stream in self.state().streams.drain(..) {
            stream.close();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
