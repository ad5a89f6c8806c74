//! The JSON-RPC envelope: determines the kind of a message, and the positions of its id and params.
//!
//! Keys are compared after unescaping. A repeated key, or one that differs only in case, is refused. Another
//! parser might use the other key, and would then do something that was not checked (attack 106,
//! CVE-2026-27896).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope_key::Key;
use super::error_form::ErrorForm;
use super::malformed::Malformed;
use super::methods::check_method;
use super::object::{members, object};
use super::outline::{Unreadable, outline};
use super::params::Params;
use super::span::{Span, span_in};
use super::untidy::{OPTIONAL, is_untidy_result};

/// Maximum length of an id or a progress token, in bytes of JSON text.
pub(super) const MAX_ID: usize = 1024;
/// Maximum number of keys in a message that JSON-RPC does not define. They are removed, which needs memory and
/// time for each of them.
const MAX_OTHERS: usize = 64;

/// The kind of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A message that needs a response.
    Request {
        /// The method, with its JSON escapes resolved.
        method: Cow<'a, str>,
        /// The position of the id.
        id: Span,
    },
    /// A message that needs no response.
    Notification {
        /// The method, with its JSON escapes resolved.
        method: Cow<'a, str>,
    },
    /// A response to a request. `is_error` shows whether it has a result or an error.
    Response {
        /// The position of the id. In an error for a request that could not be identified, the id is `null` or
        /// missing.
        id: Option<Span>,
        /// Whether the response has an `error` member.
        is_error: bool,
    },
}

/// A message, as positions in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// The text of the whole message.
    pub text: &'a str,
    /// The text of which this message is a part, if other threads can use it without a copy.
    pub(super) whole: Option<&'a ByteString>,
    /// The kind of the message.
    pub kind: Kind<'a>,
    /// The position of `params` (requests, notifications).
    pub params: Option<Span>,
    /// The position of `result` (responses).
    pub result: Option<Span>,
    /// The position of `error` (responses).
    pub error: Option<Span>,
    /// The form of `error`, if there is one.
    pub(super) error_form: Option<ErrorForm>,
    /// Whether the message has a key that JSON-RPC does not define, or `null` for an optional member. SDKs
    /// silently refuse the whole message because of these. [`super::tidy()`] removes them.
    pub is_untidy: bool,
    /// The members of `params` that decisions depend on, if there are params.
    pub(super) members: Option<Arc<Params>>,
}

/// A message without its text, so that it can be parsed in one place and used in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    kind: Kind<'static>,
    params: Option<Span>,
    result: Option<Span>,
    error: Option<Span>,
    error_form: Option<ErrorForm>,
    is_untidy: bool,
    members: Option<Arc<Params>>,
}

impl Parts {
    /// Whether the message is a response.
    pub fn is_response(&self) -> bool {
        matches!(self.kind, Kind::Response { .. })
    }

    /// The message with these parts. `text` must be the text that was parsed.
    pub fn of(self, text: &ByteString) -> Message<'_> {
        self.within(text, text)
    }

    /// The message with these parts, whose text is a part of `whole`.
    fn within<'a>(self, text: &'a str, whole: &'a ByteString) -> Message<'a> {
        let Self { kind, params, result, error, error_form, is_untidy, members } = self;
        Message { text, whole: Some(whole), kind, params, result, error, error_form, is_untidy, members }
    }
}

impl Kind<'_> {
    fn into_owned(self) -> Kind<'static> {
        match self {
            Self::Request { method, id } => Kind::Request { method: Cow::Owned(method.into_owned()), id },
            Self::Notification { method } => Kind::Notification { method: Cow::Owned(method.into_owned()) },
            Self::Response { id, is_error } => Kind::Response { id, is_error },
        }
    }
}

impl<'a> Message<'a> {
    /// The message without its text.
    pub fn into_parts(self) -> Parts {
        let Self { text: _, whole: _, kind, params, result, error, error_form, is_untidy, members } = self;
        Parts { kind: kind.into_owned(), params, result, error, error_form, is_untidy, members }
    }

    /// The text, for another thread that soon drops it. It is copied only if the message was parsed from borrowed text.
    pub fn shared_text(&self) -> ByteString {
        self.shared(self.text)
    }

    /// Like [`Message::shared_text`], for a part of the text.
    pub fn shared(&self, part: &'a str) -> ByteString {
        self.whole.map_or_else(|| part.into(), |whole| whole.slice_ref(part))
    }

