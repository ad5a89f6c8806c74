//! Reads the few values in params and results that the wrapper needs. Repeated keys, and keys that differ only
//! in case, are refused here as well, because decisions depend on them (attack 106).

use std::borrow::Cow;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope::{MAX_ID, Malformed, Message, Span, folds_to};
use super::version::Version;

/// The member of `_meta` that identifies the task to which a message belongs.
pub(super) const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";

/// Maximum length of a tool name, in bytes of JSON text. Rules are applied to it.
const MAX_NAME: usize = 4096;

/// The relevant values in the params of a request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct CallParams {
    /// The position of `_meta.progressToken` in the message.
    pub progress_token: Option<Span>,
}

/// Reads the progress token of a request, and refuses content that the schema forbids in the params of every
/// message.
pub fn peek_call(message: &Message<'_>) -> Result<CallParams, Malformed> {
    let mut out = CallParams::default();
    let [meta, _] = message.members(["_meta", "name"])?;
    if let Some(meta) = meta.filter(|meta| *meta != "null") {
        object(Some(meta)).ok_or_else(|| forbidden("`_meta` must be an object"))?;
        let [token, task] = message.meta(["progressToken", RELATED_TASK])?;
        out.progress_token = token.map_or(Ok(None), |token| progress_token(message, token))?;
        check_task(task)?;
    }
    Ok(out)
}

/// Reads `name` of a `tools/call`, unescaped.
pub fn peek_name<'a>(message: &Message<'a>) -> Result<Option<Cow<'a, str>>, Malformed> {
    let [name] = message.members(["name"])?;
    match name {
        Some(name) if name.len() > MAX_NAME => {
            Err(Malformed::Envelope(format!("`name` has more than {MAX_NAME} bytes")))
        }
        name => Ok(name.and_then(string)),
    }
}

/// Checks the task that a message belongs to against the schema (2025-11-25, `RelatedTaskMetadata`).
fn check_task(task: Option<&str>) -> Result<(), Malformed> {
    let Some(task) = task.filter(|task| *task != "null") else { return Ok(()) };
    let id = object(Some(task)).map_or(Ok([None]), |task| members(task, ["taskId"]))?;
    match id {
        [Some(id)] if id.starts_with('"') => Ok(()),
        _ => Err(forbidden(
            "`io.modelcontextprotocol/related-task` must be an object with a string as `taskId`",
        )),
    }
}

/// The position of a progress token. `null` means that there is none.
pub fn progress_token(message: &Message<'_>, token: &str) -> Result<Option<Span>, Malformed> {
    match token.as_bytes() {
        b"null" => Ok(None),
        [b'"' | b'-' | b'0'..=b'9', ..] if token.len() <= MAX_ID => Ok(Some(span_in(message.text, token))),
        _ => Err(forbidden("`progressToken` must be a string or a number of at most 1024 bytes")),
    }
}

fn forbidden(why: &str) -> Malformed {
    Malformed::Envelope(why.to_owned())
}

/// The position of `requestId` in a `notifications/cancelled`.
pub fn peek_cancelled(message: &Message<'_>) -> Result<Option<Span>, Malformed> {
    let [id] = message.members(["requestId"])?;
    Ok(id.map(|id| span_in(message.text, id)))
}

/// The position of `progressToken` in a `notifications/progress`.
pub fn peek_progress(message: &Message<'_>) -> Result<Option<Span>, Malformed> {
    let [token] = message.members(["progressToken"])?;
    Ok(token.map(|token| span_in(message.text, token)))
}

/// The revision that an `initialize` request asks for, even if it is unknown.
pub fn peek_requested_version<'a>(message: &Message<'a>) -> Result<Option<Cow<'a, str>>, Malformed> {
    let [version] = message.members(["protocolVersion"])?;
    Ok(version.and_then(string))
}

/// The revision that the server chose: the position of the value, and the revision if it is known.
pub fn peek_initialize_result(message: &Message<'_>) -> Option<(Span, Option<Version>)> {
    let result = object(message.result.as_ref().map(|span| message.at(span)))?;
    let [version] = members(result, ["protocolVersion"]).ok()?;
    let version = version?;
    Some((span_in(message.text, version), string(version).and_then(|name| Version::parse(&name))))
}

/// Returns the text if it is an object.
pub fn object(text: Option<&str>) -> Option<&str> {
    text.filter(|text| text.starts_with('{'))
}

/// Returns the value of a JSON string.
pub fn string(text: &str) -> Option<Cow<'_, str>> {
    match text.strip_prefix('"')?.strip_suffix('"')? {
        plain if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
        _ => serde_json::from_str::<String>(text).ok().map(Cow::Owned),
    }
}

/// The position of `part`, which must be a slice of `text`.
pub fn span_in(text: &str, part: &str) -> Span {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + part.len()
}

/// The values of some members of an object, as JSON text. A name that is repeated or differs only in case is an
/// error.
pub fn members<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Result<[Option<&'a str>; N], Malformed> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_map(Members(names)).map_err(|error| Malformed::in_part(&error))
}

/// At most `most` elements of an array, as JSON text. Returns an empty list if the text is not an array.
pub fn elements(text: &str, most: usize) -> Vec<&str> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.deserialize_seq(Elements(most)).unwrap_or_default()
}

struct Elements(usize);

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut all: S) -> Result<Self::Value, S::Error> {
        let mut out = Vec::new();
        while out.len() < self.0
            && let Some(element) = all.next_element::<&'de RawValue>()?
        {
            out.push(element.get());
        }
        while all.next_element::<IgnoredAny>()?.is_some() {}
        Ok(out)
    }
}

struct Members<'n, const N: usize>([&'n str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<&'de str>; N];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut out = [None; N];
        while let Some(named) = map.next_key_seed(which(&self.0))? {
            let slot = match named {
                Named::Exactly(index) => out.get_mut(index),
                Named::Refolded(index) => {
                    let name = self.0.get(index).unwrap_or(&"");
                    let why = format!("a key differs from `{name}` only in upper and lower case");
                    return Err(M::Error::custom(why));
                }
                Named::Otherwise => None,
            };
            let Some(slot) = slot else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if slot.replace(map.next_value::<&'de RawValue>()?.get()).is_some() {
                return Err(M::Error::custom("a key is repeated"));
            }
        }
        Ok(out)
    }
}

/// The result of comparing a key with several names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// The name with this index.
    Exactly(usize),
    /// A key that differs from the name with this index only in case.
    Refolded(usize),
    /// A key that differs from all names.
    Otherwise,
}

/// Reads a key, and compares it with these names.
pub(super) fn which<'n>(names: &'n [&'n str]) -> WhichKey<'n> {
    WhichKey(names)
}

pub(super) struct WhichKey<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for WhichKey<'_> {
    type Value = Named;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for WhichKey<'_> {
    type Value = Named;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        let position = |is_it: &dyn Fn(&str) -> bool| self.0.iter().position(|name| is_it(name));
        Ok(match (position(&|name| name == key), position(&|name| folds_to(key, name))) {
            (Some(index), _) => Named::Exactly(index),
            (None, Some(index)) => Named::Refolded(index),
            (None, None) => Named::Otherwise,
        })
    }
}
