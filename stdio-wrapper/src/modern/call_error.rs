//! Why a request of the stateless revision was not accepted.

use super::check::Fault;
use crate::child::StartError;

/// Why a request was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The wrapper's limit is reached.
    #[error("This server has no room for another child. Try again later.")]
    Full,
    /// The principal's limit is reached.
    #[error("Too many of your requests are waiting. Wait for some of them, or raise MAX_IN_FLIGHT.")]
    OwnerFull,
    /// No child could be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The wrapper is stopping.
    #[error("This server is shutting down. Try again in a moment.")]
    Stopping,
    /// The child's response to `server/discover` cannot be used.
    #[error("{0}")]
    Child(String),
    /// The headers of the request do not match the arguments of its tool.
    #[error(transparent)]
    Fault(#[from] Fault),
}
