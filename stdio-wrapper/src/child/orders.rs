//! The messages between the wrapper and the supervisor of a child.

use serde::{Deserialize, Serialize};

use super::isolation::Isolation;
use super::limits::Limits;

/// The first argument that makes the wrapper's program run as a supervisor.
pub const SUPERVISE: &str = "supervise-child";
/// The first argument that makes the wrapper's program become a child.
pub const BECOME: &str = "become-child";
/// The first argument that makes the wrapper's program count the watches of a child.
pub const COUNT: &str = "count-watches";
/// The program of this process. The path works even if the program file was renamed, or if this user cannot
/// access it.
pub(super) const PROGRAM: &str = "/proc/self/exe";
/// The prefix of the child's environment variables in the environment of its supervisor. It keeps them from
/// having an effect on the supervisor.
pub(super) const PREFIX: &str = "CHILD ";

/// How the child is started. The command of the child follows as separate arguments, because the length of each
/// argument is limited.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) isolation: Isolation,
    pub(super) limits: Limits,
    pub(super) cwd: Option<String>,
}

/// A command from the wrapper to the supervisor, sent as one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Send SIGTERM to the process group of the child.
    Terminate,
    /// Kill the child and all its descendants.
    Kill,
}

impl Order {
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Terminate => b'T',
            Self::Kill => b'K',
        }
    }

    /// Decodes an order. An unknown byte counts as an order to kill.
    pub(super) fn of(byte: u8) -> Self {
        if byte == Self::Terminate.byte() { Self::Terminate } else { Self::Kill }
    }
}

/// A message from the supervisor to the wrapper, sent as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The child could not be started. Contains the error message.
    NotStarted(String),
    /// The child runs, but one of its limits could not be set. Contains the error message.
    Warning(String),
    /// The child has exited with this status (`waitpid(2)`).
    Ended(i32),
    /// All processes of the child have exited. Contains the number of other processes that had to be killed.
    Gone(u64),
}
