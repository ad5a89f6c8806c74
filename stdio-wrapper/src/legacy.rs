//! The revisions with a handshake, 2024-11-05 to 2025-11-25: manages sessions, and decides which client
//! receives a message from a child.

mod client;
mod giving_up;
mod link;
mod questions;
mod routing;
mod session;
mod sessions;
mod settings;
mod shared;
mod translated_server;
mod unsettled;

pub use client::Client;
pub use questions::TOO_MANY_QUESTIONS;
pub use session::Session;
pub use sessions::{OpenError, Sessions};
pub use settings::Settings;
pub use translated_server::{Busy, TranslatedServer};
