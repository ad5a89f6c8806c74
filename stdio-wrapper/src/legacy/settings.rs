//! The limits and times of sessions.

use std::sync::Arc;
use std::time::Duration;

use crate::budget::Memory;
use crate::offload::Offload;

/// Limits and timeouts of sessions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Maximum number of sessions.
    pub max_sessions: usize,
    /// Maximum number of sessions of one principal. If it is `None`, one principal can have half of the sessions
    /// for which there is room (memory and processes), and at least 4.
    pub max_per_owner: Option<usize>,
    /// Maximum number of requests in progress in a session.
    pub max_in_flight: usize,
    /// Memory for events that a client can request again, in bytes.
    pub event_log: usize,
    /// Time after which an unused session ends.
    pub idle: Duration,
    /// Maximum time for a request without a response or progress.
    pub request_timeout: Duration,
    /// Maximum time for the response to `initialize`.
    pub start_timeout: Duration,
    /// Maximum time for a client's response to the child, after which a call waiting for it counts as late.
    pub input_timeout: Duration,
    /// Maximum length of a line from a child, in bytes.
    pub max_line: usize,
    /// Whether all sessions share one child.
    pub shared: bool,
    /// The memory for messages that are queued between clients and children.
    pub memory: Memory,
    /// The threads that process large lines from children.
    pub offload: Arc<Offload>,
}
