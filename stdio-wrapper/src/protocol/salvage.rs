//! Handles lines from a child that are not valid messages: finds out which message was intended or, if that is
//! unknown, which request waits for it.
//!
//! A line is repaired only if this changes no value: bytes that are not UTF-8, a byte order mark, terminal
//! colors, several messages on one line, or text before or after a message. From all other lines, only the id
//! is read.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::advice::advice;
use super::envelope::{Kind, Parts, parse_line, parse_owned};
use super::outcome::is_sound;
use super::outline::{OutlineReader, Unreadable};
use super::strings::without_lone_surrogates;

/// Maximum number of messages on one line.
const MAX_MESSAGES: usize = 1024;
/// Maximum length of a line that is searched for a response after other text, in bytes. For every position at
/// which a response might start, the rest of the line must be examined.
const MAX_PREFIXED: usize = 256 << 10;
/// Maximum number of positions on one line that are examined.
const MAX_PLACES: usize = 8;

/// The result of reading a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Salvaged {
    /// The line contains messages, each of which is readable.
    Messages(Vec<Bytes>),
    /// The line is a message that cannot be parsed, and a request is known to wait for it.
    Unreadable(Unreadable),
    /// The line is not a message.
    Nothing,
}

/// A line from a child, by how it can be used.
#[derive(Debug)]
pub enum Line {
    /// A message: its text and its parts.
    Message(ByteString, Parts),
    /// The line is not a valid message.
    Doubtful {
        /// The line as the child wrote it.
        line: Bytes,
        /// The result of trying to repair it.
        found: Salvaged,
        /// What is wrong with it, for the log and for callers.
        why: String,
    },
}

/// Handles the lines from one child that are not messages.
#[derive(Debug, Default)]
pub struct Salvage {
    /// A message that spans several lines, and whether it has already been reported.
    open: Option<(OutlineReader, bool)>,
}

impl Salvage {
    /// Parses a line, whether it is a message or not. For `accepts_prefixed`, see [`Self::read`].
    pub fn line(&mut self, line: Bytes, accepts_prefixed: bool) -> Line {
        let line = without_lone_surrogates(line);
        let error = match parse_owned(&line) {
            Ok((text, parts)) => {
                // A message that an earlier line left open is not continued.
                self.reset();
                return Line::Message(text, parts);
            }
            Err(error) => error,
        };
        let was_open = self.open.is_some();
        let found = self.read(&line, accepts_prefixed);
        let why = advice(&line, &error, was_open || self.open.is_some());
        Line::Doubtful { line, found, why }
    }

    fn reset(&mut self) {
        self.open = None;
    }

    /// Handles a line that is not a complete message. With `accepts_prefixed`, a response is also searched for
    /// after other text. This is not done for a child that serves several callers. Text from users cannot forge
    /// a response, because the numbers of calls cannot be guessed (`child/numbers.rs`), not even for a
    /// session's own child.
    pub fn read(&mut self, line: &[u8], accepts_prefixed: bool) -> Salvaged {
        let mended: ByteString;
        let (whole, text) = match String::from_utf8_lossy(line) {
            Cow::Borrowed(text) => (None, text),
            Cow::Owned(text) => {
                mended = text.into();
                (Some(&mended), &*mended)
            }
        };
        let text = undecorated(text);
        let mut messages = at_start(text);
        if messages.is_empty() && accepts_prefixed {
            messages = behind_text(text);
        }
        if !messages.is_empty() {
            self.reset();
            return Salvaged::Messages(messages.into_iter().map(|message| own(message, whole)).collect());
        }
        self.outline(text, accepts_prefixed).map_or(Salvaged::Nothing, Salvaged::Unreadable)
    }

