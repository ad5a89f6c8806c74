//! Finds the top-level `id` of a message that is too large to keep, while it is thrown away piece by piece, so that the
//! caller who waits for it can be told.

use super::framing::Frame;

/// Ids longer than this are not remembered.
const MAX_ID: usize = 1024;

/// Where in the text the reader stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Outside,
    InString,
    /// After a backslash.
    Escaped,
}

/// A reader of JSON text that keeps nothing but the current key and the id.
#[derive(Debug, Default)]
pub(super) struct IdScanner {
    length: usize,
    depth: usize,
    place: Place,
    /// Whether the next value at the top level belongs to the key `id`.
    wants_value: bool,
    /// The last string at the top level, with its quotes.
    text: Vec<u8>,
    /// The last string was `"id"` and a colon may follow.
    is_id_key: bool,
    id: Option<Vec<u8>>,
}

impl IdScanner {
    /// Takes the next piece.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        self.length += piece.len();
        let mut rest = piece;
        while let Some((byte, tail)) = rest.split_first() {
            rest = tail;
            if self.place == Place::Outside {
                self.outside(*byte);
                continue;
            }
            // Long strings inside the result: jump to what may end them.
            if self.depth > 1 && self.place == Place::InString && !matches!(byte, b'"' | b'\\') {
                rest = memchr::memchr2(b'"', b'\\', rest).and_then(|at| rest.get(at..)).unwrap_or_default();
                continue;
            }
            self.inside_string(*byte);
        }
    }

    fn inside_string(&mut self, byte: u8) {
        self.keep(byte);
        if self.place == Place::Escaped {
            self.place = Place::InString;
        } else if byte == b'\\' {
            self.place = Place::Escaped;
        } else if byte == b'"' {
            self.place = Place::Outside;
            if self.depth == 1 {
                if self.wants_value {
                    self.end_value();
                } else {
                    self.is_id_key = self.text == br#""id""#;
                }
            }
        }
    }

    fn outside(&mut self, byte: u8) {
        match byte {
            b'"' => {
                if self.depth == 1 {
                    self.text.clear();
                }
                self.place = Place::InString;
                self.keep(byte);
            }
            b'{' | b'[' => {
                self.depth += 1;
                self.wants_value = false;
                self.is_id_key = false;
            }
            b'}' | b']' => {
                if self.depth == 1 && self.wants_value {
                    self.end_value();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            b':' if self.depth == 1 => {
                self.wants_value = std::mem::take(&mut self.is_id_key);
                self.text.clear();
            }
            b',' if self.depth == 1 => {
                if self.wants_value {
                    self.end_value();
                }
                self.is_id_key = false;
            }
            digit @ (b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
                if self.depth == 1 && self.wants_value =>
            {
                self.keep(digit);
            }
            _ => {}
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && self.text.len() <= MAX_ID {
            self.text.push(byte);
        }
    }

    fn end_value(&mut self) {
        self.wants_value = false;
        let text = std::mem::take(&mut self.text);
        if !text.is_empty() && text.len() <= MAX_ID {
            self.id = Some(text);
        }
    }

    /// The whole line has been seen.
    pub(super) fn into_frame(self) -> Frame {
        Frame::Oversized { id: self.id, length: self.length }
    }
}
