//! JSON-RPC and MCP messages as bytes: determines the kind of a message and the position of its id, and
//! replaces the id.
//!
//! Everything in this module is pure. A message is never parsed into a tree and serialized again. Instead, the
//! parser records the positions of the envelope members, and rewriting replaces the original bytes at these
//! positions. Therefore unknown parts stay unchanged.

mod advice;
mod depth;
mod digits;
mod edit;
mod envelope;
mod envelope_key;
mod error;
mod error_form;
mod ids;
mod keys;
mod malformed;
mod methods;
mod object;
mod outcome;
mod outgoing;
mod outline;
mod params;
mod peek;
mod rewrite;
mod salvage;
mod span;
mod sse;
mod strings;
mod text;
mod tidy;
mod untidy;
mod version;

pub use advice::too_long;
pub use depth::{MAX_DEPTH, is_too_deep};
pub use digits::{MAX_DIGITS, has_endless_number};
pub use edit::{Members, add_member, edit_members};
pub use envelope::{BadItem, Body, BodyParts, Kind, Message, Parts, parse_body, parse_line, parse_owned};
pub use envelope_key::folds_to;
pub use error::{Code, error_message, error_with_data, error_words};
#[cfg(test)]
pub use ids::DECODED;
pub use ids::{IdKey, own_number, same_id};
pub use keys::has_nul_key;
pub use malformed::Malformed;
pub use object::{elements, members, object, string};
pub use outcome::{Relayed, is_about_a_request, is_sound, relay, start_of};
pub use outgoing::{Outgoing, cancelled, client_info, initialize};
pub use outline::{Outline, OutlineReader, Unreadable, outline};
pub use params::LOG_LEVEL;
pub use peek::{
    CallParams, peek_call, peek_cancelled, peek_initialize_result, peek_name, peek_progress,
    peek_requested_version, progress_token,
};
pub use rewrite::{Patch, Patches, rewrite, rewrite_line};
pub use salvage::{Line, Salvage, Salvaged, mended_length, parse_mended};
pub use span::Span;
pub use span::span_in;
pub use sse::{Event, EventId, StreamId, encode_event, encode_priming, encode_retry};
pub use strings::without_lone_surrogates;
pub use text::Text;
pub use tidy::{tidied, tidy, tidy_body};
pub use version::Version;

#[cfg(test)]
mod properties;
