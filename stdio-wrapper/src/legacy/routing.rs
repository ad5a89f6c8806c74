//! Reads one child and hands each message to the one stream that it belongs to (2025-11-25, "Multiple Connections").

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::link::{Audience, Link, Progress};
use super::session::Session;
use crate::child::{Decoder, Exit, Frame, Frames, Output, read_frames};
use crate::protocol::{
    Code, Kind, Message, Patch, Span, Text, error_message, parse_line, peek_cancelled,
    peek_initialize_result, peek_progress, rewrite,
};
use crate::stream::Stream;

/// How long a client that does not read may hold up its own child.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hands each frame of one child on.
struct Routes(Arc<Link>);

impl Frames for Routes {
    async fn frame(&mut self, frame: Frame) {
        deliver(&self.0, frame).await;
    }
}

/// Reads until the child is gone, then tells everyone who waits.
pub(super) async fn read(link: Arc<Link>, output: Output, decoder: Box<dyn Decoder>) {
    let exit = read_frames(&link.child, output, decoder, &mut Routes(Arc::clone(&link))).await;
    if !link.has_answered() && exit.as_ref().is_none_or(|exit| !exit.is_wanted) {
        link.launcher.child_failed();
    }
    link.died(Exit::reason(exit.as_ref()));
    link.child.stop();
    if let Audience::Session(session) = &link.audience
        && let Some(session) = session.upgrade()
    {
        session.end("the child is gone");
    }
}

async fn deliver(link: &Arc<Link>, frame: Frame) {
    match frame {
        Frame::Message(text) => match parse_line(&text) {
            Ok(message) => dispatch(link, &text, &message).await,
            Err(error) => junk(link, &text, &error.to_string()),
        },
        Frame::Cut(text) => junk(link, &text, "the output ended within a line"),
        Frame::Oversized { id, length } => oversized(link, id.as_deref(), length),
    }
}

