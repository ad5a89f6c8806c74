//! Translates between the eras: clients of the stateless revision in front of servers with a handshake, and
//! the other way round. What both eras can express is translated, and anything else is a clear error
//! (docs/stdio-wrapper.md, "Between the eras").

mod asked;
mod backward;
mod call;
mod digest;
mod facade;
mod given_up;
mod group;
mod listen;
mod questions;
mod results;
mod seal;

pub use backward::Backward;
pub use facade::{Facade, Refused, Settings};