    /// The text at a position of this message. It is shared with the message, unless most of the message is other
    /// text, which would stay in memory with the part.
    pub fn part(&self, span: &Span) -> ByteString {
        let part = self.at(span);
        match self.whole.filter(|whole| part.len() > whole.len() / 2) {
            Some(whole) => whole.slice_ref(part),
            None => part.into(),
        }
    }

    /// The values of some members of `params`, as JSON text. A name that is repeated or differs only in case is
    /// an error.
    pub fn members<const N: usize>(&self, names: [&str; N]) -> Result<[Option<&'a str>; N], Malformed> {
        let Some(known) = &self.members else { return Ok([None; N]) };
        match known.members(names) {
            Some(found) => found.map(|spans| self.values(spans)),
            None => object(self.params_text()).map_or(Ok([None; N]), |params| members(params, names)),
        }
    }

    /// Like [`Message::members`], for `_meta` if it is an object.
    pub fn meta<const N: usize>(&self, names: [&str; N]) -> Result<[Option<&'a str>; N], Malformed> {
        let Some(known) = &self.members else { return Ok([None; N]) };
        if let Some(found) = known.meta(names) {
            return found.map(|spans| self.values(spans));
        }
        let [meta] = self.members(["_meta"])?;
        object(meta).map_or(Ok([None; N]), |meta| members(meta, names))
    }

    /// Whether [`super::tidy()`] might find something. This check is fast, so that the thorough one is rarely
    /// needed.
    pub(super) fn may_be_untidy(&self) -> bool {
        self.is_untidy || self.has_null_member()
    }

    /// Whether `_meta` of the params, or an optional member of it, is `null`.
    fn has_null_member(&self) -> bool {
        // Repeated members are kept, so that a strict parser sees them.
        let Ok([meta]) = self.members(["_meta"]) else { return false };
        let is_null = |value: Option<&str>| value == Some("null");
        is_null(meta) || self.meta(OPTIONAL).is_ok_and(|found| found.into_iter().any(is_null))
    }

    fn values<const N: usize>(&self, spans: [Option<Span>; N]) -> [Option<&'a str>; N] {
        spans.map(|span| span.map(|span| self.at(&span)))
    }

    /// The text at a position of this message.
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

    /// The text of `params`, if there is any.
    pub fn params_text(&self) -> Option<&'a str> {
        self.params.as_ref().map(|span| self.at(span))
    }
}

/// A POST body: one message or, in 2025-03-26, several.
#[derive(Debug)]
pub enum Body<'a> {
    /// The body is one message.
    Single(Message<'a>),
    /// A batch. Each item is parsed separately, so that an invalid item does not affect the others.
    Batch(Vec<Result<Message<'a>, BadItem>>),
}

/// A POST body without its text.
#[derive(Debug, Clone)]
pub enum BodyParts {
    /// The body is one message.
    Single(Parts),
    /// A batch. Each item comes with the position of its text.
    Batch(Vec<Result<(Span, Parts), BadItem>>),
}

impl BodyParts {
    /// The messages with these parts. `text` must be the text that was parsed.
    pub fn of(self, text: &ByteString) -> Body<'_> {
        let part = |span: Span| text.get(span).unwrap_or_else(|| text.get(..0).unwrap_or_default());
        let item = |(span, parts): (Span, Parts)| parts.within(part(span), text);
        match self {
            Self::Single(parts) => Body::Single(parts.of(text)),
            Self::Batch(items) => Body::Batch(items.into_iter().map(|found| found.map(item)).collect()),
        }
    }
}

/// An item of a batch that is not a message.
#[derive(Debug, Clone)]
pub struct BadItem {
    /// What is wrong with it.
    pub error: Malformed,
    /// The kind of message that was probably intended, if it can be recognized.
    pub meant: Option<Unreadable>,
}

impl Body<'_> {
    /// The messages without their text. `text` must be the text that was parsed.
    pub fn into_parts(self, text: &str) -> BodyParts {
        let item = |message: Message<'_>| (span_in(text, message.text), message.into_parts());
        match self {
            Self::Single(message) => BodyParts::Single(message.into_parts()),
            Self::Batch(items) => BodyParts::Batch(items.into_iter().map(|found| found.map(item)).collect()),
        }
    }

    /// Whether [`super::tidy_body`] might find something. This check is fast, so that the thorough one is
    /// rarely needed.
    pub fn may_be_untidy(&self) -> bool {
        match self {
            Self::Single(message) => message.may_be_untidy(),
            Self::Batch(items) => items.iter().flatten().any(Message::may_be_untidy),
        }
    }
}

