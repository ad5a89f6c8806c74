//! Server-sent events: their encoding, and event ids that name their stream.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::strings::put_without_separators;
use super::text::Text;

/// The number of a stream in a session: 0 is the GET stream, and the others are POSTs in the order of their
/// arrival.
pub type StreamId = u64;

/// An event id. It is unique in its session and names its stream (2025-11-25, "Resumability and Redelivery").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    /// The stream of the event.
    pub stream: StreamId,
    /// The number of the event in its stream. 0 is the priming event.
    pub sequence: u64,
}

impl EventId {
    /// Parses the value of `Last-Event-ID`. Only the exact form that the wrapper writes is accepted.
    pub fn parse(text: &str) -> Option<Self> {
        let (stream, sequence) = text.split_once('-')?;
        let id = Self { stream: stream.parse().ok()?, sequence: sequence.parse().ok()? };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stream, self.sequence)
    }
}

/// Encodes a message as an event. `data` is JSON without a line break (which the framing and
/// [`super::rewrite()`] guarantee). Characters that widely used clients take for a line break, although event
/// streams do not, are escaped.
pub fn encode_event(id: Option<EventId>, name: &str, data: &Text) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len() + 64);
    out.put_slice(b"event: ");
    out.put_slice(name.as_bytes());
    if let Some(id) = id {
        out.put_slice(b"\nid: ");
        out.put_slice(id.to_string().as_bytes());
    }
    out.put_slice(b"\ndata: ");
    for piece in data.pieces() {
        put_without_separators(&mut out, piece);
    }
    out.put_slice(b"\n\n");
    out.freeze()
}

/// Encodes the first event of a stream: an id and empty data, so that a client can resume before the first
/// message.
pub fn encode_priming(id: EventId, retry_ms: u128) -> Bytes {
    format!("id: {id}\nretry: {retry_ms}\ndata: \n\n").into()
}

/// Encodes the time for which a client should wait before it reconnects.
pub fn encode_retry(retry_ms: u128) -> Bytes {
    format!("retry: {retry_ms}\n\n").into()
}
