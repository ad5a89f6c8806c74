//! What the wrapper says to the supervisor of a child, and what that says to the wrapper.

use serde::{Deserialize, Serialize};

use super::isolation::Isolation;
use super::limits::Limits;

/// The first argument of a supervisor, which is this same program.
pub const SUPERVISE: &str = "supervise-child";
/// Stands before the names of the child's variables, so that they mean nothing to the supervisor itself.
pub(super) const PREFIX: &str = "CHILD ";

/// How the child is started. Its command follows in arguments of their own, since each one's length is limited.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) isolation: Isolation,
    pub(super) limits: Limits,
    pub(super) cwd: Option<String>,
}

/// One byte each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// SIGTERM for the child's group.
    Terminate,
    /// The end of the child and of all that it has started.
    Kill,
}

impl Order {
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Terminate => b'T',
            Self::Kill => b'K',
        }
    }

    /// What cannot be read is taken as the end.
    pub(super) fn of(byte: u8) -> Self {
        if byte == Self::Terminate.byte() { Self::Terminate } else { Self::Kill }
    }
}

/// One line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// There is no child, and why.
    NotStarted(String),
    /// The child runs, but not quite as it was ordered.
    Warning(String),
    /// The child has ended, with this status as of `waitpid(2)`.
    Ended(i32),
    /// Nothing of it is left. So many other processes had to be killed for that.
    Gone(u64),
}
