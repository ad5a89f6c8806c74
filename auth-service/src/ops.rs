//! Health, readiness, metrics, audit events and log lines for operators.

pub mod audit;
pub mod endpoints;
pub mod log_writer;
pub mod metrics;
pub mod telemetry;
