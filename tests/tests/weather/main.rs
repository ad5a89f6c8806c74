//! Tests of auth-service with faults in its environment: a disk that is full or fails, a store that is lost, a
//! clock that is wrong, too few files or threads, a log that is not read, and signals. Everything that was
//! acknowledged before a fault is still stored after it, and nothing that was revoked becomes valid again.
//! Readiness reports the fault, and the service recovers on its own when the cause is gone.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod clock;
mod disk;
mod files;
mod lost;
mod sky;
mod stop;
mod threads;
mod unread;
