//! How messages are separated on the standard input and output of a child. It is a trait because a later
//! revision of MCP might replace lines with HTTP there.

use bytes::{Buf, Bytes, BytesMut};

use crate::protocol::{Outline, OutlineReader, Patch, rewrite_line};

/// A part of the output of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The text of one message, which has not been parsed yet.
    Message(Bytes),
    /// A message that exceeds the limit. Its text was not kept.
    Oversized {
        /// The properties that were found while the text was discarded.
        outline: Outline,
        /// The length of the message, in bytes.
        length: usize,
    },
    /// The beginning of a message that was cut off by the end of the output.
    Cut(Bytes),
}

/// A way to separate messages in a stream of bytes.
pub trait Framing: std::fmt::Debug + Send + Sync {
    /// Encodes one message, and replaces some of its values.
    fn encode(&self, text: &str, patches: &mut [Patch<'_>]) -> Bytes;
    /// Creates a decoder for the output of one child.
    fn decoder(&self, max_frame: usize) -> Box<dyn Decoder>;
}

/// Reads frames from a stream of bytes.
pub trait Decoder: Send {
    /// Takes the next complete frame out of `buffer`. The buffer never has to hold more than the limit plus one
    /// read.
    fn decode(&mut self, buffer: &mut BytesMut) -> Option<Frame>;
    /// Maximum length of a frame, in bytes.
    fn limit(&self) -> usize;
    /// Whether the buffer contained a part of a frame that exceeds the limit, and this part was discarded.
    fn is_discarding(&self) -> bool;
    /// Takes the last, incomplete frame out of `buffer` after the stream has ended.
    fn finish(&mut self, buffer: &mut BytesMut) -> Option<Frame>;
}

/// One message in each line (stdio transport, all revisions so far).
#[derive(Debug, Clone, Copy, Default)]
pub struct LineFraming;

impl Framing for LineFraming {
    fn encode(&self, text: &str, patches: &mut [Patch<'_>]) -> Bytes {
        rewrite_line(text.as_bytes(), patches)
    }

    fn decoder(&self, max_frame: usize) -> Box<dyn Decoder> {
        Box::new(LineDecoder { max_line: max_frame, scanned: 0, oversized: None })
    }
}

struct LineDecoder {
    max_line: usize,
    /// The length of the part of the buffer that is known to contain no line break.
    scanned: usize,
    /// Set while a line that exceeds the limit is discarded.
    oversized: Option<OutlineReader>,
}

impl Decoder for LineDecoder {
    fn decode(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        loop {
            if self.scanned == 0 && self.oversized.is_none() {
                // Skipping blank lines costs no more than other bytes. Whitespace before a message has no
                // meaning.
                let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                buffer.advance(blank);
            }
            let Some(at) = memchr::memchr(b'\n', buffer.get(self.scanned..)?) else {
                self.keep_or_discard(buffer);
                return None;
            };
            let length = self.scanned + at;
            self.scanned = 0;
            if self.oversized.is_some() || length > self.max_line {
                let mut scanner = self.oversized.take().unwrap_or_default();
                scanner.feed(buffer.get(..length)?);
                buffer.advance(length + 1);
                return Some(oversized(&scanner));
            }
            let mut line = buffer.split_to(length + 1);
            while line.last().is_some_and(u8::is_ascii_whitespace) {
                line.truncate(line.len() - 1);
            }
            if !line.is_empty() {
                return Some(Frame::Message(line.freeze()));
            }
        }
    }

    fn limit(&self) -> usize {
        self.max_line
    }

    fn is_discarding(&self) -> bool {
        self.oversized.is_some()
    }

    fn finish(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        self.scanned = 0;
        match self.oversized.take() {
            Some(mut scanner) => {
                scanner.feed(buffer);
                buffer.clear();
                Some(oversized(&scanner))
            }
            None if buffer.iter().all(u8::is_ascii_whitespace) => None,
            None => Some(Frame::Cut(buffer.split().freeze())),
        }
    }
}

fn oversized(seen: &OutlineReader) -> Frame {
    Frame::Oversized { outline: seen.outline(), length: seen.length() }
}

impl LineDecoder {
    /// Called when the buffer contains no line break. Keeps the text until more arrives, or discards it if the
    /// line exceeds the limit.
    fn keep_or_discard(&mut self, buffer: &mut BytesMut) {
        if self.oversized.is_some() || buffer.len() > self.max_line {
            self.oversized.get_or_insert_default().feed(buffer);
            // Frees the memory of the large buffer.
            *buffer = BytesMut::new();
        }
        self.scanned = buffer.len();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(max: usize, pieces: &[&[u8]]) -> Vec<Frame> {
        let mut decoder = LineFraming.decoder(max);
        let mut buffer = BytesMut::new();
        let mut out = Vec::new();
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut buffer) {
                out.push(frame);
            }
        }
        out.extend(decoder.finish(&mut buffer));
        out
    }

    fn message(text: &str) -> Frame {
        Frame::Message(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn lines_come_out_whole_and_blank_ones_not_at_all() {
        assert_eq!(
            frames(100, &[b"a\r\n\n  \nb", b"b\nc"]),
            [message("a"), message("bb"), Frame::Cut("c".into())]
        );
    }

    #[test]
    fn a107_a_line_over_the_limit_is_dropped_and_its_id_kept() {
        let long = format!(
            "{{\"result\":{{\"id\":7,\"x\":\"{}\\\"\"}},\"jsonrpc\":\"2.0\",\"id\": \"a\\\"b\" }}\nnext\n",
            "y".repeat(500)
        );
        for size in [1, 7, 64, 4096] {
            let pieces: Vec<&[u8]> = long.as_bytes().chunks(size).collect();
            let length = long.find('\n').unwrap();
            let outline = Outline {
                id: Some(b"\"a\\\"b\"".to_vec()),
                has_version: true,
                has_outcome: true,
                is_whole: true,
                ..Outline::default()
            };
            assert_eq!(frames(100, &pieces), [Frame::Oversized { outline, length }, message("next")]);
        }
    }

    proptest! {
        #[test]
        fn any_cut_of_the_stream_gives_the_same_lines(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'x'), Just(b'{'), any::<u8>()], 0..400),
            size in 1_usize..50,
        ) {
            let pieces: Vec<&[u8]> = text.chunks(size).collect();
            prop_assert_eq!(frames(20, &pieces), frames(20, &[&text]));
        }

        #[test]
        fn no_frame_and_no_buffer_is_larger_than_the_limit(text in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = LineFraming.decoder(100);
            let mut buffer = BytesMut::new();
            for piece in text.chunks(64) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decoder.decode(&mut buffer) {
                    if let Frame::Message(line) = frame { prop_assert!(line.len() <= 100); }
                }
                prop_assert!(buffer.len() <= 100 + 64);
            }
        }
    }
}
