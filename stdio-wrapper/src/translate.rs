//! Translates between the eras: clients of the stateless revision in front of servers with a handshake, and
//! the other way round. Everything that both eras can express is translated, and anything else gets an error
//! that says so (docs/stdio-wrapper.md, "Between the eras").

mod call;
mod call_questions;
mod digest;
mod given_up;
mod group;
mod legacy_to_modern;
mod listen;
mod modern_to_legacy;
mod questions;
mod results;
mod seal;

pub use legacy_to_modern::LegacyToModern;
pub use modern_to_legacy::{ModernToLegacy, Refused, Settings};
