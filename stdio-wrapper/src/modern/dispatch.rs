//! Reads the output of one child, and passes each message to the one request that it belongs to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::SUBSCRIPTION;
use super::link::Link;
use super::pending::Waits;
use crate::budget::{Reservation, TOO_MANY_ANSWERS, of_child};
use crate::child::{Account, Decoder, Exit, Frame, Frames, Output, read_frames};
use crate::offload::{LARGE, Offload};
use crate::protocol::{
    Code, Kind, Line, Message, Outline, OutlineReader, Patch, Relayed, Salvage, Salvaged, Span, Unreadable,
    error_message, members, mended_length, object, own_number, parse_line, peek_cancelled, peek_progress,
    relay, rewrite, span_in, tidy, too_long, without_lone_surrogates,
};
use crate::stream::Stream;

/// Time in which a valid response can still follow an unusable one. Some servers print a message, over several
/// lines or truncated, before they send it.
const DOUBT: Duration = Duration::from_millis(200);

/// Passes on the frames of one child.
struct Routes {
    link: Arc<Link>,
    salvage: Salvage,
    /// Maximum length of a line, in bytes.
    max_line: usize,
    offload: Arc<Offload>,
}

impl Frames for Routes {
    async fn frame(&mut self, frame: Frame, mut room: Option<Reservation>) {
        match frame {
            Frame::Message(line) if self.has_memory(&line, &mut room).await => self.line(line).await,
            Frame::Message(line) => {
                let mut seen = OutlineReader::default();
                seen.feed(&line);
                self.dropped(seen.outline(), line.len());
            }
            Frame::Cut(text) => junk(&self.link, &text, "the output ended within a line"),
            Frame::Oversized { outline, length } => oversized(&self.link, outline, length, self.max_line),
        }
    }

    fn useless(&self) -> u64 {
        self.link.log.useless()
    }

    fn dropped(&mut self, outline: Outline, _length: usize) {
        drop_message(&self.link, "there is no memory for this line");
        if let Some(message) = outline.unreadable() {
            unreadable(&self.link, message, TOO_MANY_ANSWERS);
        }
    }
}

impl Routes {
    async fn line(&mut self, line: Bytes) {
        // The child serves many clients. Once it has received a message, a line could repeat text that one of
        // them has sent.
        let accepts_prefixed = !self.link.has_answered();
        match self.read(line, accepts_prefixed).await {
            Some(Line::Message(text, parts)) => {
                dispatch(&self.link, text.as_bytes(), &parts.of(&text));
            }
            Some(Line::Doubtful { line, found, why }) => match found {
                Salvaged::Messages(messages) => {
                    self.link.log.line(&line, &why, "a line of the child was corrected");
                    for text in messages.into_iter().map(without_lone_surrogates) {
                        if let Ok(message) = parse_line(&text) {
                            dispatch(&self.link, &text, &message);
                        }
                    }
                }
                Salvaged::Unreadable(message) => {
                    junk(&self.link, &line, &why);
                    unreadable(&self.link, message, &why);
                }
                Salvaged::Nothing => junk(&self.link, &line, &why),
            },
            None => junk(&self.link, b"", "it could not be read"),
        }
    }

    /// Reserves memory for the copy of a large line that is not valid UTF-8. Returns false if there is none.
    async fn has_memory(&self, line: &Bytes, reservation: &mut Option<Reservation>) -> bool {
        let Some(reservation) = reservation else { return true };
        let text = line.clone();
        let measure = move || mended_length(&text);
        let owner = of_child(self.link.child.number);
        let length = self.offload.run_if_large(&owner, line.len(), measure).await;
        length.is_some_and(|length| length == 0 || reservation.grow(length))
    }

    /// Parses a line. Large lines are parsed on other threads, because this takes long enough to delay the
    /// children of other users.
    async fn read(&mut self, line: Bytes, accepts_prefixed: bool) -> Option<Line> {
        if line.len() < LARGE {
            return Some(self.salvage.line(line, accepts_prefixed));
        }
        let owner = of_child(self.link.child.number);
        let mut salvage = std::mem::take(&mut self.salvage);
        let read = move || {
            let read = salvage.line(line, accepts_prefixed);
            (salvage, read)
        };
        let (salvage, read) = self.offload.run(&owner, read).await?;
        self.salvage = salvage;
        Some(read)
    }
}

