//! JSON-RPC and MCP as bytes: what a message is, where its id stands, and how to write it again with another id.
//!
//! Everything here is pure. A message is never turned into a tree and printed again: the parser notes where the envelope
//! keys stand, and rewriting cuts the original bytes at those places, so what we do not know survives as it was.

mod depth;
mod edit;
mod envelope;
mod error;
mod large;
mod peek;
mod rewrite;
mod sse;
mod text;
mod version;

pub use depth::{MAX_DEPTH, is_too_deep};
pub use edit::Members;
pub use envelope::{Body, Kind, Malformed, Message, Span, parse_body, parse_line};
pub use error::{Code, error_message, error_with_data};
pub use peek::{
    CallParams, members, object, peek_call, peek_cancelled, peek_initialize_result, peek_progress,
    peek_requested_version, span_in, string,
};
pub use rewrite::{Patch, rewrite, rewrite_line};
pub use sse::{EventId, StreamId, encode_event, encode_priming, encode_retry};
pub use text::Text;
pub use version::Version;

#[cfg(test)]
mod properties;
