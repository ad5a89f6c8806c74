//! Passes each message from a child to the one request that it belongs to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::SUBSCRIPTION;
use super::link::Link;
use super::pending::{Caller, Pending, Waits};
use crate::budget::TOO_MANY_ANSWERS;
use crate::conversation::{self, Answer, Link as _, relayed};
use crate::protocol::{
    Code, Message, Patch, Span, Text, members, object, own_number, peek_cancelled, peek_progress, span_in,
};
use crate::stream::Stream;

impl conversation::Link for Link {
    type Caller = Caller;

    fn accepts_prefixed(&self) -> bool {
        // The child serves many clients. As soon as it has received a message, a line could repeat what one of
        // them has sent.
        !self.has_answered()
    }

    fn responded(&self) {
        self.set_answered();
    }

    fn take(&self, number: u64) -> Option<Pending> {
        self.take(number)
    }

    fn waits(&self, number: u64) -> bool {
        self.with(number, |_| ()).is_some()
    }

    fn was_given(&self, number: u64) -> bool {
        self.was_given(number)
    }

    fn sole(&self) -> Option<u64> {
        self.probe()
    }

    fn blamed(&self, _: &Message<'_>) -> Option<u64> {
        self.probe()
    }

    fn fail(&self, number: u64, why: &str) {
        self.fail(number, why);
    }

    async fn answer(self: &Arc<Self>, pending: Pending, answer: Answer<'_>) {
        let (message, caller) = (answer.message, &pending.caller);
        let subscription = message.result.as_ref().filter(|_| caller.waits == Waits::Subscription);
        let data = match subscription.and_then(|result| subscription_in(message, message.at(result))) {
            None => relayed(self, &caller.owner, &answer, &pending.id).await,
            Some(span) => {
                let mut patches =
                    [Patch { span: answer.id.clone(), with: &pending.id }, Patch { span, with: &pending.id }];
                self.rewritten(&caller.owner, message, &mut patches).await.map(Text::from)
            }
        };
        let Some(data) = data else {
            self.metrics.requests_failed_total.add();
            return pending.fail("The MCP server's response could not be read.");
        };
        if let (Some((key, generation)), Some(result)) = (&caller.keep, &message.result) {
            self.lists.keep(key, *generation, message.at(result), Instant::now());
        }
        if let Some(data) = self.answers.count(&caller.owner, data) {
            pending.stream.push(data, true);
        } else {
            self.metrics.requests_failed_total.add();
            pending.fail(TOO_MANY_ANSWERS);
        }
    }

    async fn request(self: &Arc<Self>, message: &Message<'_>, _: &str, id: &Span) {
        forbidden_request(self, message.at(id).as_bytes());
    }

    async fn notification(self: &Arc<Self>, message: &Message<'_>, method: &str) {
        match method {
            "notifications/progress" => progress(self, message).await,
            "notifications/cancelled" => cancelled(self, message),
            "notifications/message" => match self.log_stream() {
                Some(stream) => push(self, &stream, message, &mut []).await,
                None => self.drop_message("a log message that could belong to several requests"),
            },
            other => notification(self, message, other).await,
        }
    }

    fn refuse_unreadable(&self, id: &[u8], _: &str) {
        forbidden_request(self, id);
    }

    fn may_end_early(&self) -> bool {
        self.is_probe.load(Ordering::Relaxed)
    }

    fn ended(&self, reason: String) {
        self.end_all(&self.die(reason));
    }
}

/// Refuses a request from the child, because the stateless revision has no requests from the server
/// (2026-07-28, "stdio"). The child gets an error, so that the related call does not wait for a response.
fn forbidden_request(link: &Link, id: &[u8]) {
    let why = "the protocol forbids requests from the server";
    link.log.line(id, why, "a modern child sent a request with this id, which was refused");
    let why = "Protocol version 2026-07-28 has no requests from the server. Return an input_required result.";
    link.refuse(id, Code::MethodNotFound, why);
    link.drop_useless("a request from a modern child");
}

async fn progress(link: &Arc<Link>, message: &Message<'_>) {
    let span = peek_progress(message).ok().flatten();
    let number = span.as_ref().and_then(|span| own_number(message.at(span).as_bytes()));
    match (span, number.and_then(|number| link.progress(number))) {
        (Some(span), Some((stream, token))) => {
            push(link, &stream, message, &mut [Patch { span, with: &token }]).await;
        }
        _ => link.drop_message("progress for an unknown token"),
    }
}

/// Called when the child ends a subscription. On stdio, it can do so only with a cancellation. Over HTTP, the
/// client receives a completed result instead.
fn cancelled(link: &Arc<Link>, message: &Message<'_>) {
    let id = peek_cancelled(message).ok().flatten();
    let ours = id.and_then(|id| own_number(message.at(&id).as_bytes()));
    let is_subscription = |number| link.with(number, |pending| pending.caller.waits == Waits::Subscription);
    match ours.filter(|number| is_subscription(*number) == Some(true)).and_then(|number| link.take(number)) {
        Some(pending) => pending.stream.push(pending.completion().into(), true),
        None => link.drop_message("a cancellation that ends no subscription"),
    }
}

/// Passes on a notification. Every notification of a subscription contains its id, and a notification without
/// this id is dropped.
async fn notification(link: &Arc<Link>, message: &Message<'_>, method: &str) {
    if method == "notifications/tools/list_changed" {
        link.tools.invalidate();
    }
    link.lists.changed(method);
    let span = message.meta([SUBSCRIPTION]).ok().and_then(|[id]| Some(span_in(message.text, id?)));
    let found = span.and_then(|span| {
        let number = own_number(message.at(&span).as_bytes())?;
        link.with(number, |pending| {
            let is_listening = pending.caller.waits == Waits::Subscription;
            is_listening.then(|| (Arc::clone(&pending.stream), pending.id.clone()))
        })
        .flatten()
        .map(|(stream, id)| (stream, id, span))
    });
    match found {
        Some((stream, id, span)) => {
            push(link, &stream, message, &mut [Patch { span, with: &id }]).await;
        }
        None => link.drop_message("a notification that names no subscription"),
    }
}

/// The position of the subscription id in params or in a result.
fn subscription_in(message: &Message<'_>, within: &str) -> Option<Span> {
    let [meta] = members(object(Some(within))?, ["_meta"]).ok()?;
    let [id] = members(object(meta)?, [SUBSCRIPTION]).ok()?;
    id.map(|id| span_in(message.text, id))
}

/// Sends a message on a stream. A client that does not read is disconnected, because it must not block a child
/// that also serves other clients.
async fn push(link: &Arc<Link>, stream: &Arc<Stream>, message: &Message<'_>, patches: &mut [Patch<'_>]) {
    if !stream.has_room() {
        link.metrics.streams_cut_total.add();
        link.log.client_does_not_read(stream.id);
        return stream.cut();
    }
    let data = link.rewritten(stream.owner(), message, patches).await;
    if !data.is_some_and(|data| stream.tell(data.into())) {
        link.drop_message("there is no memory for this message");
    }
}
