//! Reads the output of one child, and finds out what each line is. Most lines are messages; others are
//! corrected, cause the request that they answer to fail, or are skipped.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;

use super::calls::Pending;
use super::rewriting;
use super::sending::Conversation;
use crate::budget::{Reservation, TOO_MANY_ANSWERS, of_child};
use crate::child::{Account, Decoder, Exit, Frame, Frames, Output, read_frames};
use crate::offload::{LARGE, Offload};
use crate::protocol::{
    Code, Kind, Line, Message, Outline, OutlineReader, Parts, Relayed, Salvage, Salvaged, Span, Text,
    Unreadable, error_message, mended_length, own_number, parse_mended, start_of, tidied, too_long,
};

/// Time in which a valid response can still follow an unusable one. Some servers first print the message
/// in an unusable form (over several lines, or truncated), and then send the valid response.
const DOUBT: Duration = Duration::from_millis(200);

/// A child, and the requests waiting for its responses.
pub(crate) trait Link: Deref<Target = Conversation> + Send + Sync + 'static {
    /// The data that the era keeps about the caller of a request.
    type Caller: Send;

    /// The memory for lines from the child.
    fn account(&self) -> Account {
        Account {
            reservation: self.answers.reservation_of_child(self.child.number),
            patience: self.patience(),
        }
    }

    /// Maximum time for which a line waits for memory.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }

    /// The principal for whom other threads process large lines.
    fn owner(&self) -> String {
        of_child(self.child.number)
    }

    /// Whether a response can be accepted if other text precedes it on its line.
    fn accepts_prefixed(&self) -> bool;

    /// Called for every response with an id, even if no caller waits for it.
    fn responded(&self) {}

    /// Removes and returns the request to which the child has responded.
    fn take(&self, number: u64) -> Option<Pending<Self::Caller>>;

    /// Whether a request with this number waits for its response.
    fn waits(&self, number: u64) -> bool;

    /// Whether a request has recently been sent with this number.
    fn was_given(&self, number: u64) -> bool;

    /// The number of the only waiting request, if an error from the child without an id cannot refer to anything
    /// else. If the child has several callers, returns `None` except for `initialize`, which precedes their
    /// requests.
    fn sole(&self) -> Option<u64>;

    /// The request that this error without an id is certainly about.
    fn blamed(&self, error: &Message<'_>) -> Option<u64>;

    /// Responds to a request with an error from the wrapper because of invalid output from the child.
    fn fail(&self, number: u64, why: &str);

    /// Sends one of the wrapper's own messages if there is space in the queue.
    fn say(&self, text: &str) {
        (**self).say(text);
    }

    /// Answers a request from the child with an error. `id` is JSON text.
    fn refuse(&self, id: &[u8], code: Code, why: &str) {
        self.say(&String::from_utf8_lossy(&error_message(Some(id), code, why)));
    }

    /// Passes on the answer to a request.
    fn answer(
        self: &Arc<Self>,
        pending: Pending<Self::Caller>,
        answer: Answer<'_>,
    ) -> impl Future<Output = ()> + Send;

    /// Handles a request from the child. `id` is JSON text.
    fn request(
        self: &Arc<Self>,
        message: &Message<'_>,
        method: &str,
        id: &Span,
    ) -> impl Future<Output = ()> + Send;

    /// Passes on a notification. Notifications of changes to lists and resources do not belong to any request. All
    /// other notifications, such as log messages, belong to a request in progress.
    fn notification(self: &Arc<Self>, message: &Message<'_>, method: &str)
    -> impl Future<Output = ()> + Send;

    /// Refuses a request from the child that cannot be read. `id` is JSON text.
    fn refuse_unreadable(&self, id: &[u8], why: &str);

    /// Whether the child is allowed to exit before it has answered anything.
    fn may_end_early(&self) -> bool {
        false
    }

    /// Called when the child has ended, with the reason for callers.
    fn ended(&self, reason: String);
}

/// A response from the child to a request that waits for it.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) text: &'a Bytes,
    /// The memory for the text, if it is large.
    pub(crate) reservation: Option<Reservation>,
    pub(crate) message: &'a Message<'a>,
    /// The caller's id, as JSON text.
    pub(crate) id: &'a Span,
}

