//! The official SDK clients, unmodified and headless: their whole story through Envoy, how often they may come back as
//! strangers, and how they connect by a document. With them the one tool that checks authorization servers, and the
//! URLs that a stranger may call himself by, tried from a network of their own.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod conformance;
mod document;
mod document_host;
mod inside;
mod library;
mod machines;
mod name_server;
mod namespaces;
mod real_browser;
mod reconnect;
mod rust_sdk;
mod sdk;
mod signing_keys;
mod step_up;
mod story;
