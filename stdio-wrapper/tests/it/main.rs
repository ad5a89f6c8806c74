//! Tests of the real program in front of real children. All programs listen on loopback, on ports that the system
//! chooses.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking"
)]

mod attacks;
mod batches;
mod budget;
mod capacity;
mod children;
mod fairness;
mod groups;
mod identity;
mod isolation;
mod legacy_to_modern;
mod limits;
mod modern;
mod modern_checks;
mod modern_lists;
mod modern_routing;
mod modern_to_legacy;
mod odd_answers;
mod odd_requests;
mod questions;
mod resuming;
mod settings;
mod shared;
mod shares;
mod slow;
mod spares;
mod sse_2024;
mod starts;
mod stopping;
mod token_end;
mod translate_questions;
mod transport;
mod watches;
mod wrapper;
