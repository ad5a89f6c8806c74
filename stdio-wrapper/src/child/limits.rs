//! The resource limits of a child. They are set by the process that then becomes the child (`becoming`), so they
//! apply to the child and to all processes that it starts. Setting them between fork and exec would need unsafe
//! code.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::config;

/// The limit of open files that this process had before [`raise_files`].
static FILES: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit of open files of this process to its maximum. Each connection takes two files, and the usual
/// limit of 1024 is meant for programs that wait with select(2). Children get the previous limit. Returns the new
/// limit, or `None` if there is none.
pub fn raise_files() -> Option<u64> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if setrlimit(Resource::Nofile, raised).is_err() {
        return before.current;
    }
    // This function is called once.
    let _ = FILES.set(before);
    raised.current
}

/// A soft and a hard limit. `None` means that there is no limit.
type Bounds = (Option<u64>, Option<u64>);

/// The limits of a child. `None` means that the child has the limit of the wrapper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limits {
    memory: Option<u64>,
    cpu: Option<u64>,
    processes: Option<u64>,
    files: Option<Bounds>,
}

impl Limits {
    /// The limits from the settings.
    pub(super) fn of(child: &config::Child) -> Self {
        let exactly = child.max_files.map(|limit| (Some(limit), Some(limit)));
        let before = || FILES.get().map(|limit| (limit.current, limit.maximum));
        Self {
            memory: child.max_memory,
            cpu: child.max_cpu,
            processes: child.max_processes,
            files: exactly.or_else(before),
        }
    }

    /// Sets the limits of this process. Returns a sentence for each limit that the kernel refuses; the others are set.
    pub(super) fn apply(&self) -> Vec<String> {
        let exactly = |limit: Option<u64>| limit.map(|limit| (Some(limit), Some(limit)));
        let limits = [
            // A core file would contain the secrets of the child.
            (Resource::Core, exactly(Some(0))),
            (Resource::Cpu, exactly(self.cpu)),
            (Resource::Nproc, exactly(self.processes)),
            (Resource::Nofile, self.files),
            // This process still needs some memory itself.
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