/// Reads until the child has exited, and then fails all waiting requests.
pub(super) async fn read(
    link: Arc<Link>,
    output: Output,
    decoder: Box<dyn Decoder>,
    (max_line, offload): (usize, Arc<Offload>),
) {
    let mut routes = Routes { link: Arc::clone(&link), salvage: Salvage::default(), max_line, offload };
    let account = Account {
        reservation: link.answers.reservation_of_child(link.child.number),
        patience: Duration::ZERO,
    };
    let exit = read_frames(&link.child, output, decoder, account, &mut routes).await;
    let is_wanted = exit.as_ref().is_some_and(|exit| exit.is_wanted);
    if !link.has_answered() && !is_wanted && !link.is_probe.load(Ordering::Relaxed) {
        link.launcher.child_failed(&link.child);
    }
    link.died(Exit::reason(exit.as_ref()));
    link.child.stop();
}

fn junk(link: &Link, text: &[u8], why: &str) {
    link.metrics.child_junk_lines_total.add();
    link.log.count_useless();
    link.log.line(text, why, "a line on the child's standard output is not an MCP message and was skipped");
}

fn oversized(link: &Arc<Link>, outline: Outline, length: usize, limit: usize) {
    link.metrics.child_oversized_lines_total.add();
    link.log.oversized(length);
    if let Some(message) = outline.unreadable() {
        unreadable(link, message, &too_long(length, limit));
    }
}

/// If an unusable message is a response, fails its request. If it is a request from the child, refuses it.
fn unreadable(link: &Arc<Link>, message: Unreadable, why: &str) {
    match message {
        Unreadable::Response(id) => {
            if let Some(number) = own_number(&id).filter(|number| link.with(*number, |_| ()).is_some()) {
                doubt(link, number, why);
            }
        }
        // The message has already been logged.
        Unreadable::NamelessResponse => {
            if let Some(number) = link.probe() {
                doubt(link, number, why);
            }
        }
        Unreadable::Request(id) => forbidden_request(link, &id),
    }
}

/// Fails a request whose response cannot be used, unless a valid one follows.
fn doubt(link: &Arc<Link>, number: u64, why: &str) {
    let (link, why) = (Arc::clone(link), format!("The MCP server's response cannot be used. {why}"));
    tokio::spawn(async move {
        tokio::time::sleep(DOUBT).await;
        link.fail(number, &why);
    });
}

/// Refuses a request from the child, because the stateless revision has no requests from the server
/// (2026-07-28, "stdio"). The child gets an error, so that the related call does not wait for a response.
fn forbidden_request(link: &Link, id: &[u8]) {
    let why = "the protocol forbids requests from the server";
    link.log.line(id, why, "a modern child sent a request with this id, which was refused");
    let why = "Protocol version 2026-07-28 has no requests from the server. Return an input_required result.";
    let text = error_message(Some(id), Code::MethodNotFound, why);
    link.say(&String::from_utf8_lossy(&text));
    drop_message(link, "a request of a modern child");
}

fn dispatch(link: &Arc<Link>, text: &Bytes, message: &Message<'_>) {
    if let Kind::Response { id, .. } = &message.kind {
        return match id {
            Some(id) => answer(link, text, message, id),
            None => nameless_error(link, message),
        };
    }
    let tidied = tidy(message);
    let tidied = tidied.as_deref().and_then(|text| parse_line(text.as_bytes()).ok());
    let message = tidied.as_ref().unwrap_or(message);
    match &message.kind {
        Kind::Request { id, .. } => forbidden_request(link, message.at(id).as_bytes()),
        Kind::Notification { method } => match method.as_ref() {
            "notifications/progress" => progress(link, message),
            "notifications/cancelled" => cancelled(link, message),
            "notifications/message" => match link.log_stream() {
                Some(stream) => push(link, &stream, rewrite(message.text.as_bytes(), &mut [])),
                None => drop_message(link, "a log message that could belong to several requests"),
            },
            other => notification(link, message, other),
        },
        Kind::Response { .. } => {}
    }
}

