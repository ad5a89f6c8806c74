//! Passes each message from a child to the one stream that it belongs to (2025-11-25, "Multiple Connections").

use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, ENDED};
use super::link::{About, Audience, Caller, Link, Pending, Progress};
use super::questions::TOO_MANY_QUESTIONS;
use crate::budget::{TOO_MANY_ANSWERS, of_child};
use crate::child::Account;
use crate::conversation::{self, Answer, Link as _, relayed};
use crate::protocol::{
    Code, Message, Outgoing, Patch, Span, is_about_a_request, own_number, peek_call, peek_cancelled,
    peek_initialize_result, peek_progress,
};
use crate::stream::Stream;

/// Maximum time for which a client that does not read can block its own child.
const PATIENCE: Duration = Duration::from_secs(30);

/// Maximum time for which a response waits for memory from the budget for clients. A client that reads frees
/// some soon.
const PAYMENT_PATIENCE: Duration = Duration::from_secs(5);

/// The error for a response that could not be processed.
const UNREADABLE: &str = "The MCP server's response could not be read.";

impl conversation::Link for Link {
    type Caller = Caller;

    fn account(&self) -> Account {
        let reservation = match owner(self) {
            Some(client) => client.reservation().sibling(),
            None => self.answers.reservation_of_child(self.child.number),
        };
        Account { reservation, patience: self.patience() }
    }

    fn patience(&self) -> Duration {
        if owner(self).is_some() { PAYMENT_PATIENCE } else { Duration::ZERO }
    }

    fn owner(&self) -> String {
        match owner(self) {
            Some(client) => client.owner.clone(),
            None => of_child(self.child.number),
        }
    }

    fn accepts_prefixed(&self) -> bool {
        self.accepts_prefixed()
    }

    fn take(&self, number: u64) -> Option<Pending> {
        self.take(number)
    }

    fn waits(&self, number: u64) -> bool {
        self.waits(number)
    }

    fn was_given(&self, number: u64) -> bool {
        self.was_given(number)
    }

    fn sole(&self) -> Option<u64> {
        self.only(About::Request)
    }

    fn blamed(&self, error: &Message<'_>) -> Option<u64> {
        if is_about_a_request(error) { self.only(About::Anything) } else { None }
    }

    fn say(&self, text: &str) {
        self.say(text);
    }

    fn fail(&self, number: u64, why: &str) {
        let Some(pending) = self.take(number) else { return };
        let is_initialize = pending.caller.is_initialize;
        let (client, stream) = (Arc::clone(&pending.caller.client), Arc::clone(&pending.stream));
        pending.fail(Code::InternalError, why);
        if is_initialize {
            not_initialized(self, &client, &stream);
        }
    }

    async fn answer(self: &Arc<Self>, pending: Pending, mut answer: Answer<'_>) {
        let (client, stream) = (Arc::clone(&pending.caller.client), Arc::clone(&pending.stream));
        let is_initialize = pending.caller.is_initialize;
        let greeting = if is_initialize { peek_initialize_result(answer.message) } else { None };
        let version = greeting.and_then(|(_, version)| version);
        if is_initialize {
            self.set_answered();
            // The response contains the session's id only if the session has a revision by now.
            if let Some(version) = version {
                client.set_version(version);
            }
        }
        let Some(data) = relayed(self, &client.owner, &answer, &pending.id).await else {
            pending.fail(Code::InternalError, UNREADABLE);
            if is_initialize && version.is_none() {
                not_initialized(self, &client, &stream);
            }
            return;
        };
        wait_for_reader(self, &stream).await;
        let own = || client.reservation().sibling();
        let (reservation, patience) = match self.audience {
            Audience::Client(_) => (answer.reservation.take().unwrap_or_else(own), PAYMENT_PATIENCE),
            // The memory of the line belongs to the child.
            Audience::Nobody => (own(), Duration::ZERO),
        };
        match reservation.count_within(data, patience).await {
            Some(data) => pending.answer(data),
            None => pending.fail(Code::Refused, TOO_MANY_ANSWERS),
        }
        if is_initialize && version.is_none() {
            not_initialized(self, &client, &stream);
        }
    }

    async fn request(self: &Arc<Self>, message: &Message<'_>, method: &str, id: &Span) {
        let (span, id) = (id, message.at(id));
        // The request is checked first, because clients silently drop messages that the schema forbids.
        if let Err(error) = peek_call(message) {
            return self.refuse_unreadable(id.as_bytes(), &error.to_string());
        }
        let Some(client) = owner(self) else {
            return answer_for_nobody(self, method, id);
        };
        let stream = any_stream(self, &client);
        let Some(shown) = client.expect_answer(id, method, &stream) else {
            return self.refuse(id.as_bytes(), Code::Refused, TOO_MANY_QUESTIONS);
        };
        let patch = Patch { span: span.clone(), with: shown.as_bytes() };
        if !push(self, &stream, message, &mut [patch]).await {
            client.withdrawn(id);
            self.refuse(id.as_bytes(), Code::Refused, TOO_MANY_ANSWERS);
        }
    }

    async fn notification(self: &Arc<Self>, message: &Message<'_>, method: &str) {
        match method {
            "notifications/progress" => progress(self, message).await,
            "notifications/cancelled" => cancelled(self, message).await,
            other => notification(self, message, other).await,
        }
    }

