//! Bad weather below auth-service: a disk that is full or fails, a store that is lost, a clock that is wrong. What was
//! acknowledged before is there after it, readiness tells of it, it is over by itself when its cause is, and nothing that was
//! revoked opens anything.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod clock;
mod disk;
mod files;
mod lost;
mod sky;
mod stop;
mod threads;
mod unread;
