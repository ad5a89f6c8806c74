//! The JSON-RPC envelope: which kind of message, where its id and params stand in the text.
//!
//! Keys are compared after unescaping. A doubled key, or one that only differs in case, is refused: the reader behind us
//! may pick the other one, and then what we checked is not what it runs (attack 106, CVE-2026-27896).

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::methods::check_method;
use super::outline::{Unreadable, outline};
use super::tidy::may_be_untidy;

/// Where a value stands in the text it was parsed from, in bytes.
pub type Span = Range<usize>;

/// Longest id or progress token that is taken, in bytes of JSON text.
pub(super) const MAX_ID: usize = 1024;

/// Why a text is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not JSON at all.
    #[error("The message is not valid JSON: {0}.")]
    Json(String),
    /// JSON, but not a JSON-RPC message.
    #[error("The message is not a JSON-RPC 2.0 message: {0}.")]
    Envelope(String),
}

/// What a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Wants an answer.
    Request {
        /// The method, unescaped.
        method: Cow<'a, str>,
        /// Where the id stands.
        id: Span,
    },
    /// Wants none.
    Notification {
        /// The method, unescaped.
        method: Cow<'a, str>,
    },
    /// Answers a request; `is_error` tells which of the two members it has.
    Response {
        /// Where the id stands; an error that cannot name its request has `null` or none.
        id: Option<Span>,
        /// Whether it has an `error` member.
        is_error: bool,
    },
}

/// One message, as places in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// The text of the whole message.
    pub text: &'a str,
    /// What it is.
    pub kind: Kind<'a>,
    /// Where `params` stands (requests, notifications).
    pub params: Option<Span>,
    /// Where `result` stands (responses).
    pub result: Option<Span>,
    /// Where `error` stands (responses).
    pub error: Option<Span>,
    /// It has a key that JSON-RPC does not know, or `null` where a member is optional. SDKs refuse such a message as a
    /// whole and say nothing; [`super::tidy`] takes that out.
    pub is_untidy: bool,
}

impl<'a> Message<'a> {
    /// The text at a place of this message.
    pub fn at(&self, span: &Span) -> &'a str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// Whether it is a request or a notification with this method.
    pub fn has_method(&self, name: &str) -> bool {
        match &self.kind {
            Kind::Request { method, .. } | Kind::Notification { method } => method == name,
            Kind::Response { .. } => false,
        }
    }

    /// The text of `params`, if there is one.
    pub fn params_text(&self) -> Option<&'a str> {
        self.params.as_ref().map(|span| self.at(span))
    }
}

/// A POST body: one message or, in 2025-03-26, several.
#[derive(Debug)]
pub enum Body<'a> {
    /// One message.
    Single(Message<'a>),
    /// A batch; each item parsed on its own, so that a bad one spoils only itself.
    Batch(Vec<Result<Message<'a>, BadItem>>),
}

/// An item of a batch that is no message.
#[derive(Debug)]
pub struct BadItem {
    /// What is wrong with it.
    pub error: Malformed,
    /// What it was meant to be, if that can be told.
    pub meant: Option<Unreadable>,
}

impl Body<'_> {
    /// Whether [`super::tidy_body`] may find something. A quick look, so that the second one is seldom needed.
    pub fn may_be_untidy(&self) -> bool {
        match self {
            Self::Single(message) => may_be_untidy(message),
            Self::Batch(items) => items.iter().flatten().any(may_be_untidy),
        }
    }
}

/// Parses a POST body. `max_batch` bounds the items of a batch (attack 109).
pub fn parse_body(text: &[u8], max_batch: usize) -> Result<Body<'_>, Malformed> {
    let text = utf8(text)?;
    if !text.trim_start().starts_with('[') {
        return parse_from_client(text).map(Body::Single);
    }
    let items: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|error| Malformed::Json(error.to_string()))?;
    if items.is_empty() {
        return Err(Malformed::Envelope("a batch must not be empty".to_owned()));
    }
    if items.len() > max_batch {
        return Err(Malformed::Envelope(format!("a batch may have at most {max_batch} messages")));
    }
    let read = |item: &'_ RawValue| outline(item.get().as_bytes()).meant();
    let items = items
        .into_iter()
        .map(|item| parse_from_client(item.get()).map_err(|error| BadItem { error, meant: read(item) }));
    Ok(Body::Batch(items.collect()))
}

/// A message whose method is judged before a child gets it.
fn parse_from_client(text: &str) -> Result<Message<'_>, Malformed> {
    let message = parse(text)?;
    match &message.kind {
        Kind::Request { method, .. } | Kind::Notification { method } => check_method(method)?,
        Kind::Response { .. } => {}
    }
    Ok(message)
}

/// Parses one line of a child's output.
pub fn parse_line(line: &[u8]) -> Result<Message<'_>, Malformed> {
    parse(utf8(line)?)
}

fn utf8(text: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(text).map_err(|_| Malformed::Json("it is not UTF-8".to_owned()))
}

fn parse(text: &str) -> Result<Message<'_>, Malformed> {
    let raw: RawEnvelope<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Malformed::Envelope(short(&error)),
        _ => Malformed::Json(short(&error)),
    })?;
    raw.into_message(text).map_err(|why| Malformed::Envelope(why.to_owned()))
}

/// The parser's own words without its "at line 1 column 7", which counts differently for batches.
fn short(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(head, _)| head.to_owned())
}

/// The members of an envelope, as JSON text.
#[derive(Debug, Default)]
struct RawEnvelope<'a> {
    jsonrpc: Option<&'a str>,
    id: Option<&'a str>,
    method: Option<&'a str>,
    params: Option<&'a str>,
    result: Option<&'a str>,
    error: Option<&'a str>,
    has_others: bool,
}

