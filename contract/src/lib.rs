//! The contract between auth-service and stdio-wrapper. It consists of the headers and the assertion that identify
//! the caller to a service, the rules that only the service can enforce, and the meaning of their patterns and
//! scopes. Each of these is defined only here, so that the program that writes it and the program that reads it
//! always agree. Other services can read the same data (`docs/forward-auth.md`).
//!
//! The crate also contains a few functions that both programs need, for settings, logs, health checks and
//! listeners.

pub mod assertion;
pub mod causes;
pub mod duration;
pub mod files;
pub mod headers;
pub mod health;
pub mod listener;
pub mod log_filter;
pub mod log_lines;
pub mod pattern;
pub mod printing;
pub mod rules;
pub mod scope;
pub mod settings;
