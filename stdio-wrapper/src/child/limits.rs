//! Resource limits of a child. They are set from outside right after it starts, so they hold for it and for all it starts
//! later; setting them between fork and exec would need unsafe code.

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::config;

/// Applies what is configured; a limit that the kernel refuses is logged, not fatal.
pub(super) fn apply(pid: Pid, child: &config::Child) {
    let limits = [
        (Resource::As, child.max_memory),
        (Resource::Cpu, child.max_cpu),
        (Resource::Nproc, child.max_processes),
        (Resource::Nofile, child.max_files),
        // A core file would hold what the child knows.
        (Resource::Core, Some(0)),
    ];
    for (resource, limit) in limits {
        let Some(limit) = limit else { continue };
        let both = Rlimit { current: Some(limit), maximum: Some(limit) };
        if let Err(error) = prlimit(Some(pid), resource, both) {
            tracing::warn!(?resource, limit, %error, "a resource limit of the child could not be set");
        }
    }
}