/// Creates the response for a caller whose request had the id `with`. Returns `None` if this fails.
pub(crate) async fn relayed(
    link: &Conversation,
    owner: &str,
    answer: &Answer<'_>,
    with: &[u8],
) -> Option<Text> {
    let Relayed { text, fault } =
        rewriting::relayed(&link.offload, owner, answer.message, answer.id, with).await?;
    if let Some(fault) = fault {
        link.log.line(answer.text, fault, "a response of the child does not follow MCP");
    }
    Some(text)
}

/// A message from the child, without the parts that would make an SDK drop it.
type Parsed = (ByteString, Parts);

/// The result of parsing a line from the child.
enum Read {
    Message(Parsed),
    /// The line is not a valid message.
    Doubtful {
        line: Bytes,
        why: String,
        found: Found,
    },
}

enum Found {
    /// The messages that the child probably meant to send.
    Messages(Vec<Parsed>),
    Unreadable(Unreadable),
    Nothing,
}

/// Parses a line. This is all work on a line that takes longer the larger it is, except for copying.
fn parse(salvage: &mut Salvage, line: Bytes, accepts_prefixed: bool) -> Read {
    match salvage.line(line, accepts_prefixed) {
        Line::Message(text, parts) => Read::Message(tidied(text, parts)),
        Line::Doubtful { line, found, why } => {
            let found = match found {
                Salvaged::Messages(messages) => {
                    let parsed = messages.into_iter().filter_map(parse_mended);
                    Found::Messages(parsed.map(|(text, parts)| tidied(text, parts)).collect())
                }
                Salvaged::Unreadable(message) => Found::Unreadable(message),
                Salvaged::Nothing => Found::Nothing,
            };
            Read::Doubtful { line, why, found }
        }
    }
}

/// Reads until the child ends.
pub(super) async fn read<L: Link>(
    link: Arc<L>,
    output: Output,
    decoder: Box<dyn Decoder>,
    max_line: usize,
    offload: Arc<Offload>,
) {
    let account = link.account();
    let mut reader = Reader { link, salvage: Salvage::default(), max_line, offload };
    let exit = read_frames(&Arc::clone(&reader.link).child, output, decoder, account, &mut reader).await;
    let link = reader.link;
    let is_wanted = exit.as_ref().is_some_and(|exit| exit.is_wanted);
    if !link.has_answered() && !is_wanted && !link.may_end_early() {
        link.launcher.child_failed(&link.child);
    }
    link.ended(Exit::reason(exit.as_ref()));
    link.child.stop();
}

/// Handles the frames from one child.
struct Reader<L> {
    link: Arc<L>,
    salvage: Salvage,
    /// Maximum length of a line, in bytes.
    max_line: usize,
    offload: Arc<Offload>,
}

impl<L: Link> Frames for Reader<L> {
    async fn frame(&mut self, frame: Frame, mut reservation: Option<Reservation>) {
        match frame {
            Frame::Message(line) if self.has_memory(&line, &mut reservation).await => {
                self.line(line, reservation).await;
            }
            Frame::Message(line) => {
                let mut seen = OutlineReader::default();
                seen.feed(&line);
                self.dropped(seen.outline(), line.len());
            }
            Frame::Cut(text) => self.link.junk(&text, "the output ended within a line"),
            Frame::Oversized { outline, length } => {
                self.link.metrics.child_oversized_lines_total.add();
                self.link.log.oversized(length);
                if let Some(message) = outline.unreadable() {
                    self.unreadable(message, &too_long(length, self.max_line));
                }
            }
        }
    }

    fn useless(&self) -> u64 {
        self.link.log.useless()
    }

    fn dropped(&mut self, outline: Outline, _length: usize) {
        self.link.drop_useless("there is no memory for this line");
        if let Some(message) = outline.unreadable() {
            self.unreadable(message, TOO_MANY_ANSWERS);
        }
    }
}

impl<L: Link> Reader<L> {
    async fn line(&mut self, line: Bytes, mut reservation: Option<Reservation>) {
        let found = self.parse(line).await;
        match found {
            Some(Read::Message(parsed)) => dispatch(&self.link, parsed, reservation).await,
            Some(Read::Doubtful { line, why, found: Found::Messages(messages) }) => {
                self.link.log.line(&line, &why, "a line from the child was corrected");
                // The messages are copies, to which the memory of the line now belongs.
                drop(line);
                if let Some(reservation) = &mut reservation {
                    let kept = messages.iter().map(|(text, _)| text.len()).sum();
                    reservation.shrink(reservation.taken().saturating_sub(kept));
                }
                for parsed in messages {
                    let share = reservation.as_mut().map(|all| all.split(parsed.0.len()));
                    dispatch(&self.link, parsed, share).await;
                }
            }
            Some(Read::Doubtful { line, why, found: Found::Unreadable(message) }) => {
                self.link.junk(&line, &why);
                self.unreadable(message, &why);
            }
            Some(Read::Doubtful { line, why, found: Found::Nothing }) => self.link.junk(&line, &why),
            None => self.link.junk(b"", "it could not be read"),
        }
    }

