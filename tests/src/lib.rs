//! What the end-to-end tests share: the real auth-service, the real wrapper and a real edge proxy on free loopback ports, a
//! person with a browser, and an MCP client of a few lines.
//!
//! A test reads as a sentence: `Stack::start().await.log_in().await`. What goes wrong on the way panics with the logs of
//! the tiers, because a test has nobody to return an error to. Only where failure is part of the test (a service that
//! is killed) do functions return `Result`.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test harness fails by panicking"
)]

pub mod blocks;
pub mod browser;
pub mod container;
pub mod control_group;
pub mod edge;
pub mod engine;
pub mod flood;
pub mod gate;
pub mod layers;
pub mod mcp;
pub mod oauth;
pub mod places;
pub mod process;
pub mod raw;
pub mod setup;
pub mod stack;
pub mod suite;
pub mod upstream;
pub mod web_page;

pub use edge::Edge;
pub use gate::{Answer, Gate};
pub use oauth::{Registration, Tokens};
pub use setup::{Setup, Tier};
pub use stack::Stack;