fn junk(link: &Link, text: &[u8], why: &str) {
    link.metrics.child_junk_lines_total.add();
    // A flood of junk must not become a flood of log lines.
    if link.may_log_junk() {
        let shown = String::from_utf8_lossy(text.get(..text.len().min(200)).unwrap_or_default()).into_owned();
        tracing::warn!(
            child = link.child.number,
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
        pending.fail(
            Code::InternalError,
            &format!("The MCP server's answer has {length} bytes, which is over the limit. Raise MAX_LINE, or ask for less."),
        );
    }
}

async fn dispatch(link: &Arc<Link>, text: &Bytes, message: &Message<'_>) {
    match &message.kind {
        Kind::Response { id: Some(id), .. } => answer(link, text, message, id).await,
        Kind::Response { id: None, .. } => drop_message(link, "an error without an id"),
        Kind::Request { method, id } => request(link, message, method, id).await,
        Kind::Notification { method } => match method.as_ref() {
            "notifications/progress" => progress(link, message).await,
            "notifications/cancelled" => cancelled(link, message).await,
            other => notification(link, message, other).await,
        },
    }
}

/// Gives the answer to whom it belongs, under the id that the caller used.
async fn answer(link: &Arc<Link>, text: &Bytes, message: &Message<'_>, id: &Span) {
    let Some(pending) = number(message.at(id).as_bytes()).and_then(|number| link.take(number)) else {
        return drop_message(link, "an answer that nobody waits for");
    };
    if pending.is_initialize {
        link.set_answered();
        pending.session.initialized(peek_initialize_result(message).and_then(|(_, version)| version));
    }
    let data = Text::splice(text, id, &pending.id);
    room(link, &pending.stream).await;
    pending.answer(data);
}

async fn progress(link: &Arc<Link>, message: &Message<'_>) {
    let span = peek_progress(message).ok().flatten();
    let ours = span.as_ref().and_then(|span| number(message.at(span).as_bytes()));
    let (Some(span), Some(Progress { stream, token })) = (span, ours.and_then(|ours| link.progress(ours)))
    else {
        return drop_message(link, "progress for a token that nobody gave");
    };
    let data = rewrite(message.text.as_bytes(), &mut [Patch { span, with: &token }]);
    match (stream, owner(link)) {
        (Some(stream), _) => push(link, &stream, data).await,
        (None, Some(session)) => push(link, session.get_stream(), data).await,
        (None, None) => drop_message(link, "progress after the answer"),
    }
}

/// A request of the child's own: sampling, elicitation, roots, ping.
async fn request(link: &Arc<Link>, message: &Message<'_>, method: &str, id: &Span) {
    let id = message.at(id);
    let Some(session) = owner(link) else {
        return answer_for_nobody(link, method, id);
    };
    let stream = link.newest_stream().unwrap_or_else(|| Arc::clone(session.get_stream()));
    if !session.expect_answer(id, &stream) {
        let text =
            error_message(Some(id.as_bytes()), Code::Refused, "Too many requests wait for this client.");
        return link.say(&String::from_utf8_lossy(&text));
    }
    push(link, &stream, rewrite(message.text.as_bytes(), &mut [])).await;
}

/// A shared child has nobody to ask, except whether anyone is there.
fn answer_for_nobody(link: &Link, method: &str, id: &str) {
    if method == "ping" {
        return link.say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#));
    }
    let why = "This server is shared between clients, so none of them can be asked.";
    link.say(&String::from_utf8_lossy(&error_message(Some(id.as_bytes()), Code::MethodNotFound, why)));
}

/// The child takes a request of its own back: on the stream that the request went out on.
async fn cancelled(link: &Arc<Link>, message: &Message<'_>) {
    let id = peek_cancelled(message).ok().flatten();
    let (Some(id), Some(session)) = (id, owner(link)) else {
        return drop_message(link, "a cancellation that belongs to nobody");
    };
    let stream = session.answered(message.at(&id)).filter(|stream| !stream.is_complete());
    let stream = stream.unwrap_or_else(|| Arc::clone(session.get_stream()));
    push(link, &stream, rewrite(message.text.as_bytes(), &mut [])).await;
}

/// Log messages and the like belong to the request that runs; changes of lists and resources to no request.
async fn notification(link: &Arc<Link>, message: &Message<'_>, method: &str) {
    let Some(session) = owner(link) else {
        return drop_message(link, "a notification of a shared child");
    };
    let is_change = method.ends_with("/list_changed") || method == "notifications/resources/updated";
    let running = if is_change && session.get_stream().is_connected() { None } else { link.newest_stream() };
    let stream = running.unwrap_or_else(|| Arc::clone(session.get_stream()));
    push(link, &stream, rewrite(message.text.as_bytes(), &mut [])).await;
}

async fn push(link: &Link, stream: &Arc<Stream>, data: Bytes) {
    room(link, stream).await;
    stream.push(data.into(), false);
}

/// Back-pressure: a client that does not read holds up its own child, for a while, and nobody else's.
async fn room(link: &Link, stream: &Arc<Stream>) {
    let patience = match link.audience {
        Audience::Session(_) => PATIENCE,
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
        tracing::warn!(
            child = link.child.number,
            stream = stream.id,
            "a client does not read its stream, so it is disconnected"
        );
        stream.cut();
    }
}

fn owner(link: &Link) -> Option<Arc<Session>> {
    match &link.audience {
        Audience::Session(session) => session.upgrade(),
        Audience::Nobody => None,
    }
}

fn drop_message(link: &Link, what: &str) {
    link.metrics.child_messages_dropped_total.add();
    tracing::debug!(child = link.child.number, what, "a message of the child was dropped");
}

/// An id or token of ours, exactly as we wrote it.
fn number(text: &[u8]) -> Option<u64> {
    let is_ours =
        matches!(text, [b'1'..=b'9', rest @ ..] if rest.len() < 19 && rest.iter().all(u8::is_ascii_digit));
    std::str::from_utf8(text).ok().filter(|_| is_ours)?.parse().ok()
}
