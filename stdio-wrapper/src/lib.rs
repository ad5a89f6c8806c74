//! stdio-wrapper: any stdio MCP server over Streamable HTTP.
//!
//! Rooms, and which may use which: `protocol`, `policy` and `metrics` stand at the bottom and use no other; `stream` uses
//! `protocol`; `config` uses `policy`; `child` uses `config`, `protocol` and `metrics`; `identity` uses `config` and `policy`; `legacy`
//! (revisions with sessions) and `modern` (the stateless one) use `child`, `stream`, `protocol` and `metrics`; `translate`
//! uses both of them; `http` uses all of these; `ops` uses `metrics`; `unread` uses none; `app` puts them together.

pub mod app;
pub mod child;
pub mod config;
pub mod http;
pub mod identity;
pub mod legacy;
pub mod metrics;
pub mod modern;
pub mod ops;
pub mod policy;
pub mod protocol;
pub mod stream;
pub mod translate;
pub mod unread;
