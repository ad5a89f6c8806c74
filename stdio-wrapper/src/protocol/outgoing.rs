//! The JSON-RPC messages that the wrapper writes itself, for clients and for children.
//!
//! They have members that only pass through. Those are JSON text already, and can be as large as a line, so
//! they are copied and not parsed again.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::edit::Members;
use super::version::Version;

/// The names and punctuation of a message take at most this many bytes.
const FRAME: usize = 64;

/// A message that the wrapper itself writes.
#[derive(Debug, Clone, Copy)]
pub enum Outgoing<'a> {
    /// A request, which must be answered.
    Request {
        /// The id, as JSON text.
        id: &'a str,
        /// The name of the method.
        method: &'a str,
        /// The params, as JSON text.
        params: &'a str,
    },
    /// A notification, which is never answered.
    Notification {
        /// The name of the method.
        method: &'a str,
        /// The params, as JSON text.
        params: Option<&'a str>,
    },
    /// A response with a result.
    Result {
        /// The id, as JSON text.
        id: &'a str,
        /// The result, as JSON text.
        result: &'a str,
    },
    /// A response with an error.
    Error {
        /// The id, as JSON text.
        id: &'a str,
        /// The error, as JSON text.
        error: &'a str,
    },
}

impl Outgoing<'_> {
    /// The message as bytes, in an allocation of its size.
    pub fn bytes(&self) -> Bytes {
        self.text().into()
    }

    /// The message as text.
    pub fn text(&self) -> String {
        let length = match self {
            Self::Request { id, method, params } => id.len() + method.len() + params.len(),
            Self::Notification { method, params } => method.len() + params.map_or(0, str::len),
            Self::Result { id, result: value } | Self::Error { id, error: value } => id.len() + value.len(),
        };
        let mut out = String::with_capacity(length + FRAME);
        // Writing to a string cannot fail.
        let _ = fmt::write(&mut out, format_args!("{self}"));
        out
    }
}

impl fmt::Display for Outgoing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"{"jsonrpc":"2.0""#)?;
        match self {
            Self::Request { id, method, params } => {
                write!(f, r#","id":{id},"method":{},"params":{params}"#, Value::from(*method))?;
            }
            Self::Notification { method, params } => {
                write!(f, r#","method":{}"#, Value::from(*method))?;
                if let Some(params) = params {
                    write!(f, r#","params":{params}"#)?;
                }
            }
            Self::Result { id, result } => write!(f, r#","id":{id},"result":{result}"#)?,
            Self::Error { id, error } => write!(f, r#","id":{id},"error":{error}"#)?,
        }
        f.write_str("}")
    }
}

/// The wrapper, as it introduces itself to servers.
#[derive(Debug, Serialize)]
struct ClientInfo {
    name: &'static str,
    version: &'static str,
}

/// The `clientInfo` of the wrapper, as JSON text.
pub fn client_info() -> String {
    json(&ClientInfo { name: "stdio-wrapper", version: env!("CARGO_PKG_VERSION") })
}

/// The wrapper's own `initialize` request. Its id is 0. `capabilities` are JSON text.
pub fn initialize(version: Version, capabilities: &str) -> String {
    let mut params = Members::default();
    params.set("protocolVersion", json(&version.as_str()));
    params.set("capabilities", capabilities);
    params.set("clientInfo", client_info());
    Outgoing::Request { id: "0", method: "initialize", params: &params.to_string() }.text()
}

/// The params of a cancellation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CancelledParams<'a> {
    request_id: u64,
    reason: &'a str,
}

/// A cancellation of the request with this id by the wrapper.
pub fn cancelled(number: u64, reason: &str) -> String {
    let params = json(&CancelledParams { request_id: number, reason });
    Outgoing::Notification { method: "notifications/cancelled", params: Some(&params) }.text()
}

/// A value of the types above as JSON text.
fn json(value: &impl Serialize) -> String {
    // Only maps whose keys are not strings, and types that refuse to be serialized, can fail.
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::envelope::{Kind, parse_line};
    use super::*;

    #[test]
    fn a_message_is_what_its_parts_say_whatever_a_method_contains() {
        let odd = "a\",\"id\":7,\"b\n";
        let texts = [
            Outgoing::Request { id: "\"q\"", method: odd, params: r#"{"a":1.0}"# }.text(),
            Outgoing::Notification { method: odd, params: Some("{}") }.text(),
            Outgoing::Notification { method: odd, params: None }.text(),
        ];
        for (index, text) in texts.iter().enumerate() {
            let message = parse_line(text.as_bytes()).unwrap();
            assert!(message.has_method(odd), "{text}");
            assert_eq!(matches!(message.kind, Kind::Request { .. }), index == 0, "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
        assert_eq!(
            Outgoing::Result { id: "1", result: r#"{"a":1.0}"# }.text(),
            r#"{"jsonrpc":"2.0","id":1,"result":{"a":1.0}}"#
        );
        assert_eq!(
            Outgoing::Error { id: "null", error: r#"{"code":1,"message":"m"}"# }.text(),
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}"#
        );
    }

    #[test]
    fn the_frame_fits_into_the_space_that_is_reserved_for_it() {
        for text in [
            Outgoing::Request { id: "", method: "", params: "" }.text(),
            Outgoing::Notification { method: "", params: Some("") }.text(),
        ] {
            assert!(text.len() <= FRAME, "{}", text.len());
        }
    }

    #[test]
    fn the_wrapper_introduces_itself_and_cancels_in_the_words_of_the_protocol() {
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            initialize(Version::LATEST, "{}"),
            format!(
                r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{{}},"clientInfo":{{"name":"stdio-wrapper","version":"{version}"}}}}}}"#
            )
        );
        assert_eq!(
            cancelled(7, "a \"reason\""),
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7,"reason":"a \"reason\""}}"#
        );
    }
}
