//! Shared code of the end-to-end tests: the real auth-service, the real wrapper and a real edge proxy on free
//! loopback ports, a user with a browser, and a small MCP client.
//!
//! A test reads as a sentence: `Stack::start().await.log_in().await`. If a step fails, it panics with the logs of
//! all programs. Functions return `Result` only where a failure can be part of the test, for example because a
//! program is killed.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test harness fails by panicking"
)]

pub mod blocks;
pub mod browser;
pub mod check;
pub mod container;
pub mod control_group;
pub mod edge;
pub mod engine;
pub mod flood;
pub mod gate;
pub mod layers;
pub mod mcp;
pub mod next_door;
pub mod oauth;
pub mod places;
pub mod process;
pub mod raw;
pub mod report;
pub mod setup;
pub mod stack;
pub mod suite;
pub mod upstream;
pub mod web_page;

pub use edge::Edge;
pub use gate::{Answer, Gate};
pub use oauth::{Registration, Tokens};
pub use report::say;
pub use setup::{Setup, Tier};
pub use stack::Stack;