/// Parses a POST body. `max_batch` limits the number of items in a batch (attack 109).
pub fn parse_body(text: &[u8], max_batch: usize) -> Result<Body<'_>, Malformed> {
    let text = utf8(text)?;
    if !text.trim_start().starts_with('[') {
        return parse_from_client(text).map(Body::Single);
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let items = reader.deserialize_seq(Items(max_batch)).and_then(|items| reader.end().map(|()| items));
    let items = items.map_err(|error| Malformed::of(&error))?;
    if items.is_empty() {
        return Err(Malformed::Envelope("a batch must not be empty".to_owned()));
    }
    let read = |item: &'_ RawValue| outline(item.get().as_bytes()).meant();
    let items = items
        .into_iter()
        .map(|item| parse_from_client(item.get()).map_err(|error| BadItem { error, meant: read(item) }));
    Ok(Body::Batch(items.collect()))
}

/// Parses the items of a batch. It stops after the maximum, because a body can contain millions of items.
struct Items(usize);

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a batch")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut all: S) -> Result<Self::Value, S::Error> {
        let mut items = Vec::new();
        while let Some(item) = all.next_element()? {
            if items.len() >= self.0 {
                return Err(S::Error::custom(format!("a batch can have at most {} messages", self.0)));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// Parses a message from a client, and checks its method before a child receives the message.
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

/// Like [`parse_line`], for a line whose message outlives it. Returns the text and the parts of the message.
pub fn parse_owned(line: &Bytes) -> Result<(ByteString, Parts), Malformed> {
    let text =
        ByteString::try_from(line.clone()).map_err(|_| Malformed::Json("it is not UTF-8".to_owned()))?;
    let parts = parse(&text)?.into_parts();
    Ok((text, parts))
}

fn utf8(text: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(text).map_err(|_| Malformed::Json("it is not UTF-8".to_owned()))
}

fn parse(text: &str) -> Result<Message<'_>, Malformed> {
    let raw: RawEnvelope<'_> = serde_json::from_str(text).map_err(|error| Malformed::of(&error))?;
    raw.into_message(text).map_err(|why| Malformed::Envelope(why.to_owned()))
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
    /// The number of keys that JSON-RPC does not define.
    others: usize,
}

impl<'a> RawEnvelope<'a> {
    /// Records one member of the message. Refuses a second member with the same key.
    fn set(&mut self, key: Key, value: &'a str) -> Result<(), &'static str> {
        let slot = match key {
            Key::JsonRpc => &mut self.jsonrpc,
            Key::Id => &mut self.id,
            Key::Method => &mut self.method,
            Key::Params => &mut self.params,
            Key::Result => &mut self.result,
            Key::Error => &mut self.error,
            Key::Other => {
                self.others += 1;
                let is_too_much = self.others > MAX_OTHERS;
                return if is_too_much {
                    Err("it has more than 64 keys that JSON-RPC does not define")
                } else {
                    Ok(())
                };
            }
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err("a key of the envelope is repeated"),
        }
    }

    fn into_message(mut self, text: &'a str) -> Result<Message<'a>, &'static str> {
        let is_untidy = (self.others > 0) | self.drop_nulls() | self.result.is_some_and(is_untidy_result);
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
        // JSON-RPC allows arrays here, but MCP does not (2025-11-25, "Requests").
        if self.params.is_some_and(|params| !params.starts_with('{')) {
            return Err("`params` must be an object");
        }
        let members = self.params.map(|params| Arc::new(Params::read(text, params)));
        let error_form = self.error.map(ErrorForm::of);
        let [params, result, error] = [self.params, self.result, self.error].map(|part| part.map(span));
        Ok(Message { text, whole: None, kind, params, result, error, error_form, is_untidy, members })
    }

    /// Removes `null` from optional members, because many libraries write it for a missing member. Returns
    /// whether any was removed.
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

fn method_name(text: &str) -> Result<Cow<'_, str>, &'static str> {
    if let Some(plain) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))
        && !plain.contains('\\')
    {
        return Ok(Cow::Borrowed(plain));
    }
    let name: String = serde_json::from_str(text).map_err(|_| "`method` must be a string")?;
    // A parser that ends strings at NUL would use a different method from the one that was checked.
    if name.contains('\0') {
        return Err("`method` must not contain NUL");
    }
    Ok(Cow::Owned(name))
}

/// Checks an id. MCP allows strings and integers. A number with a fraction is passed on unchanged like any
/// other id.
fn valid_id(raw: &str) -> Result<&str, &'static str> {
    match raw.as_bytes() {
        text if text.len() > MAX_ID => Err("`id` is too long"),
        [b'"' | b'-' | b'0'..=b'9', ..] => Ok(raw),
        _ => Err("`id` must be a string or a number"),
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
