//! The settings from which children are started.

use std::sync::Arc;
use std::time::Duration;

use super::isolation::Isolation;
use crate::budget::Memory;
use crate::capacity::Capacity;
use crate::config;

/// The settings of a launcher.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The command and its limits.
    pub child: config::Child,
    /// Number of spares to keep (`PREWARM`).
    pub prewarm: usize,
    /// Maximum time for a child's first response.
    pub start_timeout: Duration,
    /// Maximum number of children that are starting at the same time.
    pub max_starts: usize,
    /// Maximum number of bytes that are queued for a child.
    pub max_queue: usize,
    /// How children are isolated from each other.
    pub isolation: Isolation,
    /// Decides how many children fit into the container.
    pub capacity: Arc<Capacity>,
    /// The memory of the data that is queued between clients and children.
    pub memory: Memory,
}
