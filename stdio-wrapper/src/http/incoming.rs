//! Reads and parses the body of a POST, with limits for size, time and memory.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web;
use bytestring::ByteString;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::arrived::Arrived;
use super::problem::Problem;
use crate::budget::{Budget, COUNTED_BODY, Reservation};
use crate::identity::Caller;
use crate::offload::{LARGE, Offload};
use crate::protocol::{
    Body, BodyParts, Code, MAX_DIGITS, Malformed, Unreadable, has_endless_number, has_nul_key, is_too_deep,
    outline, parse_body, tidy_body,
};

/// Time for a body in addition to the time that depends on its size.
const GRACE: Duration = Duration::from_secs(10);
/// Minimum speed of a body, in bytes per second. A slower client would occupy memory and a connection.
const FLOOR: u64 = 16 << 10;
/// Maximum time between two pieces of a body.
const PAUSE: Duration = Duration::from_secs(5);

/// Reads bodies within the limits that all connections share.
#[derive(Debug)]
pub(super) struct Bodies {
    /// Maximum size of a body, in bytes.
    limit: usize,
    /// Maximum number of messages in a batch.
    max_batch: usize,
    /// The memory for all bodies.
    budget: Arc<Budget>,
    offload: Arc<Offload>,
}

/// A body in memory.
#[derive(Debug)]
pub(super) struct Incoming {
    arrived: Arrived,
    reservation: Reservation,
}

/// A body that has been parsed as messages. Its memory is counted until it is dropped.
#[derive(Debug)]
pub(super) struct Messages {
    text: ByteString,
    parts: BodyParts,
    _room: Reservation,
}

/// A body that is not a valid or acceptable message.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) problem: Problem,
    /// The message that was probably intended, if it can be recognized.
    pub(super) meant: Option<Unreadable>,
}

impl From<Problem> for Box<Unread> {
    fn from(problem: Problem) -> Self {
        Self::new(Unread { problem, meant: None })
    }
}

impl Messages {
    /// The messages. They are already parsed, so this takes no time.
    pub(super) fn body(&self) -> Body<'_> {
        self.parts.clone().of(&self.text)
    }
}

impl Bodies {
    /// Creates a reader for bodies of at most `limit` bytes and `max_batch` messages, in the memory of `budget`.
    pub(super) fn new(limit: usize, max_batch: usize, budget: Arc<Budget>, offload: Arc<Offload>) -> Self {
        Self { limit, max_batch, budget, offload }
    }

    /// Reads the whole body. Returns an error if the body is too large or too slow, or if there is no memory
    /// for it.
    pub(super) async fn read(&self, mut body: web::Payload, caller: &Caller) -> Result<Incoming, Problem> {
        let started = Instant::now();
        let mut arrived = Arrived::default();
        let mut reservation = self.budget.reservation(&caller.owner());
        let mut paid = COUNTED_BODY;
        loop {
            let allowed = GRACE + Duration::from_secs(arrived.len() as u64 / FLOOR);
            let until = (started + allowed).min(Instant::now() + PAUSE);
            let piece = timeout_at(until, body.next()).await.map_err(|_| too_slow())?;
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|_| Problem::bad_request("The request body ended early."))?;
            let length = arrived.len() + piece.len();
            if length > self.limit {
                return Err(Problem::too_large(self.limit));
            }
            let held = arrived.held_with(piece.len());
            if held > paid {
                if !reservation.grow(held - paid) {
                    return Err(too_many());
                }
                paid = held;
            }
            arrived.add(piece);
        }
        Ok(Incoming { arrived, reservation })
    }

    /// Parses a body as messages, and removes parts that would make a child drop them. Large bodies are parsed
    /// on other threads, because this takes long enough to delay small requests from other users (attack 109).
    pub(super) async fn parse(&self, body: Incoming, caller: &Caller) -> Result<Messages, Box<Unread>> {
        let max_batch = self.max_batch;
        if body.arrived.len() < LARGE {
            return parse(body, max_batch);
        }
        let parsed = self.offload.run(&caller.owner(), move || parse(body, max_batch)).await;
        parsed.unwrap_or_else(|| {
            let why = "The request could not be read.";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, Code::InternalError, why).into())
        })
    }
}

fn too_slow() -> Problem {
    let why = format!(
        "The request body arrived too slowly. Send at least {} KiB per second, without pauses of more than \
         {} s.",
        FLOOR / 1024,
        PAUSE.as_secs()
    );
    Problem::new(StatusCode::REQUEST_TIMEOUT, Code::Refused, why)
}

fn too_many() -> Problem {
    let why = "This server is reading too many large requests, either yours or those of all users. Try again in a moment.";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Refused, why).retry_after(Duration::ZERO)
}

/// Parses a body as messages.
fn parse(body: Incoming, max_batch: usize) -> Result<Messages, Box<Unread>> {
    let Incoming { arrived, reservation } = body;
    let text = arrived.into_bytes();
    let fail = |problem: Problem, text: &[u8]| Box::new(Unread { problem, meant: outline(text).meant() });
    let Ok(text) = ByteString::try_from(text.clone()) else {
        return Err(fail(Malformed::Json("it is not UTF-8".to_owned()).into(), &text));
    };
    match tidied(&text, max_batch) {
        Ok((Cow::Borrowed(_), parts)) => Ok(Messages { text, parts, _room: reservation }),
        // The new text is not longer than the original, which is dropped, so the reservation is sufficient.
        Ok((Cow::Owned(tidied), parts)) => Ok(Messages { text: tidied.into(), parts, _room: reservation }),
        Err(problem) => Err(fail(problem, text.as_bytes())),
    }
}

/// The messages in a body, and the text of the body without parts that would make a child drop the messages.
fn tidied(text: &str, max_batch: usize) -> Result<(Cow<'_, str>, BodyParts), Problem> {
    let body = text.as_bytes();
    let parsed = parse_body(body, max_batch)?;
    if is_too_deep(body) {
        return Err(Problem::bad_request("The message is nested too deeply."));
    }
    if has_nul_key(body) {
        return Err(Problem::bad_request(
            "The message has a key that contains NUL, which some programs would treat as another key.",
        ));
    }
    if has_endless_number(body) {
        let why = format!("The message has a number of more than {MAX_DIGITS} digits.");
        return Err(Problem::bad_request(why));
    }
    let changed = if parsed.may_be_untidy() { tidy_body(text) } else { None };
    let Some(changed) = changed else { return Ok((Cow::Borrowed(text), parsed.into_parts(text))) };
    let parts = parse_body(changed.as_bytes(), max_batch)?.into_parts(&changed);
    Ok((Cow::Owned(changed), parts))
}
