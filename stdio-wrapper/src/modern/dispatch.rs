//! Reads one child and hands each message to the one request that it belongs to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::time::Instant;

use super::SUBSCRIPTION;
use super::link::Link;
use super::pending::Waits;
use crate::child::{Decoder, Exit, Frame, Frames, Output, read_frames};
use crate::protocol::{
    Code, Kind, Message, Patch, Span, Text, error_message, members, object, parse_line, peek_cancelled,
    peek_progress, rewrite, span_in,
};
use crate::stream::Stream;

/// Hands each frame of one child on.
struct Routes(Arc<Link>);

impl Frames for Routes {
    async fn frame(&mut self, frame: Frame) {
        deliver(&self.0, frame);
    }
}

/// Reads until the child is gone, then tells everyone who waits.
pub(super) async fn read(link: Arc<Link>, output: Output, decoder: Box<dyn Decoder>) {
    let exit = read_frames(&link.child, output, decoder, &mut Routes(Arc::clone(&link))).await;
    let is_wanted = exit.as_ref().is_some_and(|exit| exit.is_wanted);
    if !link.has_answered() && !is_wanted && !link.is_probe.load(Ordering::Relaxed) {
        link.launcher.child_failed();
    }
    link.died(Exit::reason(exit.as_ref()));
    link.child.stop();
}

fn deliver(link: &Arc<Link>, frame: Frame) {
    match frame {
        Frame::Message(text) => match parse_line(&text) {
            Ok(message) => dispatch(link, &text, &message),
            Err(error) => junk(link, &text, &error.to_string()),
        },
        Frame::Cut(text) => junk(link, &text, "the output ended within a line"),
        Frame::Oversized { id, length } => oversized(link, id.as_deref(), length),
    }
}

fn junk(link: &Link, text: &[u8], why: &str) {
    link.metrics.child_junk_lines_total.add();
    if link.may_log_junk() {
        let shown = String::from_utf8_lossy(text.get(..text.len().min(200)).unwrap_or_default()).into_owned();
        let child = link.child.number;
        tracing::warn!(
            child,
            line = shown,
            why,
            "a line on the child's standard output is no MCP message and was skipped"
        );
    }
}

fn oversized(link: &Link, id: Option<&[u8]>, length: usize) {
    link.metrics.child_oversized_lines_total.add();
    tracing::warn!(
        child = link.child.number,
        length,
        "a message of the child is over MAX_LINE and was dropped"
    );
    if let Some(pending) = id.and_then(number).and_then(|number| link.take(number)) {
        link.metrics.requests_failed_total.add();
        let why = format!(
            "The MCP server's answer has {length} bytes, which is over the limit. Raise MAX_LINE, or ask for less."
        );
        pending.stream.push(error_message(Some(&pending.id), Code::InternalError, &why).into(), true);
    }
}

fn dispatch(link: &Arc<Link>, text: &Bytes, message: &Message<'_>) {
    match &message.kind {
        Kind::Response { id: Some(id), .. } => answer(link, text, message, id),
        Kind::Response { id: None, .. } => drop_message(link, "an error without an id"),
        // The stateless revision has no requests from the server (2026-07-28, "stdio").
        Kind::Request { .. } => {
            let child = link.child.number;
            tracing::warn!(
                child,
                "a modern child sent a request, which the protocol forbids; it was dropped"
            );
            drop_message(link, "a request of a modern child");
        }
        Kind::Notification { method } => match method.as_ref() {
            "notifications/progress" => progress(link, message),
            "notifications/cancelled" => cancelled(link, message),
            "notifications/message" => match link.log_stream() {
                Some(stream) => push(link, &stream, rewrite(message.text.as_bytes(), &mut [])),
                None => drop_message(link, "a log message that cannot be told to be one request's"),
            },
            other => notification(link, message, other),
        },
    }
}

