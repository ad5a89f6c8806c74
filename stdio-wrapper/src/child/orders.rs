//! The messages between the wrapper and the supervisor of a child.

use serde::{Deserialize, Serialize};

use super::isolation::Isolation;
use super::limits::Limits;

/// The first argument of a supervisor, which is the program of the wrapper.
pub const SUPERVISE: &str = "supervise-child";
/// The first argument of the program that becomes a child.
pub const BECOME: &str = "become-child";
/// The program of this process. This also works if its file was renamed, or if this user cannot reach it.
pub(super) const PROGRAM: &str = "/proc/self/exe";
/// The prefix of the child's environment variables in the environment of its supervisor, for which they have
/// no meaning.
pub(super) const PREFIX: &str = "CHILD ";

/// How the child is started. The command of the child is not in here: it follows as separate arguments,
/// because the length of each argument is limited.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) isolation: Isolation,
    pub(super) limits: Limits,
    pub(super) cwd: Option<String>,
}

/// What the wrapper orders. Each order is one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Send SIGTERM to the process group of the child.
    Terminate,
    /// Kill the child and everything that it has started.
    Kill,
}

impl Order {
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::Terminate => b'T',
            Self::Kill => b'K',
        }
    }

    /// Reads an order. An unknown byte is an order to kill.
    pub(super) fn of(byte: u8) -> Self {
        if byte == Self::Terminate.byte() { Self::Terminate } else { Self::Kill }
    }
}

/// What the supervisor reports. Each report is one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The child could not be started, for this reason.
    NotStarted(String),
    /// The child runs, but one of its limits could not be set.
    Warning(String),
    /// The child has ended with this status (`waitpid(2)`).
    Ended(i32),
    /// No process of the child is left. This number of other processes had to be killed.
    Gone(u64),
}
