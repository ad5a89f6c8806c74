//! What auth-service and stdio-wrapper agree on: the headers and the assertion that tell a service who is calling, the
//! rules that only the service can enforce, and what their patterns and scopes mean. Each stands here once, so that the
//! program that writes it and the one that reads it cannot drift apart. Other services can read the same things
//! (`docs/forward-auth.md`).
//!
//! Beside that, it has the few functions that both programs need: reading settings, and their health check.

pub mod assertion;
pub mod duration;
pub mod files;
pub mod headers;
pub mod health;
pub mod log_filter;
pub mod log_lines;
pub mod pattern;
pub mod rules;
pub mod scope;
pub mod settings;
