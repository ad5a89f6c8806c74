//! Resource limits of a child. Its supervisor sets them from outside right after it starts, so they hold for it and for all
//! it starts later; setting them between fork and exec would need unsafe code.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::config;

/// What this process could have open before [`raise_files`].
static FILES: OnceLock<Rlimit> = OnceLock::new();

/// Lets this process have as many files open as it is allowed to: each connection takes two, and the usual limit, 1024, is
/// meant for programs that wait with select(2). Children get the limit that was there before. Returns the limit now,
/// `None` for none.
pub fn raise_files() -> Option<u64> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if setrlimit(Resource::Nofile, raised).is_err() {
        return before.current;
    }
    // It is raised once.
    let _ = FILES.set(before);
    raised.current
}

/// Soft and hard limit; `None` is no limit.
type Bounds = (Option<u64>, Option<u64>);

/// What a child may use. `None`: as much as the wrapper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limits {
    memory: Option<u64>,
    cpu: Option<u64>,
    processes: Option<u64>,
    files: Option<Bounds>,
}

impl Limits {
    /// What is configured.
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

    /// Sets them. What the kernel refuses is told, and the others hold.
    pub(super) fn apply(&self, pid: Pid) -> Vec<String> {
        let exactly = |limit: Option<u64>| limit.map(|limit| (Some(limit), Some(limit)));
        let limits = [
            (Resource::As, exactly(self.memory)),
            (Resource::Cpu, exactly(self.cpu)),
            (Resource::Nproc, exactly(self.processes)),
            (Resource::Nofile, self.files),
            // A core file would hold what the child knows.
            (Resource::Core, exactly(Some(0))),
        ];
        let set = |(resource, limit): (Resource, Option<Bounds>)| {
            let (current, maximum) = limit?;
            let error = prlimit(Some(pid), resource, Rlimit { current, maximum }).err()?;
            Some(format!("the limit {current:?} for {resource:?} could not be set: {error}"))
        };
        limits.into_iter().filter_map(set).collect()
    }
}