    fn refuse_unreadable(&self, id: &[u8], why: &str) {
        // The child would take an error for the answer to a question with the same id.
        if owner(self).is_some_and(|client| asks(&client, id)) {
            return self.log.line(
                id,
                why,
                "an unreadable request from the child has the id of a waiting question",
            );
        }
        self.refuse(id, Code::InvalidRequest, &format!("The request is not passed on. {why}"));
    }

    fn ended(&self, reason: String) {
        self.fail_all(None, &self.die(reason));
        if let Some(client) = owner(self) {
            self.end_session(&client, "the child is gone", ENDED);
        }
    }
}

/// Whether the child would accept a response to a request with this id as the response to a question.
fn asks(client: &Client, id: &[u8]) -> bool {
    std::str::from_utf8(id).is_ok_and(|id| client.is_asked(id))
}

/// Ends a session whose `initialize` failed. This must follow the response to the client, because a closed
/// stream accepts no more messages.
fn not_initialized(link: &Link, client: &Client, stream: &Stream) {
    link.end_session(client, "initialize failed", ENDED);
    stream.wake();
}

async fn progress(link: &Arc<Link>, message: &Message<'_>) {
    let span = peek_progress(message).ok().flatten();
    let ours = span.as_ref().and_then(|span| own_number(message.at(span).as_bytes()));
    let (Some(span), Some(Progress { stream, token })) = (span, ours.and_then(|ours| link.progress(ours)))
    else {
        return link.drop_message("progress for an unknown token");
    };
    let patches = &mut [Patch { span, with: &token }];
    match (stream, owner(link)) {
        (Some(stream), _) => {
            push(link, &stream, message, patches).await;
        }
        (None, Some(client)) => {
            push(link, client.get_stream(), message, patches).await;
        }
        (None, None) => link.drop_message("progress after the response"),
    }
}

/// The stream for a message that does not identify its request. It is, in this order of preference: the stream
/// of a call that the client is reading, the GET stream if the client is reading it, or the stream of a call
/// that the client might resume.
fn any_stream(link: &Link, client: &Client) -> Arc<Stream> {
    let get = client.get_stream();
    let running = link.newest_stream(|stream| stream.is_connected());
    let kept = || link.newest_stream(|stream| client.keeps(stream)).filter(|_| !get.is_connected());
    running.or_else(kept).unwrap_or_else(|| Arc::clone(get))
}

/// Responds to a request from a shared child. Only a ping succeeds, because it is unknown which client should
/// handle any other request.
fn answer_for_nobody(link: &Link, method: &str, id: &str) {
    if method == "ping" {
        return link.say(&Outgoing::Result { id, result: "{}" }.text());
    }
    let why = "This server is shared between clients, so it cannot send requests to them.";
    link.refuse(id.as_bytes(), Code::MethodNotFound, why);
}

/// Called when the child cancels one of its own requests. The cancellation is sent on the stream of that
/// request.
async fn cancelled(link: &Arc<Link>, message: &Message<'_>) {
    let id = peek_cancelled(message).ok().flatten();
    let (Some(span), Some(client)) = (id, owner(link)) else {
        return link.drop_message("a cancellation that belongs to no request");
    };
    let id = message.at(&span);
    let (stream, shown) =
        client.withdrawn(id).unwrap_or_else(|| (Arc::clone(client.get_stream()), id.to_owned()));
    let stream = if stream.is_complete() { Arc::clone(client.get_stream()) } else { stream };
    let patch = Patch { span, with: shown.as_bytes() };
    push(link, &stream, message, &mut [patch]).await;
}

/// Passes on a notification. Notifications of changes to lists and resources do not belong to any request. All
/// other notifications, such as log messages, belong to a request in progress.
async fn notification(link: &Arc<Link>, message: &Message<'_>, method: &str) {
    let Some(client) = owner(link) else {
        return link.drop_message("a notification from a shared child");
    };
    let is_change = method.ends_with("/list_changed") || method == "notifications/resources/updated";
    let stream = if is_change && client.get_stream().is_connected() {
        Arc::clone(client.get_stream())
    } else {
        any_stream(link, &client)
    };
    push(link, &stream, message, &mut []).await;
}

/// Sends a message on a stream, with some values replaced. The message is created only when it can be sent, so that
/// the message and the line from which it is created are in memory together for as short a time as possible. Returns
/// false if the message was dropped because there was no memory for it.
async fn push(
    link: &Arc<Link>,
    stream: &Arc<Stream>,
    message: &Message<'_>,
    patches: &mut [Patch<'_>],
) -> bool {
    wait_for_reader(link, stream).await;
    let data = link.rewritten(stream.owner(), message, patches).await;
    let is_taken = data.is_some_and(|data| stream.tell(data.into()));
    if !is_taken {
        link.drop_message("there is no memory for this message");
    }
    is_taken
}

/// Applies back-pressure: a client that does not read blocks its own child for a while, and no other child.
async fn wait_for_reader(link: &Link, stream: &Arc<Stream>) {
    let patience = match link.audience {
        Audience::Client(_) => PATIENCE,
        Audience::Nobody => Duration::ZERO,
    };
    if stream.has_room() {
        return;
    }
    let wait = async {
        while !stream.has_room() {
            stream.drained().await;
        }
    };
    if tokio::time::timeout(patience, wait).await.is_err() {
        link.metrics.streams_cut_total.add();
        link.log.client_does_not_read(stream.id);
        stream.cut();
    }
}

fn owner(link: &Link) -> Option<Arc<Client>> {
    match &link.audience {
        Audience::Client(client) => client.upgrade(),
        Audience::Nobody => None,
    }
}
