//! Finds the id and the kind of a message that cannot be used as a whole, because it is too large to keep or is
//! not entirely valid JSON. The caller waiting for the message can then get an error.

use serde_json::value::RawValue;

use super::envelope_key::folds_to;

/// Maximum length of an id that is kept, in bytes.
const MAX_ID: usize = 1024;

/// The recognized properties of a message.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that was seen or not")]
pub struct Outline {
    /// The id as JSON text, if there is exactly one.
    pub id: Option<Vec<u8>>,
    /// Whether the message has several ids, or a key that some parsers treat as `id`.
    pub is_ambiguous: bool,
    /// Whether the message has a `jsonrpc` member.
    pub has_version: bool,
    /// Whether the message has a `method` member.
    pub has_method: bool,
    /// Whether the message has a `result` or an `error` other than `null`.
    pub has_outcome: bool,
    /// Whether the message has a key that JSON-RPC does not define.
    pub has_others: bool,
    /// Whether every bracket is closed, so that no further key can follow.
    pub is_whole: bool,
}

/// The kind of an unusable message, with its id as JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// A response to the request with this id.
    Response(Vec<u8>),
    /// A request with this id.
    Request(Vec<u8>),
    /// A response without an id, or with an id that is neither a string nor a number.
    NamelessResponse,
}

impl Outline {
    /// The kind of this line from a child, if it is certainly a message. Servers also write JSON log lines with an
    /// `id`, an `error` or a `method`, and such a line must neither fail a call nor cause the wrapper to answer a
    /// question from the child.
    pub fn unreadable(self) -> Option<Unreadable> {
        let is_bare = self.is_whole && !self.has_others;
        if self.is_nameless() && self.has_version && self.is_whole {
            return Some(Unreadable::NamelessResponse);
        }
        match (self.id?, self.has_method, self.has_outcome) {
            (id, false, true) if self.has_version || is_bare => Some(Unreadable::Response(id)),
            (id, true, false) if self.has_version => Some(Unreadable::Request(id)),
            // Some libraries omit an undefined result, and some repeat the method of the request.
            (id, false, false) | (id, true, true) if self.has_version && self.is_whole => {
                Some(Unreadable::Response(id))
            }
            _ => None,
        }
    }

    /// Whether the message is a response without an id.
    fn is_nameless(&self) -> bool {
        self.id.is_none() && !self.is_ambiguous && self.has_outcome && !self.has_method
    }

    /// The kind of message that a client probably intended to send with this request body.
    pub fn meant(self) -> Option<Unreadable> {
        if self.is_nameless() && self.is_whole {
            return Some(Unreadable::NamelessResponse);
        }
        match (self.id?, self.has_method, self.has_outcome) {
            (id, false, true) => Some(Unreadable::Response(id)),
            (id, true, false) => Some(Unreadable::Request(id)),
            (id, false, false) if self.has_version => Some(Unreadable::Response(id)),
            _ => None,
        }
    }
}

/// The state of the parser.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Outside,
    InString,
    /// Inside a string, after a backslash.
    Escaped,
}

/// A parser for JSON text in pieces that keeps only the current key and the id.
#[derive(Debug, Default)]
pub struct OutlineReader {
    length: usize,
    depth: usize,
    place: Place,
    /// Whether the next value at the top level belongs to the key `id`.
    wants_value: bool,
    /// Whether the next value at the top level belongs to `result` or `error`.
    wants_outcome: bool,
    /// The last string at the top level, with its quotation marks.
    text: Vec<u8>,
    /// Whether a string at the top level has just ended, so that a colon might follow.
    is_key: bool,
    outline: Outline,
}

impl OutlineReader {
    /// Parses the next piece of the text.
    pub fn feed(&mut self, piece: &[u8]) {
        self.length += piece.len();
        let mut rest = piece;
        while let Some((byte, tail)) = rest.split_first() {
            rest = tail;
            if self.place == Place::Outside {
                self.outside(*byte);
                continue;
            }
            // In long strings of the result, this skips to the next character that might end the string.
            if self.depth > 1 && self.place == Place::InString && !matches!(byte, b'"' | b'\\') {
                rest = memchr::memchr2(b'"', b'\\', rest).and_then(|at| rest.get(at..)).unwrap_or_default();
                continue;
            }
            self.inside_string(*byte);
        }
    }

    /// The properties that have been recognized so far.
    pub fn outline(&self) -> Outline {
        let id = self.outline.id.clone().filter(|_| !self.outline.is_ambiguous);
        Outline { id, is_whole: self.is_balanced(), ..self.outline }
    }

