//! JSON-RPC error messages from the wrapper itself.

use bytes::Bytes;

use super::edit::Members;
use super::envelope::Message;
use super::object::{members, string};
use super::outgoing::Outgoing;

/// Error codes of JSON-RPC 2.0 §5.1, and others that MCP implementations use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The body is not JSON.
    ParseError,
    /// The body is JSON, but not a message that is allowed here.
    InvalidRequest,
    /// The method is not available here.
    MethodNotFound,
    /// The parameters are not accepted.
    InvalidParams,
    /// The wrapped server failed.
    InternalError,
    /// The wrapper refused the request because of a limit, a missing session or a missing permission.
    Refused,
    /// The session does not exist. Servers built with an SDK respond with this code and status 404.
    SessionNotFound,
    /// The caller cancelled the request.
    Cancelled,
    /// A header differs from the body (2026-07-28).
    HeaderMismatch,
    /// The request needs a capability that the client did not declare (2026-07-28).
    MissingCapability,
    /// The revision is not supported (2026-07-28).
    UnsupportedVersion,
}

impl Code {
    /// The number in a message.
    pub fn number(self) -> i32 {
        match self {
            Self::ParseError => -32700,
            Self::InvalidRequest => -32600,
            Self::MethodNotFound => -32601,
            Self::InvalidParams => -32602,
            Self::InternalError => -32603,
            Self::Refused => -32000,
            Self::SessionNotFound => -32001,
            Self::Cancelled => -32800,
            Self::HeaderMismatch => -32020,
            Self::MissingCapability => -32021,
            Self::UnsupportedVersion => -32022,
        }
    }
}

/// Creates an error response. `id` is JSON text. Without an id, the response contains `null` (JSON-RPC 2.0 §5).
pub fn error_message(id: Option<&[u8]>, code: Code, message: &str) -> Bytes {
    error_with_data(id, code, message, None)
}

/// Maximum number of characters of a child's error message that are repeated.
const MAX_WORDS: usize = 500;

/// The message of an error response.
pub fn error_words(message: &Message<'_>) -> Option<String> {
    let [words] = members(message.at(message.error.as_ref()?), ["message"]).ok()?;
    Some(string(words?)?.chars().take(MAX_WORDS).collect())
}

/// Creates the `error` member of a response, as JSON text. `data` is JSON text.
pub(super) fn error_text(code: i64, message: &str, data: Option<&str>) -> String {
    let mut error = Members::default();
    error.set("code", code.to_string());
    error.set("message", serde_json::Value::from(message).to_string());
    if let Some(data) = data {
        error.set("data", data);
    }
    error.to_string()
}

/// Like [`error_message`], with `data`, which is JSON text.
pub fn error_with_data(id: Option<&[u8]>, code: Code, message: &str, data: Option<&str>) -> Bytes {
    let id = String::from_utf8_lossy(id.unwrap_or(b"null"));
    Outgoing::Error { id: &id, error: &error_text(code.number().into(), message, data) }.bytes()
}