/// Handles an error without an id, which means that the child could not read the id of a message. The error is
/// assigned to a request only if the child has received no other message.
fn nameless_error(link: &Link, message: &Message<'_>) {
    let Some(pending) = link.probe().and_then(|number| link.take(number)) else {
        let (text, why) = (message.text.as_bytes(), "it is unknown which message it is about");
        link.log.line(text, why, "an error of the child without an id was dropped");
        return drop_message(link, "an error without an id");
    };
    let what = "an error of the child was passed to the only waiting request";
    link.log.line(message.text.as_bytes(), "it has no id", what);
    link.metrics.requests_failed_total.add();
    let shown = message.error.as_ref().map(|error| message.at(error)).unwrap_or_default();
    pending.fail(&format!("The MCP server did not understand the request: {shown}"));
}

/// Passes the response to the caller that it belongs to, with the id that the caller used.
fn answer(link: &Arc<Link>, text: &Bytes, message: &Message<'_>, id: &Span) {
    link.set_answered();
    let number = own_number(message.at(id).as_bytes());
    let Some(pending) = number.and_then(|number| link.take(number)) else {
        if !number.is_some_and(|number| link.was_given(number)) {
            link.log.line(text, "no request has its id", "a response of the child was dropped");
        }
        return drop_message(link, "no request waits for this response");
    };
    let subscription = message.result.as_ref().filter(|_| pending.waits == Waits::Subscription);
    let data = match subscription.and_then(|result| subscription_in(message, message.at(result))) {
        None => {
            let Relayed { text: data, fault } = relay(text, message, id, &pending.id);
            if let Some(fault) = fault {
                link.log.line(text, fault, "a response of the child does not follow MCP");
            }
            data
        }
        Some(span) => {
            let mut patches =
                [Patch { span: id.clone(), with: &pending.id }, Patch { span, with: &pending.id }];
            rewrite(text, &mut patches).into()
        }
    };
    if let (Some((key, generation)), Some(result)) = (&pending.keep, &message.result) {
        link.lists.keep(key, *generation, message.at(result), Instant::now());
    }
    if let Some(data) = link.answers.count(&pending.owner, data) {
        pending.stream.push(data, true);
    } else {
        link.metrics.requests_failed_total.add();
        pending.fail(TOO_MANY_ANSWERS);
    }
}

fn progress(link: &Arc<Link>, message: &Message<'_>) {
    let span = peek_progress(message).ok().flatten();
    let found = span.and_then(|span| {
        let number = own_number(message.at(&span).as_bytes())?;
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
        None => drop_message(link, "progress for an unknown token"),
    }
}

/// Called when the child ends a subscription. On stdio, it can do so only with a cancellation. Over HTTP, the
/// client receives a completed result instead.
fn cancelled(link: &Arc<Link>, message: &Message<'_>) {
    let id = peek_cancelled(message).ok().flatten();
    let ours = id.and_then(|id| own_number(message.at(&id).as_bytes()));
    let is_subscription = |number| link.with(number, |pending| pending.waits == Waits::Subscription);
    match ours.filter(|number| is_subscription(*number) == Some(true)).and_then(|number| link.take(number)) {
        Some(pending) => pending.stream.push(pending.completion().into(), true),
        None => drop_message(link, "a cancellation that ends no subscription"),
    }
}

/// Passes on a notification. Every notification of a subscription contains its id, and a notification without
/// this id is dropped.
fn notification(link: &Arc<Link>, message: &Message<'_>, method: &str) {
    if method == "notifications/tools/list_changed" {
        link.tools.invalidate();
    }
    link.lists.changed(method);
    let span = message.params_text().and_then(|params| subscription_in(message, params));
    let found = span.and_then(|span| {
        let number = own_number(message.at(&span).as_bytes())?;
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

/// The position of the subscription id in params or in a result.
fn subscription_in(message: &Message<'_>, within: &str) -> Option<Span> {
    let [meta] = members(object(Some(within))?, ["_meta"]).ok()?;
    let [id] = members(object(meta)?, [SUBSCRIPTION]).ok()?;
    id.map(|id| span_in(message.text, id))
}

/// Sends a message on a stream. A client that does not read is disconnected, because it must not block a child
/// that also serves other clients.
fn push(link: &Link, stream: &Arc<Stream>, data: Bytes) {
    if !stream.has_room() {
        link.metrics.streams_cut_total.add();
        link.log.client_does_not_read(stream.id);
        return stream.cut();
    }
    if !stream.tell(data.into()) {
        drop_message(link, "there is no memory for this message");
    }
}

fn drop_message(link: &Link, what: &str) {
    link.metrics.child_messages_dropped_total.add();
    link.log.count_useless();
    tracing::debug!(child = link.child.number, what, "a message of the child was dropped");
}