    fn outline(&mut self, text: &str, accepts_prefixed: bool) -> Option<Unreadable> {
        let starts = text.starts_with('{');
        let (mut reader, is_told) = match self.open.take() {
            // A line that looks like the beginning of a message is treated as a new message.
            Some(open) if !(starts && text.contains("\"jsonrpc\"")) => open,
            _ => (OutlineReader::default(), false),
        };
        let continues = reader.length() > 0;
        if !starts && !continues && !accepts_prefixed {
            return None;
        }
        let from = if continues { 0 } else { text.find('{')? };
        let object = text.get(from..).unwrap_or_default();
        // Valid JSON after other text is output for the operator of the server, so no message was lost.
        if !starts && !continues && is_json(object) {
            return None;
        }
        reader.feed(object.as_bytes());
        // Some servers print the messages that they receive and send. If the printed text is truncated, the
        // message itself follows.
        if !starts && !continues && !reader.is_balanced() {
            return None;
        }
        let is_own = |found: &Unreadable| match found {
            Unreadable::Response(_) => true,
            Unreadable::NamelessResponse => starts || continues,
            // A request that spans several lines or follows other text is probably one that the server has
            // received and printed.
            Unreadable::Request(_) => starts && !continues,
        };
        let found = reader.outline().unreadable().filter(|found| !is_told && is_own(found));
        if !reader.is_balanced() {
            // The line break is inside the message.
            reader.feed(b" ");
            self.open = Some((reader, is_told || found.is_some()));
        }
        found
    }
}

/// The number of additional bytes that a line needs when it is parsed, if it is not valid UTF-8. In a copy,
/// each invalid byte is replaced with a character of three bytes. If the copy of a large line were not counted,
/// a user could use several times the permitted memory.
pub fn mended_length(line: &[u8]) -> usize {
    if std::str::from_utf8(line).is_ok() {
        return 0;
    }
    let replacement =
        |invalid: &[u8]| if invalid.is_empty() { 0 } else { char::REPLACEMENT_CHARACTER.len_utf8() };
    line.utf8_chunks().map(|chunk| chunk.valid().len() + replacement(chunk.invalid())).sum()
}

/// Parses a message from [`Salvaged::Messages`].
pub fn parse_mended(message: Bytes) -> Option<(ByteString, Parts)> {
    parse_owned(&without_lone_surrogates(message)).ok()
}

/// The message, without keeping much of the rest of the line in memory.
fn own(message: &str, mended: Option<&ByteString>) -> Bytes {
    match mended.filter(|line| message.len() > line.len() / 2) {
        Some(line) => line.slice_ref(message).into_bytes(),
        None => Bytes::copy_from_slice(message.as_bytes()),
    }
}

/// Whether the text begins with a JSON value.
fn is_json(text: &str) -> bool {
    serde_json::Deserializer::from_str(text)
        .into_iter::<IgnoredAny>()
        .next()
        .is_some_and(|value| value.is_ok())
}

/// Removes a byte order mark and control sequences of terminals (ECMA-48) at the beginning of a line.
fn undecorated(line: &str) -> &str {
    let mut text = line;
    loop {
        let bare = text.trim_start_matches(|letter: char| letter.is_whitespace() || letter == '\u{feff}');
        match without_sequence(bare) {
            Some(rest) => text = rest,
            None => return bare,
        }
    }
}

/// The text after a control sequence, if it begins with one.
fn without_sequence(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('\u{1b}')?;
    if let Some(parameters) = rest.strip_prefix('[') {
        let end = parameters.find(|letter: char| ('@'..='~').contains(&letter))?;
        return parameters.get(end + 1..);
    }
    if let Some(command) = rest.strip_prefix(']') {
        let end = command.find(['\u{7}', '\u{1b}'])?;
        return command.get(end + 1..).map(|rest| rest.strip_prefix('\\').unwrap_or(rest));
    }
    let mut letters = rest.chars();
    letters.next()?;
    Some(letters.as_str())
}

/// The messages at the beginning of the text: one, several, or a batch. Returns an empty list if there are too
/// many values, because a line of a few megabytes can contain millions.
fn at_start(text: &str) -> Vec<&str> {
    let is_message = |text: &&str| parse_line(text.as_bytes()).is_ok();
    let values = if text.starts_with('[') {
        serde_json::from_str::<Items<'_>>(text).map(|items| items.0).unwrap_or_default()
    } else if text.starts_with('{') {
        let values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
        values.map_while(Result::ok).map(RawValue::get).take(MAX_MESSAGES + 1).collect()
    } else {
        Vec::new()
    };
    // If the first value is not a message, only its id is read later. A batch that does not start with a
    // message is not a batch of messages.
    if values.len() > MAX_MESSAGES || !values.first().is_some_and(is_message) {
        return Vec::new();
    }
    values.into_iter().filter(is_message).collect()
}

