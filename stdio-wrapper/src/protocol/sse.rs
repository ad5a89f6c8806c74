//! Server-sent events: their encoding, and event ids that identify their stream.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::strings::put_without_separators;
use super::text::Text;

/// The maximum length of a character in UTF-8, in bytes.
const LONGEST: usize = 4;

/// The number of a stream in a session. 0 is the GET stream, and the others are POSTs in the order of their
/// arrival.
pub type StreamId = u64;

/// An event id. It is unique in its session and identifies its stream (2025-11-25, "Resumability and
/// Redelivery").
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

/// Encodes a message as an event in parts, so that a large message is not copied as a whole. The message must
/// be JSON without a line break, which the framing and [`super::rewrite()`] guarantee. Some characters are
/// escaped, because widely used clients treat them as line breaks although event streams do not.
#[derive(Debug)]
pub struct Event {
    head: Bytes,
    rest: std::vec::IntoIter<Bytes>,
    piece: Bytes,
    is_at_end: bool,
}

impl Event {
    /// Starts to encode a message.
    pub fn new(id: Option<EventId>, name: &str, data: &Text) -> Self {
        let head = match id {
            Some(id) => format!("event: {name}\nid: {id}\ndata: "),
            None => format!("event: {name}\ndata: "),
        };
        Self {
            head: head.into(),
            rest: data.pieces().to_vec().into_iter(),
            piece: Bytes::new(),
            is_at_end: false,
        }
    }

    /// Encodes the next part of about `size` bytes. Returns `None` after the end.
    pub fn part(&mut self, size: usize) -> Option<Bytes> {
        if self.is_at_end {
            return None;
        }
        let left = self.piece.len() + self.rest.as_slice().iter().map(Bytes::len).sum::<usize>();
        let mut out = BytesMut::with_capacity(self.head.len() + left.min(size) + LONGEST);
        out.put_slice(&std::mem::take(&mut self.head));
        while out.len() < size && !self.is_at_end {
            if self.piece.is_empty() {
                if let Some(piece) = self.rest.next() {
                    self.piece = piece;
                } else {
                    out.put_slice(b"\n\n");
                    self.is_at_end = true;
                }
                continue;
            }
            let end = end_of_character(&self.piece, (size - out.len()).max(LONGEST));
            put_without_separators(&mut out, &self.piece.split_to(end));
        }
        Some(out.freeze())
    }
}

/// The last character boundary at or before this position. The position must be after the first character.
fn end_of_character(text: &[u8], place: usize) -> usize {
    let ends = (place.saturating_sub(LONGEST) + 1..=place).rev();
    let is_end = |at: &usize| text.get(*at).is_none_or(|byte| byte & 0xC0 != 0x80);
    ends.into_iter().find(is_end).unwrap_or(place).min(text.len())
}

/// Encodes a small message as an event.
pub fn encode_event(id: Option<EventId>, name: &str, data: &Text) -> Bytes {
    Event::new(id, name, data).part(usize::MAX).unwrap_or_default()
}

/// Encodes the first event of a stream. It has an id and empty data, so that a client can resume before the
/// first message.
pub fn encode_priming(id: EventId, retry_ms: u128) -> Bytes {
    format!("id: {id}\nretry: {retry_ms}\ndata: \n\n").into()
}

/// Encodes the time that a client should wait before it reconnects.
pub fn encode_retry(retry_ms: u128) -> Bytes {
    format!("retry: {retry_ms}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_encoded_in_parts_is_the_same() {
        let letters = ["a", "é", "\u{2028}", "\u{85}", "😀", "\u{2029}", "–"];
        let text: String = letters.iter().cycle().take(100).copied().collect();
        let text = format!(r#"{{"result":"{text}","id":12}}"#);
        let id = Some(EventId { stream: 3, sequence: 7 });
        let frame = Bytes::from(text.clone());
        let start = text.len() - 3;
        let pieces = [frame.slice(..start), Bytes::from_static(b"\"mine\""), frame.slice(start + 2..)];
        for data in [Text::Whole(frame), Text::Spliced(pieces)] {
            let whole = encode_event(id, "message", &data);
            for size in 1..whole.len() {
                let mut event = Event::new(id, "message", &data);
                let mut parts = Vec::new();
                while let Some(part) = event.part(size) {
                    // An escape sequence can be twice as long as its character.
                    assert!(part.len() < 2 * size + 64, "{} instead of {size}", part.len());
                    parts.extend_from_slice(&part);
                }
                assert_eq!(parts, whole, "{size}");
            }
        }
    }
}
