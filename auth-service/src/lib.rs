//! auth-service: an OAuth 2.1 authorization server for MCP, and the check that every edge proxy asks about
//! every request.
//!
//! Rooms, lowest first: `domain` (pure types and rules), `keys`, `store`, `config`, `identity`, `facts`, `policy`,
//! `state`, `ops`, `pages`, `oauth`, `forward_auth`, `app`. The table of which room may import which is
//! `tests/layers.toml`; a test holds the code to it.

pub mod app;
pub mod clients;
pub mod config;
pub mod doctor;
pub mod domain;
pub mod dpop;
pub mod facts;
pub mod files;
pub mod forward_auth;
pub mod guard;
pub mod identity;
pub mod keys;
pub mod oauth;
pub mod operator;
pub mod ops;
pub mod pages;
pub mod policy;
pub mod rotation;
pub mod state;
pub mod store;
pub mod upkeep;
