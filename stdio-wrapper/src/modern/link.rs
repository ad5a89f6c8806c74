//! A conversation with a child that serves many clients at once, without sessions.
//!
//! Independent clients can use the same ids, progress tokens and subscription ids. Therefore the number of a
//! request replaces all three. The client's own values are put back into messages to the client (attack 105).

mod denied;
mod ending;
mod own;
mod tools;

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::check::Request;
use super::lists::{Key, Lists};
use super::pending::{Caller, Pending, Waits};
use super::tools::Tools;
use crate::budget::TOO_MANY_ANSWERS;
use crate::child::Width;
use crate::conversation::{Call, Calls, Conversation};
use crate::policy::{Denied, Permit};
use crate::protocol::{Code, Outgoing, error_message};
use crate::stream::Stream;

/// The limits and timeouts of the requests to one child.
#[derive(Debug)]
pub(super) struct LinkSettings {
    /// Size of the list cache, in bytes. With 0, nothing is cached.
    pub(super) list_cache: usize,
    /// Maximum time for a request without a response or progress.
    pub(super) request_timeout: Duration,
    /// Maximum time for the child's first response.
    pub(super) start_timeout: Duration,
}

/// A child that supports the stateless revision itself, and the requests waiting for its responses.
#[derive(Debug)]
pub(crate) struct Link {
    conversation: Conversation,
    settings: LinkSettings,
    pub(super) tools: Tools,
    /// Cached results that can be used for later requests.
    pub(super) lists: Lists,
    calls: Mutex<Calls<Caller>>,
    /// Whether it is still unknown which revisions the child supports. While it is, an exit of the child
    /// does not count as a failure.
    pub(super) is_probe: AtomicBool,
    last_used: Mutex<Instant>,
}

/// A request in progress. Dropping it cancels the request in the child (2026-07-28, "Cancellation": closing the
/// response stream cancels the request).
#[derive(Debug)]
pub struct Ticket {
    link: Arc<Link>,
    /// The number of the request, or 0 if it was never sent.
    number: Option<u64>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(number) = self.number
            && self.link.take(number).is_some()
        {
            self.link.metrics.requests_cancelled_total.add();
            self.link.cancel(number, "the client has disconnected");
        }
    }
}

impl Deref for Link {
    type Target = Conversation;

    fn deref(&self) -> &Conversation {
        &self.conversation
    }
}

impl Link {
    pub(super) fn new(conversation: Conversation, settings: LinkSettings, is_probe: bool) -> Self {
        let calls = Calls::new(conversation.launcher.numbers(Width::Long));
        Self {
            conversation,
            tools: Tools::default(),
            lists: Lists::new(settings.list_cache),
            settings,
            calls: Mutex::new(calls),
            is_probe: AtomicBool::new(is_probe),
            last_used: Mutex::new(Instant::now()),
        }
    }

    /// Sends a client's permitted request, or responds to it with a cached list. Its response and all related
    /// messages are sent on `stream`. The child does not get the parts of the request that the rules deny.
    pub(crate) async fn call(
        self: &Arc<Self>,
        request: &Request<'_>,
        permit: &Permit<'_>,
        owner: Arc<str>,
        stream: &Arc<Stream>,
    ) -> Ticket {
        match Denied::of(request.message, &permit.gate()) {
            Some(denied) => self.call_without(denied, request, permit, owner, stream).await,
            None => self.call_as_it_is(request, permit, owner, stream).await,
        }
    }

    async fn call_as_it_is(
        self: &Arc<Self>,
        request: &Request<'_>,
        permit: &Permit<'_>,
        owner: Arc<str>,
        stream: &Arc<Stream>,
    ) -> Ticket {
        let (message, id) = (request.message, request.id_text());
        if !message.has_method(permit.method()) {
            let why = "This request was permitted for another method.";
            stream.push(error_message(Some(id.as_bytes()), Code::InternalError, why).into(), true);
            return self.unsent();
        }
        let key = if self.lists.is_on() { Key::of(request, &owner) } else { None };
        if let Some(key) = &key {
            if let Some(result) = self.lists.get(key, Instant::now()) {
                self.metrics.list_cache_hits_total.add();
                let answer = Outgoing::Result { id, result: &result }.bytes();
                let counted = self.answers.count(&owner, answer.into());
                let refused = || error_message(Some(id.as_bytes()), Code::InternalError, TOO_MANY_ANSWERS);
                stream.push(counted.unwrap_or_else(|| refused().into()), true);
                return self.unsent();
            }
            self.metrics.list_cache_misses_total.add();
        }
        let caller = Caller {
            owner,
            waits: Waits::of(&request.method),
            wants_logs: request.meta.log_level.is_some(),
            keep: key.map(|key| (key, self.lists.generation())),
        };
        let (token, timeout) = (request.meta.progress_token.clone(), self.settings.request_timeout);
        self.dispatch(&Call { message, id: request.id.clone(), token, stream, timeout }, caller).await
    }