impl<'a> RawEnvelope<'a> {
    /// Notes a member.
    fn set(&mut self, key: Key, value: &'a str) -> Result<(), &'static str> {
        let slot = match key {
            Key::JsonRpc => &mut self.jsonrpc,
            Key::Id => &mut self.id,
            Key::Method => &mut self.method,
            Key::Params => &mut self.params,
            Key::Result => &mut self.result,
            Key::Error => &mut self.error,
            Key::Other => {
                self.has_others = true;
                return Ok(());
            }
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err("a key of the envelope stands there twice"),
        }
    }

    fn into_message(mut self, text: &'a str) -> Result<Message<'a>, &'static str> {
        let is_untidy = self.has_others | self.drop_nulls();
        if self.jsonrpc != Some(r#""2.0""#) {
            return Err("`jsonrpc` must be \"2.0\"");
        }
        let span = |raw: &str| span_in(text, raw);
        let kind = match (self.method, self.id) {
            (Some(_), _) if self.result.is_some() || self.error.is_some() => {
                return Err("a message has either `method` or `result`/`error`, not both");
            }
            (Some(method), Some(id)) => {
                Kind::Request { method: method_name(method)?, id: span(valid_id(id)?) }
            }
            (Some(method), None) => Kind::Notification { method: method_name(method)? },
            (None, _) if self.error == Some("null") => return Err("`error` must be an object"),
            (None, id) => {
                if self.result.is_some() == self.error.is_some() {
                    return Err("a message needs `method`, or exactly one of `result` and `error`");
                }
                let id = match id {
                    Some(id) if id == "null" && self.error.is_some() => None,
                    Some(id) => Some(span(valid_id(id)?)),
                    None if self.error.is_some() => None,
                    None => return Err("a result needs an `id`"),
                };
                Kind::Response { id, is_error: self.error.is_some() }
            }
        };
        // JSON-RPC knows arrays here, MCP does not (2025-11-25, "Requests").
        if self.params.is_some_and(|params| !params.starts_with('{')) {
            return Err("`params` must be an object");
        }
        let [params, result, error] = [self.params, self.result, self.error].map(|part| part.map(span));
        Ok(Message { text, kind, params, result, error, is_untidy })
    }

    /// `null` in place of an optional member is how many libraries write that there is none. Tells whether there was one.
    fn drop_nulls(&mut self) -> bool {
        let is_null = |part: Option<&str>| part == Some("null");
        let is_empty = self.method.is_none() && is_null(self.result);
        if is_null(self.params) {
            self.params = None;
        } else if is_null(self.error) && self.result.is_some() {
            self.error = None;
        } else if is_empty && self.error.is_some() {
            self.result = None;
        } else {
            return is_empty;
        }
        true
    }
}

/// Both point into the same text, so the difference of their addresses is the place.
fn span_in(text: &str, part: &str) -> Span {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + part.len()
}

fn method_name(text: &str) -> Result<Cow<'_, str>, &'static str> {
    if let Some(plain) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))
        && !plain.contains('\\')
    {
        return Ok(Cow::Borrowed(plain));
    }
    let name: String = serde_json::from_str(text).map_err(|_| "`method` must be a string")?;
    // A reader that ends strings at NUL would run another method than the one we looked at.
    if name.contains('\0') {
        return Err("`method` must not contain NUL");
    }
    Ok(Cow::Owned(name))
}

/// MCP allows strings and integers; a number with a fraction is passed on as it is, like any other token.
fn valid_id(raw: &str) -> Result<&str, &'static str> {
    match raw.as_bytes() {
        text if text.len() > MAX_ID => Err("`id` is too long"),
        [b'"' | b'-' | b'0'..=b'9', ..] => Ok(raw),
        _ => Err("`id` must be a string or a number"),
    }
}

/// The envelope keys, and what is neither one of them nor close to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    JsonRpc,
    Id,
    Method,
    Params,
    Result,
    Error,
    Other,
}

impl Key {
    pub(super) fn of(name: &str) -> Result<Self, &'static str> {
        Ok(match name {
            "jsonrpc" => Self::JsonRpc,
            "id" => Self::Id,
            "method" => Self::Method,
            "params" => Self::Params,
            "result" => Self::Result,
            "error" => Self::Error,
            other => {
                if let Some(known) = ["jsonrpc", "id", "method", "params", "result", "error"]
                    .into_iter()
                    .find(|known| folds_to(other, known))
                {
                    return Err(known);
                }
                Self::Other
            }
        })
    }
}

/// Whether a case-insensitive reader takes `name` for `known`. Go's reader also folds the long s and the Kelvin sign, and
/// others the two letters i of Turkish.
pub fn folds_to(name: &str, known: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        other => other.to_ascii_lowercase(),
    };
    name.len() >= known.len()
        && name.len() <= known.len() * 3
        && name.chars().map(fold).eq(known.chars().map(fold))
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Key, E> {
                Key::of(name).map_err(|known| {
                    E::custom(format!("a key differs from `{known}` only in its letters' case"))
                })
            }
        }
        deserializer.deserialize_identifier(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for RawEnvelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EnvelopeVisitor;
        impl<'de> Visitor<'de> for EnvelopeVisitor {
            type Value = RawEnvelope<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut out = RawEnvelope::default();
                while let Some(key) = map.next_key::<Key>()? {
                    let value: &'de RawValue = map.next_value()?;
                    out.set(key, value.get()).map_err(M::Error::custom)?;
                }
                Ok(out)
            }
        }
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}
