//! The text of a message: in one piece or, if it is large, in three pieces that share the child's buffer, so
//! that replacing the id of a large response does not copy it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::rewrite::{Patch, rewrite};
use super::span::Span;

/// Messages with fewer bytes are copied. This is cheaper than sharing, and frees the buffer that contained
/// them.
const SHARED_FROM: usize = 32 << 10;

/// A message for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// The text is in one piece.
    Whole(Bytes),
    /// A replaced value, with the pieces before and after it.
    Spliced([Bytes; 3]),
}

impl Text {
    /// Replaces one value in `frame`.
    pub fn splice(frame: &Bytes, span: &Span, with: &[u8]) -> Self {
        let (start, end) = (span.start.min(frame.len()), span.end.min(frame.len()));
        // A line break would end a line of an event stream, so a message that contains one is rewritten.
        if frame.len() < SHARED_FROM || memchr::memchr2(b'\r', b'\n', frame).is_some() {
            return Self::Whole(rewrite(frame, &mut [Patch { span: start..end, with }]));
        }
        Self::Spliced([frame.slice(..start), Bytes::copy_from_slice(with), frame.slice(end..)])
    }

    /// The total length, in bytes.
    pub fn len(&self) -> usize {
        self.pieces().iter().map(Bytes::len).sum()
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> &[Bytes] {
        match self {
            Self::Whole(text) => std::slice::from_ref(text),
            Self::Spliced(pieces) => pieces,
        }
    }

    /// The same text, which keeps `value` alive until its last piece is dropped.
    #[must_use]
    pub fn holding(self, value: impl Send + Sync + 'static) -> Self {
        let value = Arc::new(value);
        let hold = |text: Bytes| Bytes::from_owner(Held { text, _value: Arc::clone(&value) });
        match self {
            Self::Whole(text) => Self::Whole(hold(text)),
            Self::Spliced(pieces) => Self::Spliced(pieces.map(hold)),
        }
    }

    /// Returns the text as one piece.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Whole(text) => text,
            Self::Spliced(pieces) => {
                let mut out = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
                for piece in &pieces {
                    out.put_slice(piece);
                }
                out.freeze()
            }
        }
    }
}

/// A piece of a message that keeps a value alive.
struct Held<T> {
    text: Bytes,
    _value: Arc<T>,
}

impl<T> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl From<Bytes> for Text {
    fn from(text: Bytes) -> Self {
        Self::Whole(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_is_shared_and_reads_the_same_as_a_copied_one() {
        for size in [10, SHARED_FROM] {
            let text = format!(r#"{{"result":"{}","id":12}}"#, "x".repeat(size));
            let frame = Bytes::from(text.clone());
            let start = text.len() - 3;
            let spliced = Text::splice(&frame, &(start..start + 2), b"\"mine\"");
            assert_eq!(spliced.len(), text.len() + 4);
            assert_eq!(matches!(spliced, Text::Spliced(_)), size == SHARED_FROM);
            assert!(spliced.into_bytes().ends_with(b",\"id\":\"mine\"}"));
        }
    }

    #[test]
    fn what_a_text_holds_is_gone_with_its_last_piece() {
        for size in [10, SHARED_FROM] {
            let held = Arc::new(());
            let frame = Bytes::from("x".repeat(size));
            let text = Text::splice(&frame, &(3..4), b"12").holding(Arc::clone(&held));
            assert_eq!(text.len(), size + 1);
            let last = text.pieces().last().unwrap().slice(1..);
            drop(text);
            assert_eq!(Arc::strong_count(&held), 2);
            drop(last);
            assert_eq!(Arc::strong_count(&held), 1);
        }
    }
}
