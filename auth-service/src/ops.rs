//! What operators can observe: health, readiness, metrics, audit events and log lines.

pub mod audit;
pub mod endpoints;
pub mod log_writer;
pub mod telemetry;
