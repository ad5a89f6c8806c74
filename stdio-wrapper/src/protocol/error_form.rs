//! The properties of an `error` on which decisions depend. They are determined when a message is parsed, so that a
//! large error is not examined again for each decision.

use super::object::{members, object, string};

/// The error code for an unknown method.
const UNKNOWN_METHOD: &str = "-32601";

/// The relevant properties of an `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ErrorForm {
    /// Whether it has an integer `code` and a string in `message`.
    pub(super) is_sound: bool,
    /// Whether it has a `code` other than the one for an unknown method.
    pub(super) is_about_a_request: bool,
}

impl ErrorForm {
    /// Reads an `error`, which is JSON text.
    pub(super) fn of(error: &str) -> Self {
        let [code, message] = object(Some(error))
            .and_then(|error| members(error, ["code", "message"]).ok())
            .unwrap_or_default();
        let is_sound = code.is_some_and(|code| code.parse::<i64>().is_ok())
            && message.is_some_and(|message| string(message).is_some());
        Self { is_sound, is_about_a_request: code.is_some_and(|code| code != UNKNOWN_METHOD) }
    }
}
