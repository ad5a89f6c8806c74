//! Resource limits of a child. They are set from outside right after it starts, so they hold for it and for all it starts
//! later; setting them between fork and exec would need unsafe code.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

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

/// Applies what is configured; a limit that the kernel refuses is logged, not fatal.
pub(super) fn apply(pid: Pid, child: &config::Child) {
    let exactly =
        |limit: Option<u64>| limit.map(|limit| Rlimit { current: Some(limit), maximum: Some(limit) });
    let limits = [
        (Resource::As, exactly(child.max_memory)),
        (Resource::Cpu, exactly(child.max_cpu)),
        (Resource::Nproc, exactly(child.max_processes)),
        (Resource::Nofile, exactly(child.max_files).or_else(|| FILES.get().copied())),
        // A core file would hold what the child knows.
        (Resource::Core, exactly(Some(0))),
    ];
    for (resource, limit) in limits {
        let Some(limit) = limit else { continue };
        let wanted = limit.current;
        if let Err(error) = prlimit(Some(pid), resource, limit) {
            tracing::warn!(?resource, limit = wanted, %error, "a resource limit of the child could not be set");
        }
    }
}
