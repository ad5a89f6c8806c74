//! Why a line or a body is not a message.

/// Why a line or a body is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The input is not JSON.
    #[error("The message is not valid JSON: {0}.")]
    Json(String),
    /// The input is JSON, but not a JSON-RPC message.
    #[error("The message is not a JSON-RPC 2.0 message: {0}.")]
    Envelope(String),
}

impl Malformed {
    /// The error for a message or a batch that the parser refuses.
    pub(super) fn of(error: &serde_json::Error) -> Self {
        match error.classify() {
            serde_json::error::Category::Data => Self::Envelope(short(error)),
            _ => Self::Json(short(error)),
        }
    }

    /// The error for a part of a message that the parser refuses, although it is known to be JSON.
    pub(super) fn in_part(error: &serde_json::Error) -> Self {
        Self::Envelope(short(error))
    }
}

/// The parser's message without its position ("at line 1 column 7"), which is counted differently for batches.
fn short(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(head, _)| head.to_owned())
}
