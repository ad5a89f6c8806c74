//! auth-service: an OAuth 2.1 authorization server for MCP, and the check that edge proxies request for every
//! request.
//!
//! Modules, from the lowest layer to the highest: `domain` (pure types and rules), `threads`, `keys`, `store`, `config`,
//! `identity`, `principal`, `policy`, `state`, `ops`, `pages`, `oauth`, `forward_auth`, `app`.
//! `tests/layers.toml` lists which module can import which, and a test verifies it.

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