/// The items of a batch. Parsing fails if there are too many.
struct Items<'a>(Vec<&'a str>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor;
        impl<'de> Visitor<'de> for ItemsVisitor {
            type Value = Items<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Self::Value, S::Error> {
                let mut out = Vec::new();
                while let Some(item) = items.next_element::<&'de RawValue>()? {
                    if out.len() == MAX_MESSAGES {
                        return Err(S::Error::custom("too many items"));
                    }
                    out.push(item.get());
                }
                Ok(Items(out))
            }
        }
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

/// A response that follows other text and ends the line. Requests are not searched for, because servers print
/// those that they receive. A response inside other JSON is ignored, because log lines can contain responses
/// from other servers.
fn behind_text(text: &str) -> Vec<&str> {
    if text.starts_with('{') || text.len() > MAX_PREFIXED {
        return Vec::new();
    }
    let places = text.match_indices('{').map(|(at, _)| at).take(MAX_PLACES);
    places.filter_map(|at| text.get(at..)).find_map(answer_to_the_end).into_iter().collect()
}

/// The response, if the whole text consists of one.
fn answer_to_the_end(text: &str) -> Option<&str> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let value = values.next()?.ok()?.get();
    let ends = undecorated(text.get(value.len()..)?).is_empty();
    let message = parse_line(value.as_bytes()).ok()?;
    let is_answer = matches!(message.kind, Kind::Response { id: Some(_), .. }) && is_sound(&message);
    (ends && is_answer).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"jsonrpc":"2.0","id":7,"result":{"a":"}{"}}"#;

    #[test]
    fn what_a_line_takes_in_addition_is_the_length_of_its_mended_copy() {
        for line in [&b"abc"[..], b"a\xffb\xf0\x9f\x98", "é–😀".as_bytes(), b"\xff\xff\xff\xe2\x80"] {
            let copy = match String::from_utf8_lossy(line) {
                Cow::Borrowed(_) => 0,
                Cow::Owned(text) => text.len(),
            };
            assert_eq!(mended_length(line), copy);
        }
    }

    fn read(line: &[u8]) -> Salvaged {
        Salvage::default().read(line, true)
    }

    fn messages(texts: &[&str]) -> Salvaged {
        Salvaged::Messages(texts.iter().map(|text| Bytes::from((*text).to_owned())).collect())
    }

    fn response(id: &str) -> Salvaged {
        Salvaged::Unreadable(Unreadable::Response(id.into()))
    }

    #[test]
    fn what_changes_no_value_is_put_right() {
        for line in [
            format!("\u{feff}{ANSWER}"),
            format!("\u{1b}[32m{ANSWER}\u{1b}[0m"),
            format!("\u{1b}]0;title\u{7}\u{1b}[2K {ANSWER}"),
            format!("Loading {{model}} ... {ANSWER}"),
            format!("{ANSWER} done."),
            format!("[{ANSWER}]"),
        ] {
            assert_eq!(read(line.as_bytes()), messages(&[ANSWER]), "{line}");
        }
        assert_eq!(read(format!("{ANSWER}{ANSWER}").as_bytes()), messages(&[ANSWER, ANSWER]));
        let latin = b"{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"a\":\"caf\xe9\"}}";
        assert_eq!(
            read(latin),
            messages(&["{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"a\":\"caf\u{fffd}\"}}"])
        );
    }

    #[test]
    fn what_cannot_be_put_right_is_read_for_its_id() {
        for line in [
            r#"{"jsonrpc":"2.0","id":7,"result":{"x":NaN}}"#,
            r#"{"id":7,"result":{}}"#,
            "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"x\":\"a\tb\"}}",
            r#"{"jsonrpc":"2.0","id":7,"error":null}"#,
            r#"warning: {"jsonrpc":"2.0","id":7,"result":{"x":Infinity}} (slow)"#,
            r#"{"jsonrpc":"2.0","id":7,"result":{"x":"#,
        ] {
            assert_eq!(read(line.as_bytes()), response("7"), "{line}");
        }
        assert_eq!(read(br#"{"jsonrpc":"2.0","id":7}"#), response("7"));
        let request = Salvaged::Unreadable(Unreadable::Request("7".into()));
        assert_eq!(read(br#"{"jsonrpc":"2.0","id":7,"method":"roots/list","params":[]}"#), request);
        for line in ["", "Listening on {port}", "null", "[1,2]", r#"{"not":"rpc"}"#, "}{", "\u{1b}"] {
            assert_eq!(read(line.as_bytes()), Salvaged::Nothing, "{line}");
        }
    }

    #[test]
    fn an_answer_over_several_lines_is_told_once() {
        let mut salvage = Salvage::default();
        let pretty = serde_json::to_string_pretty(&serde_json::json!(
            {"jsonrpc": "2.0", "result": {"id": 9, "x": [{"id": 8}]}, "id": 7}
        ));
        let found: Vec<Salvaged> =
            pretty.unwrap().lines().map(|line| salvage.read(line.as_bytes(), true)).collect();
        let told: Vec<&Salvaged> = found.iter().filter(|found| **found != Salvaged::Nothing).collect();
        assert_eq!(told, [&response("7")]);
        // A line break inside a string is not escaped.
        assert_eq!(salvage.read(br#"{"jsonrpc":"2.0","result":{"x":"one"#, true), Salvaged::Nothing);
        assert_eq!(salvage.read(br#"two"},"id":5}"#, true), response("5"));
        // The server has received a request and prints it over several lines.
        for line in ["{", r#""jsonrpc":"2.0","id":7,"#, r#""method":"x","params":{}"#, "}"] {
            assert_eq!(salvage.read(line.as_bytes(), true), Salvaged::Nothing);
        }
        // The next message is found although the earlier one was never completed.
        assert_eq!(salvage.read(br#"{"jsonrpc":"2.0","x":"left open"#, true), Salvaged::Nothing);
        assert_eq!(salvage.read(br#"{"jsonrpc":"2.0","id":6,"result":NaN}"#, true), response("6"));
    }

    #[test]
    fn a_log_line_that_shows_a_message_is_not_taken_for_it() {
        for line in [
            r#"DEBUG got {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{}}"#,
            r#"DEBUG sends {"jsonrpc":"2.0","id":7,"result":{"cont..."#,
            r"DEBUG got {'jsonrpc': '2.0', 'id': 7, 'result': {}}",
            r#"{"level":"debug","rpc":{"jsonrpc":"2.0","id":7,"result":{}}}"#,
            r#"[{"level":"debug","rpc":{"jsonrpc":"2.0","id":7,"result":{}}}]"#,
            r#"DEBUG {"x":NaN,"rpc":{"jsonrpc":"2.0","id":7,"result":{}}}"#,
            r#"{"level":"debug","x":NaN,"rpc":{"jsonrpc":"2.0","id":7,"result":{}}}"#,
            r#"DEBUG "{"jsonrpc":"2.0","id":7,"result":{}}""#,
            r#"node said {"jsonrpc":"2.0","id":7,"result":"0x1"}"#,
            r#"{"level":"error","id":7,"error":"retrying"}"#,
            r#"{"id":7,"method":"POST","path":"/api/items"}"#,
        ] {
            assert_eq!(read(line.as_bytes()), Salvaged::Nothing, "{line}");
        }
        // If the child has several callers, a line with a response after other text neither counts as a
        // response nor ends a call.
        let cut = r#"user says: {"jsonrpc":"2.0","id":7,"result":{"x":NaN}}"#;
        for line in [format!("user says: {ANSWER}").as_str(), cut] {
            assert_eq!(Salvage::default().read(line.as_bytes(), false), Salvaged::Nothing, "{line}");
        }
    }
}
