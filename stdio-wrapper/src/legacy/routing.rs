//! Reads the output of one child, and passes each message to the one stream that it belongs to (2025-11-25,
//! "Multiple Connections").

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::link::{About, Audience, Link, Pending, Progress};
use super::questions::TOO_MANY_QUESTIONS;
use super::session::Session;
use crate::budget::{Reservation, TOO_MANY_ANSWERS, of_child};
use crate::child::{Account, Decoder, Exit, Frame, Frames, Output, read_frames};
use crate::offload::{LARGE, Offload};
use crate::protocol::{
    Code, Kind, Line, Message, Outgoing, Outline, OutlineReader, Patch, Relayed, Salvage, Salvaged, Span,
    Unreadable, error_message, is_about_a_request, mended_length, own_number, parse_line, peek_call,
    peek_cancelled, peek_initialize_result, peek_progress, relay, rewrite, tidy, too_long,
    without_lone_surrogates,
};
use crate::stream::Stream;

/// Maximum time for which a client that does not read can block its own child.
const PATIENCE: Duration = Duration::from_secs(30);

/// Maximum time for which a response waits for memory from the budget for clients. A client that reads frees
/// some soon.
const PAYMENT_PATIENCE: Duration = Duration::from_secs(5);

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
    async fn frame(&mut self, frame: Frame, reservation: Option<Reservation>) {
        match frame {
            Frame::Message(line) => self.line(line, reservation).await,
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
    async fn line(&mut self, line: Bytes, mut reservation: Option<Reservation>) {
        if !self.has_memory(&line, &mut reservation).await {
            let mut seen = OutlineReader::default();
            seen.feed(&line);
            return self.dropped(seen.outline(), line.len());
        }
        match self.read(line, self.link.accepts_prefixed()).await {
            Some(Line::Message(text, parts)) => {
                dispatch(&self.link, text.as_bytes(), reservation, &parts.of(&text)).await;
            }
            Some(Line::Doubtful { line, found, why }) => match found {
                Salvaged::Messages(messages) => {
                    self.link.log.line(&line, &why, "a line of the child was corrected");
                    // The messages are copies, so the memory reservation of the line is now used for them.
                    drop(line);
                    if let Some(reservation) = &mut reservation {
                        let kept = messages.iter().map(Bytes::len).sum();
                        reservation.shrink(reservation.taken().saturating_sub(kept));
                    }
                    for text in messages {
                        let text = without_lone_surrogates(text);
                        if let Ok(message) = parse_line(&text) {
                            let reservation =
                                reservation.as_mut().map(|reservation| reservation.split(text.len()));
                            dispatch(&self.link, &text, reservation, &message).await;
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
        let length = self.offload.run_if_large(&self.owner(), line.len(), measure).await;
        let patience = if owner(&self.link).is_some() { PAYMENT_PATIENCE } else { Duration::ZERO };
        match length {
            Some(0) => true,
            Some(length) => reservation.grow_within(length, patience).await,
            None => false,
        }
    }

    /// The principal for whom other threads process large lines.
    fn owner(&self) -> String {
        match owner(&self.link) {
            Some(session) => session.owner.clone(),
            None => of_child(self.link.child.number),
        }
    }

    /// Parses a line. Large lines are parsed on other threads, because this takes long enough to delay the
    /// children of other users.
    async fn read(&mut self, line: Bytes, accepts_prefixed: bool) -> Option<Line> {
        if line.len() < LARGE {
            return Some(self.salvage.line(line, accepts_prefixed));
        }
        let owner = self.owner();
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
    let exit = read_frames(&link.child, output, decoder, account(&link), &mut routes).await;
    if !link.has_answered() && exit.as_ref().is_none_or(|exit| !exit.is_wanted) {
        link.launcher.child_failed(&link.child);
    }
    link.died(Exit::reason(exit.as_ref()));
    link.child.stop();
    if let Audience::Session(session) = &link.audience
        && let Some(session) = session.upgrade()
    {
        session.end("the child has exited");
    }
}

/// The memory account for the lines of a child.
fn account(link: &Link) -> Account {
    match owner(link) {
        Some(session) => Account { reservation: session.reservation().sibling(), patience: PAYMENT_PATIENCE },
        None => Account {
            reservation: link.answers.reservation_of_child(link.child.number),
            patience: Duration::ZERO,
        },
    }
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

/// If an unusable message is a response, fails its request. If it is a request, sends the child an error.
fn unreadable(link: &Arc<Link>, message: Unreadable, why: &str) {
    match message {
        Unreadable::Response(id) => {
            if let Some(number) = own_number(&id).filter(|number| link.waits(*number)) {
                doubt(link, number, why);
            }
        }
        // The message has already been logged. Notifications never get a response, so it must belong to a
        // request.
        Unreadable::NamelessResponse => {
            if let Some(number) = link.sole(About::Request) {
                doubt(link, number, why);
            }
        }
        Unreadable::Request(id) if owner(link).is_some_and(|session| asks(&session, &id)) => {
            link.log.line(&id, why, "an unreadable request of the child has the id of a waiting question");
        }
        Unreadable::Request(id) => {
            let text = error_message(
                Some(&id),
                Code::InvalidRequest,
                &format!("The request is not passed on. {why}"),
            );
            link.say(&String::from_utf8_lossy(&text));
        }
    }
}

/// Fails a request whose response cannot be used, unless a valid one follows.
fn doubt(link: &Arc<Link>, number: u64, why: &str) {
    let (link, why) = (Arc::clone(link), format!("The MCP server's response cannot be used. {why}"));
    tokio::spawn(async move {
        tokio::time::sleep(DOUBT).await;
        if let Some(pending) = link.take(number) {
            fail(pending, &why);
        }
    });
}

/// Whether the child would accept a response to a request with this id as the response to a question.
fn asks(session: &Session, id: &[u8]) -> bool {
    std::str::from_utf8(id).is_ok_and(|id| session.is_asked(id))
}

/// Passes on a message. `reservation` is the memory for its text if the text is large.
async fn dispatch(
    link: &Arc<Link>,
    text: &Bytes,
    mut reservation: Option<Reservation>,
    message: &Message<'_>,
) {
    if let Kind::Response { id, .. } = &message.kind {
        return match id {
            Some(id) => answer(link, text, reservation, message, id).await,
            None => nameless_error(link, message),
        };
    }
    let tidied = tidy(message);
    if let (Some(copy), Some(reservation)) = (&tidied, &mut reservation)
        && !reservation.grow(copy.len())
    {
        return no_memory(link, message);
    }
    let tidied = tidied.as_deref().and_then(|text| parse_line(text.as_bytes()).ok());
    let message = tidied.as_ref().unwrap_or(message);
    match &message.kind {
        Kind::Request { method, id } => request(link, message, method, id).await,
        Kind::Notification { method } => match method.as_ref() {
            "notifications/progress" => progress(link, message).await,
            "notifications/cancelled" => cancelled(link, message).await,
            other => notification(link, message, other).await,
        },
        Kind::Response { .. } => {}
    }
}

/// Drops a message for which there is no memory. The child gets an error if it waits for a response.
fn no_memory(link: &Link, message: &Message<'_>) {
    drop_message(link, "there is no memory for this message");
    if let Kind::Request { id, .. } = &message.kind {
        let text = error_message(Some(message.at(id).as_bytes()), Code::Refused, TOO_MANY_ANSWERS);
        link.say(&String::from_utf8_lossy(&text));
    }
}

/// Handles an error without an id, which means that the child could not read the id of a message. The error is
/// assigned to a request only if the child cannot be processing anything else.
fn nameless_error(link: &Link, message: &Message<'_>) {
    let sole = if is_about_a_request(message) { link.sole(About::Anything) } else { None };
    let Some(pending) = sole.and_then(|number| link.take(number)) else {
        let (text, why) = (message.text.as_bytes(), "it is unknown which message it is about");
        link.log.line(text, why, "an error of the child without an id was dropped");
        return drop_message(link, "an error without an id");
    };
    let shown = message.error.as_ref().map(|error| message.at(error)).unwrap_or_default();
    link.log.line(
        message.text.as_bytes(),
        "it has no id",
        "an error of the child was passed to the only waiting request",
    );
    fail(pending, &format!("The MCP server did not understand the request: {shown}"));
}

/// Responds to a request with an error from the wrapper because of invalid output of the child.
fn fail(pending: Pending, why: &str) {
    let is_initialize = pending.is_initialize;
    let (session, stream) = (Arc::clone(&pending.session), Arc::clone(&pending.stream));
    pending.fail(Code::InternalError, why);
    if is_initialize {
        not_initialized(&session, &stream);
    }
}

/// Passes the response to the caller that it belongs to, with the id that the caller used.
async fn answer(
    link: &Arc<Link>,
    text: &Bytes,
    reservation: Option<Reservation>,
    message: &Message<'_>,
    id: &Span,
) {
    let number = own_number(message.at(id).as_bytes());
    let Some(pending) = number.and_then(|number| link.take(number)) else {
        if !number.is_some_and(|number| link.was_given(number)) {
            link.log.line(text, "no request has its id", "a response of the child was dropped");
        }
        return drop_message(link, "no request waits for this response");
    };
    let (session, stream) = (Arc::clone(&pending.session), Arc::clone(&pending.stream));
    let is_initialize = pending.is_initialize;
    let greeting = if is_initialize { peek_initialize_result(message) } else { None };
    let version = greeting.and_then(|(_, version)| version);
    if is_initialize {
        link.set_answered();
        // The HTTP response contains the session id only if the revision of the session is already known.
        if version.is_some() {
            session.initialized(version);
        }
    }
    let Relayed { text: data, fault } = relay(text, message, id, &pending.id);
    if let Some(fault) = fault {
        link.log.line(text, fault, "a response of the child does not follow MCP");
    }
    wait_for_reader(link, &stream).await;
    let (reservation, patience) = match link.audience {
        Audience::Session(_) => {
            (reservation.unwrap_or_else(|| session.reservation().sibling()), PAYMENT_PATIENCE)
        }
        // The memory of the line belongs to the child, so the response needs memory of the session.
        Audience::Nobody => (session.reservation().sibling(), Duration::ZERO),
    };
    match reservation.count_within(data, patience).await {
        Some(data) => pending.answer(data),
        None => pending.fail(Code::Refused, TOO_MANY_ANSWERS),
    }
    if is_initialize && version.is_none() {
        not_initialized(&session, &stream);
    }
}

/// Ends a session whose `initialize` failed. This must follow the response to the client, because a closed
/// stream accepts no more messages.
fn not_initialized(session: &Session, stream: &Stream) {
    session.initialized(None);
    stream.wake();
}

async fn progress(link: &Arc<Link>, message: &Message<'_>) {
    let span = peek_progress(message).ok().flatten();
    let ours = span.as_ref().and_then(|span| own_number(message.at(span).as_bytes()));
    let (Some(span), Some(Progress { stream, token })) = (span, ours.and_then(|ours| link.progress(ours)))
    else {
        return drop_message(link, "progress for an unknown token");
    };
    let data = || rewrite(message.text.as_bytes(), &mut [Patch { span, with: &token }]);
    match (stream, owner(link)) {
        (Some(stream), _) => {
            push(link, &stream, data).await;
        }
        (None, Some(session)) => {
            push(link, session.get_stream(), data).await;
        }
        (None, None) => drop_message(link, "progress after the response"),
    }
}

/// Passes on a request from the child to the client: sampling, elicitation, roots or ping.
async fn request(link: &Arc<Link>, message: &Message<'_>, method: &str, id: &Span) {
    let (span, id) = (id, message.at(id));
    // The request is checked first, because clients silently drop messages that the schema forbids.
    if let Err(error) = peek_call(message) {
        return unreadable(link, Unreadable::Request(id.into()), &error.to_string());
    }
    let Some(session) = owner(link) else {
        return answer_for_nobody(link, method, id);
    };
    let stream = any_stream(link, &session);
    let Some(shown) = session.expect_answer(id, method, &stream) else {
        let text = error_message(Some(id.as_bytes()), Code::Refused, TOO_MANY_QUESTIONS);
        return link.say(&String::from_utf8_lossy(&text));
    };
    let patch = || Patch { span: span.clone(), with: shown.as_bytes() };
    if !push(link, &stream, || rewrite(message.text.as_bytes(), &mut [patch()])).await {
        session.withdrawn(id);
        let text = error_message(Some(id.as_bytes()), Code::Refused, TOO_MANY_ANSWERS);
        link.say(&String::from_utf8_lossy(&text));
    }
}

/// The stream for a message that does not identify its request. It is, in this order of preference: the stream
/// of a call that the client is reading, the GET stream if the client is reading it, or the stream of a call
/// that the client might resume.
fn any_stream(link: &Link, session: &Session) -> Arc<Stream> {
    let get = session.get_stream();
    let running = link.newest_stream(|stream| stream.is_connected());
    let kept = || link.newest_stream(|stream| session.keeps(stream)).filter(|_| !get.is_connected());
    running.or_else(kept).unwrap_or_else(|| Arc::clone(get))
}

/// Responds to a request from a shared child. Only a ping succeeds, because it is unknown which client should
/// handle any other request.
fn answer_for_nobody(link: &Link, method: &str, id: &str) {
    if method == "ping" {
        return link.say(&Outgoing::Result { id, result: "{}" }.text());
    }
    let why = "This server is shared between clients, so it cannot send requests to them.";
    link.say(&String::from_utf8_lossy(&error_message(Some(id.as_bytes()), Code::MethodNotFound, why)));
}

/// Called when the child cancels one of its own requests. The cancellation is sent on the stream of that
/// request.
async fn cancelled(link: &Arc<Link>, message: &Message<'_>) {
    let id = peek_cancelled(message).ok().flatten();
    let (Some(span), Some(session)) = (id, owner(link)) else {
        return drop_message(link, "a cancellation that belongs to no request");
    };
    let id = message.at(&span);
    let (stream, shown) =
        session.withdrawn(id).unwrap_or_else(|| (Arc::clone(session.get_stream()), id.to_owned()));
    let stream = if stream.is_complete() { Arc::clone(session.get_stream()) } else { stream };
    let patch = Patch { span, with: shown.as_bytes() };
    push(link, &stream, || rewrite(message.text.as_bytes(), &mut [patch])).await;
}

/// Passes on a notification. Changes of lists and resources belong to no request. All other notifications, such
/// as log messages, belong to a request in progress.
async fn notification(link: &Arc<Link>, message: &Message<'_>, method: &str) {
    let Some(session) = owner(link) else {
        return drop_message(link, "a notification of a shared child");
    };
    let is_change = method.ends_with("/list_changed") || method == "notifications/resources/updated";
    let stream = if is_change && session.get_stream().is_connected() {
        Arc::clone(session.get_stream())
    } else {
        any_stream(link, &session)
    };
    push(link, &stream, || rewrite(message.text.as_bytes(), &mut [])).await;
}

/// Sends a message on a stream. The message is created only when it can be sent, so that the message and the
/// line are both in memory for as short a time as possible. Returns false if the message was dropped because
/// there was no memory for it.
async fn push(link: &Link, stream: &Arc<Stream>, make: impl FnOnce() -> Bytes) -> bool {
    wait_for_reader(link, stream).await;
    let is_taken = stream.tell(make().into());
    if !is_taken {
        drop_message(link, "there is no memory for this message");
    }
    is_taken
}

/// Applies back-pressure: a client that does not read blocks its own child for a while, and no other child.
async fn wait_for_reader(link: &Link, stream: &Arc<Stream>) {
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
        link.log.client_does_not_read(stream.id);
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
    link.log.count_useless();
    tracing::debug!(child = link.child.number, what, "a message of the child was dropped");
}
