//! The revisions with a handshake, 2024-11-05 to 2025-11-25: sessions, streams, and who gets which message of a child.

mod link;
mod routing;
mod session;
mod sessions;
mod shared;
mod stream;

pub use session::{Refusal, Session};
pub use sessions::{OpenError, Random, Sessions, Settings};
pub use stream::{Consumer, First, Next, Stream};
