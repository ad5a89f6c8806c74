//! What operators see: health, readiness, metrics, audit events, log lines.

pub mod audit;
pub mod endpoints;
pub mod telemetry;
