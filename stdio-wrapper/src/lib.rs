//! stdio-wrapper serves any stdio MCP server over Streamable HTTP.
//!
//! docs/architecture.md describes the modules, and `tests/layers.toml` specifies which modules each of them can
//! import.

// `println!` and `eprintln!` panic if the pipe is closed. `contract::printing` does not.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod app;
mod attempts;
pub mod budget;
pub mod capacity;
pub mod child;
pub mod config;
pub mod connection;
mod conversation;
pub mod http;
pub mod identity;
pub mod legacy;
pub mod log;
pub mod metrics;
pub mod modern;
pub mod offload;
pub mod ops;
pub mod places;
pub mod policy;
pub mod protocol;
pub mod stream;
pub mod translate;
pub mod turns;
pub mod unread;
