//! auth-service: an OAuth 2.1 authorization server for MCP, and the check that edge proxies request for every
//! request.
//!
//! `tests/layers.toml` lists the modules from the lowest layer to the highest, and which of them each can
//! import. A test verifies it. `docs/architecture.md` says what each module contains.

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
