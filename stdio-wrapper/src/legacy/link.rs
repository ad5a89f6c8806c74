//! A conversation with a child of a revision with sessions. It keeps data about the callers of the requests, and
//! determines to which request a message without an id belongs, if that is certain.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use super::client::Client;
use super::unsettled::Unsettled;
use crate::child::Width;
use crate::conversation::{self, Call, Calls, Conversation};
use crate::protocol::{Code, IdKey, Message, Patch, Text, error_message, same_id};
use crate::stream::Stream;

/// Maximum number of answered requests whose progress is still passed on. Tasks of 2025-11-25 report progress
/// after the response.
const MAX_RETIRED: usize = 64;

/// The recipient of messages that do not identify a request.
#[derive(Debug)]
pub(super) enum Audience {
    /// The client of the only session of the child.
    Client(Weak<Client>),
    /// No recipient. The child serves many sessions, and a message that does not identify a request could belong
    /// to any of them (attack 105).
    Nobody,
}

/// A child, and the requests waiting for its responses.
#[derive(Debug)]
pub(super) struct Link {
    conversation: Conversation,
    pub(super) audience: Audience,
    /// Whether several callers use the child. If so, an ambiguous message might belong to any of them.
    is_common: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    calls: Calls<Caller>,
    /// Progress tokens of answered requests, oldest first.
    retired: BTreeMap<u64, Box<[u8]>>,
    unsettled: Unsettled,
}

/// The caller of a request.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) client: Arc<Client>,
    key: IdKey,
    pub(super) is_initialize: bool,
}

/// A request waiting for its response.
pub(super) type Pending = conversation::Pending<Caller>;

impl State {
    /// Removes and returns the requests for which `is_over` returns true, oldest first.
    fn abandon(&mut self, is_over: impl Fn(&Pending) -> bool) -> Vec<Pending> {
        let numbers = self.calls.numbers_of(is_over);
        for place in numbers.iter().filter_map(|number| self.calls.place(*number)) {
            self.unsettled.abandoned(place);
        }
        numbers.into_iter().filter_map(|number| self.calls.remove(number)).collect()
    }
}

impl Pending {
    fn is_of(&self, client: &Client) -> bool {
        std::ptr::eq(&raw const *self.caller.client, client)
    }

    /// Whether the caller's id equals `id`, whose key is `key`.
    fn has_id(&self, id: &str, key: IdKey) -> bool {
        self.caller.key == key && std::str::from_utf8(&self.id).is_ok_and(|own| same_id(own, id))
    }

    /// Responds with an error from the wrapper.
    pub(super) fn fail(self, code: Code, message: &str) {
        self.caller.client.metrics.requests_failed_total.add();
        let answer = error_message(Some(&self.id), code, message);
        self.answer(answer.into());
    }

    /// Passes on the response.
    pub(super) fn answer(self, data: Text) {
        let client = self.caller.client;
        client.metrics.requests_in_flight.sub();
        client.request_done();
        self.stream.push(data, true);
        client.answered_on(&self.stream);
    }
}

/// What a child's error without an id can refer to.
#[derive(Debug, Clone, Copy)]
pub(super) enum About {
    /// The only waiting request.
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

impl Deref for Link {
    type Target = Conversation;

    fn deref(&self) -> &Conversation {
        &self.conversation
    }
}

impl Link {
    pub(super) fn new(conversation: Conversation, audience: Audience) -> Self {
        let is_common = matches!(audience, Audience::Nobody);
        let width = if is_common { Width::Long } else { Width::Short };
        let calls = Calls::new(conversation.launcher.numbers(width));
        let state = State { calls, retired: BTreeMap::new(), unsettled: Unsettled::default() };
        Self { conversation, audience, is_common: AtomicBool::new(is_common), state: Mutex::new(state) }
    }

    /// Sends a request. Its response, or an error from the wrapper, is sent on `stream`.
    pub(super) async fn request(&self, client: &Arc<Client>, call: Call<'_>, is_initialize: bool) {
        let key = IdKey::of(call.id_text());
        let caller = Caller { client: Arc::clone(client), key, is_initialize };
        self.metrics.requests_total.add();
        self.metrics.requests_in_flight.add();
        // The request can fail as soon as it is known.
        client.request_started();
        let given = self.state().calls.add(&call, caller, Instant::now());
        let Some(given) = given else {
            self.metrics.requests_in_flight.sub();
            client.request_done();
            let why = "This server cannot generate random numbers.";
            return client.refuse(call.message, &call.id, call.stream, Code::InternalError, why);
        };
        let is_wanted = || self.waits(given.number);
        if let Err(why) = self.conversation.request(&client.owner, &call, given, is_wanted).await
            && let Some(pending) = self.give_up(given.number)
        {
            pending.fail(Code::InternalError, &why);
        }
    }

    /// Passes on a message of a session that needs no response. The error contains the reason why the child did
    /// not receive it.
    pub(super) async fn pass(
        &self,
        client: &Client,
        message: &Message<'_>,
        patches: &mut [Patch<'_>],
    ) -> Result<(), &'static str> {
        self.note();
        let patience = client.request_timeout();
        let passed = self.conversation.pass(&client.owner, message, patches, patience).await;
        // Requests might have been sent while this message waited.
        self.note();
        passed
    }

    /// Sends one of the wrapper's own messages if there is space in the queue.
    pub(super) fn say(&self, text: &str) {
        self.note();
        self.conversation.say(text);
    }

    /// Tells the child that no caller is waiting for a request any longer, if there is space for it.
    pub(super) fn cancel(&self, number: u64, reason: &str) {
        self.note();
        self.conversation.cancel(number, reason);
    }

