//! Translates between the eras, so that clients of the stateless revision can use servers with a handshake, and
//! vice versa. Everything that both eras can express is translated. Anything else results in an error that
//! explains this (docs/stdio-wrapper.md, "Between the eras").

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
mod watched;

pub use legacy_to_modern::LegacyToModern;
pub use modern_to_legacy::{ModernToLegacy, Refused, Settings};