/// Gives the answer to whom it belongs, under the id that the caller used.
fn answer(link: &Arc<Link>, text: &Bytes, message: &Message<'_>, id: &Span) {
    link.set_answered();
    let Some(pending) = number(message.at(id).as_bytes()).and_then(|number| link.take(number)) else {
        return drop_message(link, "an answer that nobody waits for");
    };
    if let (Some((key, generation)), Some(result)) = (&pending.keep, &message.result) {
        link.lists.keep(key, *generation, message.at(result), Instant::now());
    }
    let subscription = message.result.as_ref().filter(|_| pending.waits == Waits::Subscription);
    let data = match subscription.and_then(|result| subscription_in(message, message.at(result))) {
        None => Text::splice(text, id, &pending.id),
        Some(span) => {
            let mut patches =
                [Patch { span: id.clone(), with: &pending.id }, Patch { span, with: &pending.id }];
            rewrite(text, &mut patches).into()
        }
    };
    pending.stream.push(data, true);
}

fn progress(link: &Arc<Link>, message: &Message<'_>) {
    let span = peek_progress(message).ok().flatten();
    let found = span.and_then(|span| {
        let number = number(message.at(&span).as_bytes())?;
        link.with(number, |pending| {
            Link::extend(pending);
            Some((Arc::clone(&pending.stream), pending.token.clone()?))
        })
        .flatten()
        .map(|(stream, token)| (stream, token, span))
    });
    match found {
        Some((stream, token, span)) => {
            push(link, &stream, rewrite(message.text.as_bytes(), &mut [Patch { span, with: &token }]));
        }
        None => drop_message(link, "progress for a token that nobody gave"),
    }
}

/// The child ends a subscription (on stdio it has no other way); over HTTP its completion says so.
fn cancelled(link: &Arc<Link>, message: &Message<'_>) {
    let id = peek_cancelled(message).ok().flatten();
    let ours = id.and_then(|id| number(message.at(&id).as_bytes()));
    let is_subscription = |number| link.with(number, |pending| pending.waits == Waits::Subscription);
    match ours.filter(|number| is_subscription(*number) == Some(true)).and_then(|number| link.take(number)) {
        Some(pending) => pending.stream.push(pending.completion().into(), true),
        None => drop_message(link, "a cancellation that ends no subscription"),
    }
}

/// Whatever stands on a subscription names it; what names none is for nobody.
fn notification(link: &Arc<Link>, message: &Message<'_>, method: &str) {
    if method == "notifications/tools/list_changed" {
        link.tools.invalidate();
    }
    link.lists.changed(method);
    let span = message.params_text().and_then(|params| subscription_in(message, params));
    let found = span.and_then(|span| {
        let number = subscription_number(message.at(&span))?;
        link.with(number, |pending| {
            let is_listening = pending.waits == Waits::Subscription;
            is_listening.then(|| (Arc::clone(&pending.stream), pending.id.clone()))
        })
        .flatten()
        .map(|(stream, id)| (stream, id, span))
    });
    match found {
        Some((stream, id, span)) => {
            push(link, &stream, rewrite(message.text.as_bytes(), &mut [Patch { span, with: &id }]));
        }
        None => drop_message(link, "a notification that names no subscription"),
    }
}

/// Where the subscription's id stands in params or a result.
fn subscription_in(message: &Message<'_>, within: &str) -> Option<Span> {
    let [meta] = members(object(Some(within))?, ["_meta"]).ok()?;
    let [id] = members(object(meta)?, [SUBSCRIPTION]).ok()?;
    id.map(|id| span_in(message.text, id))
}

/// A client that does not read must not hold up a child that serves others too: it is disconnected.
fn push(link: &Link, stream: &Arc<Stream>, data: Bytes) {
    if !stream.has_room() {
        link.metrics.streams_cut_total.add();
        tracing::warn!(child = link.child.number, "a client does not read its stream, so it is disconnected");
        return stream.cut();
    }
    stream.push(data.into(), false);
}

fn drop_message(link: &Link, what: &str) {
    link.metrics.child_messages_dropped_total.add();
    tracing::debug!(child = link.child.number, what, "a message of the child was dropped");
}

/// A subscription id of ours; some servers write every id as a string here.
fn subscription_number(text: &str) -> Option<u64> {
    number(text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text).as_bytes())
}

/// An id or token of ours, exactly as we wrote it.
fn number(text: &[u8]) -> Option<u64> {
    let is_ours =
        matches!(text, [b'1'..=b'9', rest @ ..] if rest.len() < 19 && rest.iter().all(u8::is_ascii_digit));
    std::str::from_utf8(text).ok().filter(|_| is_ours)?.parse().ok()
}
