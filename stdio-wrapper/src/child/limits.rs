//! The resource limits of a child. The process that then becomes the child sets them (`becoming`), so they
//! apply to the child and to all processes that it starts. Setting them between fork and exec would need unsafe
//! code.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::config;

/// The limit on open files that this process had before [`raise_files`].
static FILES: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit on open files of this process to its maximum. Each connection takes two files, and the
/// usual limit of 1024 exists for programs that use select(2). Children get the previous limit. Returns the new
/// limit, or `None` if there is none.
pub fn raise_files() -> Option<u64> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if setrlimit(Resource::Nofile, raised).is_err() {
        return before.current;
    }
    // This cannot fail, because the function is called only once.
    let _ = FILES.set(before);
    raised.current
}

/// Children do not get 1/`WITHHELD` of the limit on open files. At most [`MOST_WITHHELD`] are withheld.
const WITHHELD: u64 = 4;
/// Maximum number of open files that are withheld from children, enough for 256 threads that send at the same
/// time.
const MOST_WITHHELD: u64 = 1 << 16;

/// The highest limit on open files for a child. It is lower than the wrapper's limit, because the wrapper sends
/// the pipes of each child over a socket. For each user id, the kernel counts all files that have been sent and
/// not yet received, and refuses further ones beyond the limit of the sending process (`unix(7)`,
/// ETOOMANYREFS). A child with the wrapper's limit could use up this count, and no further child could be
/// started.
fn most_files(wrapper: u64) -> u64 {
    wrapper.saturating_sub((wrapper / WITHHELD).min(MOST_WITHHELD))
}

/// A soft and a hard limit. `None` means that there is no limit.
type Bounds = (Option<u64>, Option<u64>);

/// The limits of a child. `None` means that the child inherits the wrapper's limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limits {
    memory: Option<u64>,
    cpu: Option<u64>,
    processes: Option<u64>,
    files: Option<Bounds>,
    /// Upper bound for open files that applies even if `files` cannot be set.
    most_files: Option<u64>,
}

impl Limits {
    /// The limits from the settings.
    pub(super) fn of(child: &config::Child) -> Self {
        let exactly = child.max_files.map(|limit| (Some(limit), Some(limit)));
        // The wrapper and the supervisors have raised their limits to the maximum.
        let most_files = FILES.get().and_then(|limit| limit.maximum).map(most_files);
        let at_most = |limit: Option<u64>| limit.into_iter().chain(most_files).min();
        let before = || FILES.get().map(|limit| (at_most(limit.current), at_most(limit.maximum)));
        Self {
            memory: child.max_memory,
            cpu: child.max_cpu,
            processes: child.max_processes,
            files: exactly.or_else(before),
            most_files,
        }
    }

    /// Sets the limits of this process. Returns a message for each limit that the kernel rejects, and sets the
    /// others.
    pub(super) fn apply(&self) -> Vec<String> {
        let exactly = |limit: Option<u64>| limit.map(|limit| (Some(limit), Some(limit)));
        let limits = [
            // A core file would contain the secrets of the child.
            (Resource::Core, exactly(Some(0))),
            (Resource::Cpu, exactly(self.cpu)),
            (Resource::Nproc, exactly(self.processes)),
            (Resource::Nofile, exactly(self.most_files)),
            (Resource::Nofile, self.files),
            // The memory limit is set last, because this process needs memory while it sets the others.
            (Resource::As, exactly(self.memory)),
        ];
        let set = |(resource, limit): (Resource, Option<Bounds>)| {
            let (current, maximum) = limit?;
            let error = setrlimit(resource, Rlimit { current, maximum }).err()?;
            Some(format!("the limit {current:?} for {resource:?} could not be set: {error}"))
        };
        limits.into_iter().filter_map(set).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a100_a_child_has_fewer_open_files_than_the_wrapper_can_send() {
        assert_eq!(most_files(1 << 20), (1 << 20) - MOST_WITHHELD);
        assert_eq!([1024, 4096, 1].map(most_files), [768, 3072, 1]);
    }
}
