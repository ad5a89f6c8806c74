//! Reads the few values in params and results that the wrapper needs. Repeated keys, and keys that differ only
//! in case, are refused here as well, because decisions depend on them (attack 106).

use std::borrow::Cow;

use super::envelope::{MAX_ID, Message};
use super::malformed::Malformed;
use super::object::{members, object, string};
use super::params::RELATED_TASK;
use super::span::{Span, span_in};
use super::version::Version;

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
