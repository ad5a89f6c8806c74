//! Reads and parses the body of a POST, with limits for size, time and memory.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::problem::Problem;
use crate::budget::{Budget, Room};
use crate::identity::Caller;
use crate::protocol::{
    Body, Code, MAX_DIGITS, has_endless_number, has_nul_key, is_too_deep, parse_body, tidy_body,
};

/// Time for a body in addition to the time that its size allows.
const GRACE: Duration = Duration::from_secs(10);
/// Minimum speed of a body, in bytes per second. A slower client only takes memory and a connection.
const FLOOR: u64 = 16 << 10;
/// Maximum time between two pieces of a body.
const PAUSE: Duration = Duration::from_secs(5);
/// Bodies up to this size are not counted, in bytes. Every connection has buffers of that size anyway.
const SMALL: usize = 1024;
/// Number of bodies of the largest size that can be in memory at the same time, however many connections
/// there are.
const LARGEST_BODIES: usize = 16;
/// Minimum size of the budget, in bytes.
const LEAST_BUDGET: usize = 32 << 20;

/// Reads bodies within the limits that all connections share.
#[derive(Debug)]
pub(super) struct Bodies {
    /// Maximum size of a body, in bytes.
    limit: usize,
    /// The memory for all bodies.
    budget: Arc<Budget>,
}

/// A body in memory.
#[derive(Debug)]
pub(super) struct Incoming {
    text: Bytes,
    _room: Room,
}

impl std::ops::Deref for Incoming {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.text
    }
}

impl Bodies {
    /// Makes a reader for bodies of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, budget: Budget::new((limit * LARGEST_BODIES).max(LEAST_BUDGET), SMALL) }
    }

    /// Reads the whole body. It is an error if the body is too large or too slow, or if there is no memory
    /// for it.
    pub(super) async fn read(&self, mut body: web::Payload, caller: &Caller) -> Result<Incoming, Problem> {
        let started = Instant::now();
        let mut whole = Vec::new();
        let mut first: Option<Bytes> = None;
        let mut room = self.budget.room(&caller.owner());
        let mut paid = SMALL;
        let mut length = 0;
        loop {
            let allowed = GRACE + Duration::from_secs(length as u64 / FLOOR);
            let until = (started + allowed).min(Instant::now() + PAUSE);
            let piece = timeout_at(until, body.next()).await.map_err(|_| too_slow())?;
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|_| Problem::bad_request("The request body ended early."))?;
            length += piece.len();
            if length > self.limit {
                return Err(Problem::too_large(self.limit));
            }
            // Most bodies come in one piece, and are not copied.
            let before = match first.take() {
                None if whole.is_empty() => None,
                before => Some(before.unwrap_or_default()),
            };
            let held = if before.is_some() && whole.capacity() < length { grown(length) } else { length };
            let held = held.max(whole.capacity());
            if held > paid {
                if !room.grow(held - paid) {
                    return Err(too_many());
                }
                paid = held;
            }
            match before {
                None => first = Some(piece),
                Some(before) => {
                    whole.reserve_exact(held - whole.len());
                    whole.extend_from_slice(&before);
                    whole.extend_from_slice(&piece);
                }
            }
        }
        Ok(Incoming { text: first.unwrap_or_else(|| whole.into()), _room: room })
    }
}

/// The memory for a body of which `length` bytes have arrived. It is a quarter more, so that the body is not
/// copied for each piece.
fn grown(length: usize) -> usize {
    length + length / 4
}

fn too_slow() -> Problem {
    let why = format!(
        "The request body came too slowly. It must come at {} KiB a second or more, and without pauses of more than {} s.",
        FLOOR / 1024,
        PAUSE.as_secs()
    );
    Problem::new(StatusCode::REQUEST_TIMEOUT, Code::Refused, why)
}

fn too_many() -> Problem {
    let why =
        "This server is reading too many large requests, yours or those of all users. Try again in a moment.";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Refused, why).retry_after(Duration::ZERO)
}

/// Parses the messages of a body, without parts for which a child would drop them. `tidied` holds the text if
/// it had to be changed.
pub(super) fn parse<'a>(
    body: &'a [u8],
    max_batch: usize,
    tidied: &'a mut String,
) -> Result<Body<'a>, Problem> {
    let parsed = parse_body(body, max_batch)?;
    if is_too_deep(body) {
        return Err(Problem::bad_request("The message is nested too deeply."));
    }
    if has_nul_key(body) {
        return Err(Problem::bad_request(
            "The message has a key that contains NUL, which some readers would read as another key.",
        ));
    }
    if has_endless_number(body) {
        let why = format!("The message has a number of more than {MAX_DIGITS} digits.");
        return Err(Problem::bad_request(why));
    }
    if !parsed.may_be_untidy() {
        return Ok(parsed);
    }
    match std::str::from_utf8(body).ok().and_then(tidy_body) {
        None => Ok(parsed),
        Some(text) => {
            *tidied = text;
            Ok(parse_body(tidied.as_bytes(), max_batch)?)
        }
    }
}
