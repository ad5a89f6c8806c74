//! How messages stand on a child's standard input and output. A trait, because the next revision of MCP may carry HTTP
//! there instead of lines.

use bytes::{Buf, Bytes, BytesMut};

use crate::protocol::{Outline, OutlineReader, Patch, rewrite_line};

/// What a child wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// One message; not yet known to be one.
    Message(Bytes),
    /// A message over the limit. Its text is gone.
    Oversized {
        /// What was seen of it.
        outline: Outline,
        /// How long it was.
        length: usize,
    },
    /// What stood there when the output ended, without an end of its own.
    Cut(Bytes),
}

/// A way to put messages on a byte stream.
pub trait Framing: std::fmt::Debug + Send + Sync {
    /// The bytes for one message, with some values of it replaced.
    fn encode(&self, text: &str, patches: &mut [Patch<'_>]) -> Bytes;
    /// A reader of one child's output.
    fn decoder(&self, max_frame: usize) -> Box<dyn Decoder>;
}

/// Reads frames off a byte stream.
pub trait Decoder: Send {
    /// Takes the next complete frame off `buffer`. The buffer never has to hold more than the limit and one read.
    fn decode(&mut self, buffer: &mut BytesMut) -> Option<Frame>;
    /// Takes what is left when the stream has ended.
    fn finish(&mut self, buffer: &mut BytesMut) -> Option<Frame>;
}

/// One message a line (stdio transport, every revision so far).
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
    /// How much of the buffer is known to have no line break.
    scanned: usize,
    /// Set while a line over the limit is being thrown away.
    oversized: Option<OutlineReader>,
}

impl Decoder for LineDecoder {
    fn decode(&mut self, buffer: &mut BytesMut) -> Option<Frame> {
        loop {
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
    /// No line break yet: wait for more, unless that would be too much.
    fn keep_or_discard(&mut self, buffer: &mut BytesMut) {
        if self.oversized.is_some() || buffer.len() > self.max_line {
            self.oversized.get_or_insert_default().feed(buffer);
            // A fresh buffer, so that the large one is given back.
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