    async fn dispatch(self: &Arc<Self>, call: &Call<'_>, caller: Caller) -> Ticket {
        let (owner, waits) = (Arc::clone(&caller.owner), caller.waits);
        self.metrics.requests_total.add();
        self.touch();
        let given = {
            let mut calls = self.calls();
            let given = calls.add(call, caller, Instant::now());
            if given.is_some() && waits == Waits::Answer {
                self.metrics.requests_in_flight.add();
            }
            given
        };
        let Some(given) = given else {
            self.metrics.requests_failed_total.add();
            let why = "This server cannot generate random numbers.";
            let answer = error_message(Some(call.id_text().as_bytes()), Code::InternalError, why);
            call.stream.push(answer.into(), true);
            return self.unsent();
        };
        let ticket = Ticket { link: Arc::clone(self), number: Some(given.number) };
        let is_wanted = || self.with(given.number, |_| ()).is_some();
        if let Err(why) = self.conversation.request(&owner, call, given, is_wanted).await {
            self.fail(given.number, &why);
        }
        ticket
    }

    /// The ticket of a request that the child does not get.
    fn unsent(self: &Arc<Self>) -> Ticket {
        Ticket { link: Arc::clone(self), number: None }
    }

    /// Removes and returns a waiting request.
    pub(super) fn take(&self, number: u64) -> Option<Pending> {
        let pending = self.calls().remove(number)?;
        if pending.caller.waits == Waits::Answer {
            self.metrics.requests_in_flight.sub();
        }
        self.touch();
        Some(pending)
    }

    /// The number of the probe, which is the first request to a child. After the probe, the child serves many
    /// callers, and an error without an id could refer to a message from any of them.
    pub(super) fn probe(&self) -> Option<u64> {
        let calls = self.calls();
        let is_first = self.is_probe.load(Ordering::Relaxed) && calls.next_place() == 1;
        calls.only().filter(|_| is_first).map(|pending| pending.number)
    }

    /// Whether a request has recently been sent with this number.
    pub(super) fn was_given(&self, number: u64) -> bool {
        self.calls().place(number).is_some()
    }

    /// Calls `use_it` with the waiting request that has this number, if there is one.
    pub(super) fn with<R>(&self, number: u64, use_it: impl FnOnce(&Pending) -> R) -> Option<R> {
        self.calls().get(number).map(use_it)
    }

    /// Finds the stream and the caller's token for progress of this request, and extends the time of the
    /// request.
    pub(super) fn progress(&self, number: u64) -> Option<(Arc<Stream>, Box<[u8]>)> {
        let mut calls = self.calls();
        let pending = calls.progress(number, Instant::now())?;
        Some((Arc::clone(&pending.stream), pending.token.clone()?))
    }

    /// The stream for log messages from the child. It is the stream of the only request that asked for log
    /// messages, if no request from another caller is in progress. The protocol offers no other way to assign
    /// log messages to a request (2026-07-28, `NotificationMetaObject`).
    pub(super) fn log_stream(&self) -> Option<Arc<Stream>> {
        let all = self.calls();
        let calls = || {
            let answers = all.iter().filter(|pending| pending.caller.waits == Waits::Answer);
            answers.filter(|pending| !pending.caller.owner.is_empty())
        };
        let mut wanting = calls().filter(|pending| pending.caller.wants_logs);
        let one = wanting.next()?;
        let is_certain =
            wanting.next().is_none() && calls().all(|other| other.caller.owner == one.caller.owner);
        is_certain.then(|| Arc::clone(&one.stream))
    }

    /// How long no client has used the child. Returns `None` while it is in use.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let is_used = self.calls().iter().any(|pending| !pending.caller.owner.is_empty());
        let last = *self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        (!is_used).then(|| now.saturating_duration_since(last))
    }

    /// The number of requests that wait for an answer.
    pub(super) fn running(&self) -> usize {
        self.calls().iter().filter(|pending| pending.caller.waits == Waits::Answer).count()
    }

    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn calls(&self) -> MutexGuard<'_, Calls<Caller>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
