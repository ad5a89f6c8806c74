//! auth-service: an OAuth 2.1 authorization server for MCP. It also answers the checks that an edge proxy sends
//! for each request that it receives.
//!
//! `tests/layers.toml` lists the modules from the lowest layer to the highest, and the modules that each of them
//! can import. A test verifies the list. `docs/architecture.md` describes each module.

// `println!` and `eprintln!` panic if the pipe is closed. `contract::printing` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod app;
pub mod clients;
pub mod config;
pub mod doctor;
pub mod domain;
pub mod dpop;
pub mod forward_auth;
pub mod guard;
pub mod identity;
pub mod keys;
pub mod oauth;
pub mod operator;
pub mod ops;
pub mod pages;
pub mod policy;
pub mod principal;
pub mod rotation;
pub mod state;
pub mod store;
pub mod threads;
pub mod upkeep;
