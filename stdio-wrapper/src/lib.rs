//! stdio-wrapper: any stdio MCP server over Streamable HTTP.
//!
//! Rooms, and which may use which: `protocol`, `policy`, `metrics`, `attempts` and `holding` stand at the bottom and use no other; `connection` and
//! `unread` use `holding`;
//! `stream` and `budget` use `protocol`; `config` uses `policy`; `child` uses `capacity`, which uses none, `config`, `protocol` and `metrics`; `identity` uses
//! `config` and `policy`; `legacy` (revisions with sessions) and `modern` (the stateless one) use `child`, `stream`, `protocol`,
//! `policy`, `budget`, `attempts` and `metrics`; `translate` uses both of them and
//! `budget` and `attempts`; `http` uses all of these; `ops` uses `metrics`; `app` puts them
//! together.

pub mod app;
mod attempts;
pub mod budget;
pub mod capacity;
pub mod child;
pub mod config;
pub mod connection;
mod holding;
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