    /// Reserves memory for the copy of a large line that is not valid UTF-8. Returns false if there is none.
    async fn has_memory(&self, line: &Bytes, reservation: &mut Option<Reservation>) -> bool {
        let Some(reservation) = reservation else { return true };
        let text = line.clone();
        let measure = move || mended_length(&text);
        match self.offload.run_if_large(&self.link.owner(), line.len(), measure).await {
            Some(0) => true,
            Some(length) => reservation.grow_within(length, self.link.patience()).await,
            None => false,
        }
    }

    /// Parses a line. Other threads parse large lines, because this takes long enough to delay the children
    /// of other users.
    async fn parse(&mut self, line: Bytes) -> Option<Read> {
        let (length, accepts_prefixed) = (line.len(), self.link.accepts_prefixed());
        if length < LARGE {
            return Some(parse(&mut self.salvage, line, accepts_prefixed));
        }
        let mut salvage = std::mem::take(&mut self.salvage);
        let work = move || {
            let read = parse(&mut salvage, line, accepts_prefixed);
            (salvage, read)
        };
        let (salvage, read) = self.offload.run(&self.link.owner(), work).await?;
        self.salvage = salvage;
        Some(read)
    }

    /// If an unusable message is a response, fails its request. If it is a request, sends the child an error.
    fn unreadable(&self, message: Unreadable, why: &str) {
        let link = &self.link;
        let number = match message {
            Unreadable::Response(id) => own_number(&id).filter(|number| link.waits(*number)),
            // The message has already been logged. Notifications never get a response, so it must belong to a
            // request.
            Unreadable::NamelessResponse => link.sole(),
            Unreadable::Request(id) => return link.refuse_unreadable(&id, why),
        };
        if let Some(number) = number {
            doubt(link, number, why);
        }
    }
}

/// Fails a request whose response cannot be used, unless a valid one follows.
fn doubt<L: Link>(link: &Arc<L>, number: u64, why: &str) {
    let (link, why) = (Arc::clone(link), format!("The MCP server's response cannot be used. {why}"));
    tokio::spawn(async move {
        tokio::time::sleep(DOUBT).await;
        link.fail(number, &why);
    });
}

/// Passes on a message. `reservation` is the memory for its text if the text is large.
async fn dispatch<L: Link>(link: &Arc<L>, (text, parts): Parsed, reservation: Option<Reservation>) {
    let message = parts.of(&text);
    match &message.kind {
        Kind::Response { id: Some(id), .. } => {
            link.responded();
            let number = own_number(message.at(id).as_bytes());
            if let Some(pending) = number.and_then(|number| link.take(number)) {
                let answer = Answer { text: text.as_bytes(), reservation, message: &message, id };
                return link.answer(pending, answer).await;
            }
            if number.is_some_and(|number| link.was_given(number)) {
                return link.drop_message("no request is waiting for this response");
            }
            let why = "no request has its id";
            link.log.line(text.as_bytes(), why, "a response from the child was dropped");
            link.drop_useless(why);
        }
        Kind::Response { id: None, .. } => nameless_error(link, &message),
        Kind::Request { method, id } => link.request(&message, method, id).await,
        Kind::Notification { method } => link.notification(&message, method).await,
    }
}

/// Handles an error without an id, which means that the child could not read the id of a message. The error is
/// assigned to a request only if the child cannot be processing anything else.
fn nameless_error<L: Link>(link: &Arc<L>, message: &Message<'_>) {
    let Some(number) = link.blamed(message) else {
        let (text, why) = (message.text.as_bytes(), "it is unknown which message it is about");
        link.log.line(text, why, "an error of the child without an id was dropped");
        return link.drop_message("an error without an id");
    };
    let shown = message.error.as_ref().map(|error| message.at(error)).unwrap_or_default();
    link.log.line(
        message.text.as_bytes(),
        "it has no id",
        "an error from the child was passed to the only waiting request",
    );
    let shown = start_of(shown);
    link.fail(number, &format!("The MCP server did not understand the request: {shown}"));
}
