//! The session of one client: its streams, its child, and its requests.

mod replies;
mod requests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::giving_up::Use;
use super::link::Link;
use super::questions::Questions;
use super::shared::SharedChildren;
use super::translated_server::TranslatedServer;
use crate::budget::{Budget, Reservation, user};
use crate::child::Placeholders;
use crate::metrics::Metrics;
use crate::protocol::{Code, StreamId, Version};
use crate::stream::Stream;

/// Maximum number of streams that are kept for clients that might resume them.
const MAX_KEPT_STREAMS: usize = 64;

/// A session of a client.
#[derive(Debug)]
pub struct Session {
    /// The session id. Only `owner` can use the session.
    pub id: String,
    /// The principal who opened the session (attack 108).
    pub owner: String,
    pub(super) metrics: Arc<Metrics>,
    behind: OnceLock<Backend>,
    /// The values of the command's placeholders when the session was opened.
    filled: OnceLock<Placeholders>,
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
    pub(super) is_ended: AtomicBool,
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

/// The server that answers the requests of a session.
#[derive(Debug)]
pub(super) enum Backend {
    /// The session's own child.
    Own(Arc<Link>),
    /// Children that are shared by all sessions.
    Shared(Arc<SharedChildren>),
    /// A server without sessions, accessed through the translation.
    Translated(Arc<dyn TranslatedServer>),
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

/// Why a message was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The JSON-RPC error code.
    pub code: Code,
    /// The message for the caller.
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
        let reservation = answers.reservation(&owner);
        Self {
            id,
            owner,
            metrics,
            behind: OnceLock::new(),
            filled: OnceLock::new(),
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
            is_ended: AtomicBool::new(false),
        }
    }

    /// Records the values of the command's placeholders. Only the first call has an effect.
    pub(super) fn fill(&self, with: Placeholders) {
        // This cannot fail, because it happens only once, before the session can be found.
        let _ = self.filled.set(with);
    }

    /// Whether the session was opened with these values of the command's placeholders. A user who has left a
    /// group must not continue to use that group's child (attack 103).
    pub(super) fn is_filled_with(&self, values: &Placeholders) -> bool {
        self.filled.get() == Some(values)
    }

    /// Sets the server that answers the requests. Only the first call has an effect.
    pub(super) fn attach(&self, behind: Backend) {
        // This cannot fail, because it happens once, right after the session was created.
        let _ = self.behind.set(behind);
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
        self.is_ended.load(Ordering::Acquire)
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

    /// Records that the requests of this session come from several callers.
    pub fn set_common(&self) {
        if let Some(link) = self.own_link() {
            link.set_common();
        }
    }

    /// Whether the child waits for the client's response to a request with this id.
    pub(super) fn is_asked(&self, id: &str) -> bool {
        self.state().questions.has(id)
    }

    /// Whether the child has responded to `initialize`, with a result or an error.
    pub fn was_answered(&self) -> bool {
        self.own_link().is_some_and(|link| link.has_answered())
    }

    /// Records the outcome of `initialize`. `None` means that the request was refused or that its response was
    /// unusable, and ends the session.
    pub fn initialized(&self, version: Option<Version>) {
        match version {
            Some(version) => {
                // This cannot fail, because a session is initialized once.
                let _ = self.version.set(version);
            }
            None => self.end("initialize failed"),
        }
    }

    /// Maximum time for a request without a response or progress.
    pub(super) fn request_timeout(&self) -> Duration {
        self.limits.request_timeout
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

    /// Records that the translation uses the session until [`Session::let_go`] is called.
    pub fn hold(&self) {
        self.is_translated.store(true, Ordering::Release);
        self.users.fetch_add(1, Ordering::AcqRel);
        self.touch();
    }

    /// Ends a use that started with [`Session::hold`].
    pub fn let_go(&self) {
        self.touch();
        self.users.fetch_sub(1, Ordering::AcqRel);
    }

    /// Fails requests that have timed out. Returns true if `initialize` timed out, which ends the session.
    pub(super) fn expire(&self, now: Instant) -> bool {
        let is_lost = matches!(self.behind.get(), Some(Backend::Own(link)) if link.expire(now));
        if is_lost {
            self.end("the child did not answer initialize");
        }
        is_lost
    }

    /// Ends the session: waiting requests fail, streams are closed, and the session's own child is stopped.
    pub fn end(&self, why: &str) {
        self.end_with(why, "The session has ended.");
    }

    /// Ends the session. `why` is logged, and waiting requests fail with `message`.
    pub(super) fn end_with(&self, why: &str, message: &str) {
        if self.is_ended.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::debug!(why, "session ended");
        match self.behind.get() {
            Some(Backend::Own(link)) => {
                link.child.stop();
                link.fail_all(Some(self), message);
            }
            Some(Backend::Shared(children)) => children.forget(self, message),
            Some(Backend::Translated(peer)) => peer.end(message),
            None => {}
        }
        self.get_stream.close();
        for stream in self.state().streams.drain(..) {
            stream.close();
        }
    }

    /// The link to the session's own child.
    pub(super) fn own_link(&self) -> Option<&Arc<Link>> {
        match self.behind.get() {
            Some(Backend::Own(link)) => Some(link),
            _ => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