    /// The number of parsed bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether every bracket is closed.
    pub fn is_balanced(&self) -> bool {
        self.depth == 0 && self.place == Place::Outside
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
                    self.is_key = true;
                }
            }
        }
    }

    fn outside(&mut self, byte: u8) {
        if self.wants_outcome && !byte.is_ascii_whitespace() {
            self.wants_outcome = false;
            // Many libraries write `null` for a missing member.
            self.outline.has_outcome |= byte != b'n';
        }
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
                self.is_key = false;
            }
            b'}' | b']' => {
                if self.depth == 1 && self.wants_value {
                    self.end_value();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            b':' if self.depth == 1 => {
                if std::mem::take(&mut self.is_key) {
                    self.key();
                }
                self.text.clear();
            }
            b',' if self.depth == 1 => {
                if self.wants_value {
                    self.end_value();
                }
                self.is_key = false;
            }
            other if self.wants_value => self.keep(other),
            _ => {}
        }
    }

    /// Called at the end of a key at the top level.
    fn key(&mut self) {
        match self.text.as_slice() {
            br#""id""# => self.wants_value = true,
            br#""method""# => self.outline.has_method = true,
            br#""result""# | br#""error""# => self.wants_outcome = true,
            br#""jsonrpc""# => self.outline.has_version = true,
            br#""params""# => {}
            other => {
                self.outline.has_others = true;
                // Another parser might treat this key as the id (attack 106).
                let name = std::str::from_utf8(other).unwrap_or_default().trim_matches('"');
                self.outline.is_ambiguous |= folds_to(name, "id");
            }
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && self.text.len() <= MAX_ID {
            self.text.push(byte);
        }
    }

    fn end_value(&mut self) {
        self.wants_value = false;
        let text = std::mem::take(&mut self.text).trim_ascii().to_vec();
        if text.len() <= MAX_ID && is_id(&text) {
            self.outline.is_ambiguous |= self.outline.id.as_ref().is_some_and(|known| *known != text);
            self.outline.id = Some(text);
        }
    }
}

/// Whether the text is a JSON string or number. The wrapper includes no other text as an id in its own
/// messages.
fn is_id(text: &[u8]) -> bool {
    text.first().is_some_and(|first| matches!(first, b'"' | b'-' | b'0'..=b'9'))
        && serde_json::from_slice::<&RawValue>(text).is_ok()
}

/// Creates the outline of a whole text.
pub fn outline(text: &[u8]) -> Outline {
    let mut reader = OutlineReader::default();
    reader.feed(text);
    reader.outline()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outline_tells_answers_from_requests_and_doubts_ambiguous_ids() {
        let response = |id: &str| Some(Unreadable::Response(id.into()));
        for (text, found) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":{"x":NaN}}"#, response("7")),
            (r#"{"error":{"code":1,"id":9},"id":"a\"b"}"#, response(r#""a\"b""#)),
            (
                r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{"x":NaN}}"#,
                Some(Unreadable::Request("7".into())),
            ),
            (r#"{"jsonrpc":"2.0","id":7}"#, response("7")),
            (r#"{"jsonrpc":"2.0","id":7,"error":null}"#, response("7")),
            (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","result":{}}"#, response("7")),
            (r#"{"jsonrpc":"2.0","id":7,"id":7,"result":{}}"#, response("7")),
            (r#"{"jsonrpc":"2.0","id":7,"#, None),
            (r#"{"jsonrpc":"2.0","id":7,"id":8,"result":{}}"#, None),
            (r#"{"id":7,"id":8,"result":{}}"#, None),
            (r#"{"ID":7,"id":8,"result":{}}"#, None),
            (r#"{"id":null,"result":{}}"#, None),
            (r#"{"id":7"#, None),
            (r#"{"jsonrpc":"2.0","id":[7],"result":{}}"#, Some(Unreadable::NamelessResponse)),
            (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, Some(Unreadable::NamelessResponse)),
            (r#"{"jsonrpc":"2.0","result":{"id":7}}"#, Some(Unreadable::NamelessResponse)),
            (r#"{"jsonrpc":"2.0","id":[7],"method":"ping"}"#, None),
            (r#"{"jsonrpc":"2.0","result":{"id":7}"#, None),
        ] {
            assert_eq!(outline(text.as_bytes()).unreadable(), found, "{text}");
        }
        // A request that contains every member, as some libraries write it, is not a response.
        let full = r#"{"jsonrpc":"2.0","id":7,"method":"roots/list","params":{},"result":null,"error":null}"#;
        assert_eq!(outline(full.as_bytes()).unreadable(), Some(Unreadable::Request("7".into())));
    }

    #[test]
    fn a_log_line_in_json_is_neither_an_answer_nor_a_question() {
        for text in [
            r#"{"level":"error","id":7,"error":"retrying"}"#,
            r#"{"id":7,"result":"ok","msg":"row"}"#,
            r#"{"time":"12:00","id":7,"method":"POST","path":"/api/items"}"#,
            r#"{"id":7,"method":"POST"}"#,
            r#"{"id":7,"result":"ok","#,
            r#"{"id":7}"#,
        ] {
            assert_eq!(outline(text.as_bytes()).unreadable(), None, "{text}");
        }
    }

    #[test]
    fn the_body_of_a_client_is_surely_meant_as_a_message() {
        for (text, found) in [
            (r#"{"id":7,"method":"ping"}"#, Some(Unreadable::Request("7".into()))),
            (r#"{"id":7,"result":{}}"#, Some(Unreadable::Response("7".into()))),
            (r#"{"jsonrpc":"2.0","id":7}"#, Some(Unreadable::Response("7".into()))),
            (r#"{"id":[7],"result":{}}"#, Some(Unreadable::NamelessResponse)),
            (r#"{"id":7}"#, None),
            // An id that is not valid JSON cannot be repeated in the error.
            (r#"{"id":--..5eE,"method":"ping"}"#, None),
            (r#"{"id":00,"method":"ping"}"#, None),
            (r#"{"id":1 2,"method":"ping"}"#, None),
            (r#"{"id":1x2,"method":"ping"}"#, None),
            (r#"{"id":"\q","method":"ping"}"#, None),
            ("{\"id\":\"a\tb\",\"method\":\"ping\"}", None),
            (r#"{"id":-1.5e3,"method":"ping"}"#, Some(Unreadable::Request("-1.5e3".into()))),
        ] {
            assert_eq!(outline(text.as_bytes()).meant(), found, "{text}");
        }
    }
}
