//! Checks whether a response has a result or an error in a form that clients accept.

use bytes::Bytes;

use super::edit::Members;
use super::envelope::Message;
use super::error::{Code, error_message, error_text};
use super::object::{members, object, string};
use super::outgoing::Outgoing;
use super::span::Span;
use super::text::Text;
use super::tidy::tidy;

/// Maximum number of characters of a malformed error that are shown to the caller.
const MAX_SHOWN: usize = 500;

/// The content of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A result or an error that matches the schema.
    Sound,
    /// An error without an integer `code`, or without a string in `message`. The value is a valid `error` with
    /// the same content, as JSON text.
    Error(String),
    /// A result that is not an object, which no client accepts.
    NoObject,
}

/// A response as its caller receives it, and what is wrong with it, if anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// The response with the caller's id.
    pub text: Text,
    /// A description of the fault, for the log.
    pub fault: Option<&'static str>,
}

/// Creates the response for the caller from the one in `frame`. The id at `id` is replaced with the caller's
/// id, `with`. A response that clients would silently drop is repaired or replaced with an error.
pub fn relay(frame: &Bytes, response: &Message<'_>, id: &Span, with: &[u8]) -> Relayed {
    let caller = String::from_utf8_lossy(with);
    let put = |response: Outgoing<'_>| Text::from(response.bytes());
    match outcome(response) {
        Outcome::Sound => match tidy(response) {
            None => Relayed { text: Text::splice(frame, id, with), fault: None },
            Some(tidied) => {
                let members = Members::parse(&tidied).unwrap_or_default();
                let plain = |value: &str| value.replace(['\r', '\n'], " ");
                let text = if let Some(error) = members.get("error") {
                    put(Outgoing::Error { id: &caller, error: &plain(error) })
                } else {
                    let result = plain(members.get("result").unwrap_or("{}"));
                    put(Outgoing::Result { id: &caller, result: &result })
                };
                Relayed { text, fault: None }
            }
        },
        Outcome::Error(error) => {
            let fault = "`error` must have an integer `code` and a string in `message`";
            Relayed { text: put(Outgoing::Error { id: &caller, error: &error }), fault: Some(fault) }
        }
        Outcome::NoObject => {
            let fault = "`result` must be an object";
            let why = format!("The MCP server's response cannot be used: {fault}.");
            Relayed { text: error_message(Some(with), Code::InternalError, &why).into(), fault: Some(fault) }
        }
    }
}

/// The beginning of an error from the child, which is all that the caller is shown.
pub fn start_of(error: &str) -> String {
    error.chars().take(MAX_SHOWN).collect()
}

/// Whether the client's response to a question has a valid result or error. The child's SDK would drop any
/// other response.
pub fn is_sound(response: &Message<'_>) -> bool {
    match &response.result {
        Some(result) => is_object(response.at(result)),
        None => response.error_form.is_some_and(|error| error.is_sound),
    }
}

/// Whether an error without an id refers to a request. Some servers also send one for an unknown notification,
/// with the code for an unknown method. According to JSON-RPC 2.0 §5, an error without an id means only that
/// the message could not be parsed.
pub fn is_about_a_request(response: &Message<'_>) -> bool {
    response.error_form.is_some_and(|error| error.is_about_a_request)
}

/// Whether a result is an object. `null` is replaced with one.
fn is_object(result: &str) -> bool {
    result == "null" || result.starts_with('{')
}

/// Examines the result or the error of a response.
fn outcome(response: &Message<'_>) -> Outcome {
    if let Some(result) = &response.result {
        return if is_object(response.at(result)) { Outcome::Sound } else { Outcome::NoObject };
    }
    if response.error_form.is_some_and(|error| error.is_sound) {
        return Outcome::Sound;
    }
    let error = response.error.as_ref().map(|error| response.at(error)).unwrap_or_default();
    let [code, message] =
        object(Some(error)).and_then(|error| members(error, ["code", "message"]).ok()).unwrap_or_default();
    let code = code.and_then(|code| code.parse::<i64>().ok());
    let message = message.and_then(string);
    let shown = message.or_else(|| string(error)).unwrap_or_else(|| error.into());
    let code = code.unwrap_or_else(|| Code::InternalError.number().into());
    Outcome::Error(error_text(code, &start_of(&shown), None))
}

#[cfg(test)]
mod tests {
    use super::super::envelope::parse_line;
    use super::*;

    #[test]
    fn a_broken_error_becomes_one_that_clients_understand_and_a_result_is_an_object() {
        let read = |member: &str| {
            outcome(&parse_line(format!(r#"{{"jsonrpc":"2.0","id":1,{member}}}"#).as_bytes()).unwrap())
        };
        assert_eq!(read(r#""result":{}"#), Outcome::Sound);
        assert_eq!(read(r#""result":null"#), Outcome::Sound, "null is replaced with an object");
        assert_eq!(read(r#""result":[1]"#), Outcome::NoObject);
        assert_eq!(read(r#""error":{"code":-1,"message":"x","data":1}"#), Outcome::Sound);
        let broken = |member: &str, text: &str| {
            assert_eq!(read(member), Outcome::Error(text.to_owned()), "{member}");
        };
        broken(r#""error":"boom""#, r#"{"code":-32603,"message":"boom"}"#);
        broken(r#""error":{"code":"E1","message":"boom"}"#, r#"{"code":-32603,"message":"boom"}"#);
        broken(r#""error":{"code":7}"#, r#"{"code":7,"message":"{\"code\":7}"}"#);
        broken(r#""error":{"code":1.5,"message":"m"}"#, r#"{"code":-32603,"message":"m"}"#);
    }
}
