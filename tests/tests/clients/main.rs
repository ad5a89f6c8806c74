//! Tests with the official SDK clients, unmodified and headless: the whole flow through Envoy, repeated
//! registrations, and clients with a metadata document. Other tests run the conformance suite for authorization
//! servers, and try forbidden client URLs in a separate network.
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