    /// Removes and returns the request to which the child has responded.
    pub(super) fn take(&self, number: u64) -> Option<Pending> {
        let mut state = self.state();
        let place = state.calls.place(number)?;
        state.unsettled.answered(place);
        self.remove(&mut state, number, place)
    }

    /// Removes and returns an abandoned request.
    pub(super) fn give_up(&self, number: u64) -> Option<Pending> {
        let mut state = self.state();
        let place = state.calls.place(number)?;
        let pending = self.remove(&mut state, number, place)?;
        state.unsettled.abandoned(place);
        Some(pending)
    }

    fn remove(&self, state: &mut State, number: u64, place: u64) -> Option<Pending> {
        let pending = state.calls.remove(number)?;
        if let Some(token) = pending.token.clone().filter(|_| matches!(self.audience, Audience::Client(_))) {
            state.retired.insert(place, token);
            if state.retired.len() > MAX_RETIRED {
                state.retired.pop_first();
            }
        }
        Some(pending)
    }

    /// The number of the only waiting request, if a message without an id from the child cannot be about anything
    /// else. If the child has several callers, this is never certain, except before a request from any of them was
    /// sent.
    pub(super) fn only(&self, about: About) -> Option<u64> {
        let state = self.state();
        let pending = state.calls.only()?;
        let is_certain = pending.caller.is_initialize || !self.is_common.load(Ordering::Relaxed);
        let is_settled = match about {
            About::Request => state.unsettled.has_no_request(),
            About::Anything => state.unsettled.is_nothing(),
        };
        (is_certain && is_settled).then_some(pending.number)
    }

    /// Whether a request with this number waits for its response.
    pub(super) fn waits(&self, number: u64) -> bool {
        self.state().calls.get(number).is_some()
    }

    /// Whether a response can be accepted if other text precedes it on its line.
    pub(super) fn accepts_prefixed(&self) -> bool {
        let is_sole = || !self.is_common.load(Ordering::Relaxed) && self.state().calls.only().is_some();
        !self.has_answered() || is_sole()
    }

    /// Records that the requests come from several callers, although they share one session.
    pub(super) fn set_common(&self) {
        self.is_common.store(true, Ordering::Relaxed);
    }

    /// Records the sending of a message that needs no response.
    fn note(&self) {
        let mut state = self.state();
        let next = state.calls.next_place();
        state.unsettled.note(next);
    }

    /// Whether a request has recently been sent with this number.
    pub(super) fn was_given(&self, number: u64) -> bool {
        self.state().calls.place(number).is_some()
    }

    /// Returns the stream and the caller's token for the progress of a request, and extends the deadline of the
    /// request.
    pub(super) fn progress(&self, number: u64) -> Option<Progress> {
        let mut state = self.state();
        if let Some(pending) = state.calls.progress(number, Instant::now()) {
            let stream = Some(Arc::clone(&pending.stream));
            return Some(Progress { stream, token: pending.token.clone()? });
        }
        let place = state.calls.place(number)?;
        state.retired.get(&place).cloned().map(|token| Progress { stream: None, token })
    }

    /// The stream of the newest waiting request for which `is_good` is true. A message that does not identify
    /// its request most likely belongs to the newest one.
    pub(super) fn newest_stream(&self, is_good: impl Fn(&Arc<Stream>) -> bool) -> Option<Arc<Stream>> {
        let state = self.state();
        state.calls.iter().rev().map(|pending| &pending.stream).find(|stream| is_good(stream)).cloned()
    }

    /// The only waiting request of a session to which the caller has given this id. If two requests have the same
    /// id, none is returned, because cancelling the wrong one would harm its caller.
    pub(super) fn find(&self, client: &Client, id: &str) -> Option<u64> {
        let key = IdKey::of(id);
        let state = self.state();
        let mut found = state.calls.iter().filter(|pending| pending.is_of(client) && pending.has_id(id, key));
        let pending = found.next()?;
        (found.next().is_none() && !pending.caller.is_initialize).then_some(pending.number)
    }

    /// Ends the session of a client. `why` is logged, and waiting requests fail with `message`. If this is the
    /// session's own child, the child is stopped.
    pub(super) fn end_session(&self, client: &Client, why: &str, message: &str) {
        client.close(why, || {
            if matches!(self.audience, Audience::Client(_)) {
                self.child.stop();
                self.fail_all(Some(client), message);
            }
        });
    }

    /// Fails all waiting requests, either of every client or of the given one.
    pub(super) fn fail_all(&self, client: Option<&Client>, message: &str) {
        let failed = self.state().abandon(|pending| client.is_none_or(|client| pending.is_of(client)));
        for pending in failed {
            pending.fail(Code::InternalError, message);
        }
    }

    /// Fails the requests that have waited for too long, and cancels them in the child. Returns whether
    /// `initialize` was one of them.
    pub(super) fn expire(&self, now: Instant) -> bool {
        self.log.tell(now);
        // The client and not the child can be the reason why a request takes so long.
        let is_excused =
            |pending: &Pending| pending.caller.client.excuses(pending.started, pending.timeout, now);
        let late = self.state().abandon(|pending| pending.is_late(now, is_excused));
        let mut lost_initialize = false;
        for pending in late {
            self.metrics.requests_timed_out_total.add();
            // `initialize` must not be cancelled (2025-11-25, "Cancellation").
            let setting = if pending.caller.is_initialize {
                lost_initialize = true;
                self.launcher.child_was_silent(&self.child, pending.timeout);
                "START_TIMEOUT"
            } else {
                pending.log_lateness(&self.log, now);
                self.cancel(pending.number, "timed out");
                "REQUEST_TIMEOUT"
            };
            let why = pending.lateness(setting);
            pending.fail(Code::InternalError, &why);
        }
        lost_initialize
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
