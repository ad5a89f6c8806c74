//! The processes that descend from this one.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::procfs::{Stat, processes, stat};

/// The direct children of all threads of this process.
pub(super) fn children_of_this_process() -> Vec<Pid> {
    let found = listed_children().unwrap_or_else(|| {
        // Some kernels are built without the list (`CONFIG_PROC_CHILDREN`), so all processes are examined.
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        processes().into_iter().filter(|(_, stat)| stat.parent == own).map(|(pid, _)| pid).collect()
    });
    found.into_iter().filter_map(Pid::from_raw).collect()
}

fn listed_children() -> Option<Vec<i32>> {
    let mut found = Vec::new();
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        match std::fs::read_to_string(thread.ok()?.path().join("children")) {
            Ok(text) => found.extend(text.split_whitespace().filter_map(|id| id.parse::<i32>().ok())),
            // The thread has exited since it was listed.
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
            Err(_) => return None,
        }
    }
    Some(found)
}

/// A descendant of this process, direct or indirect.
#[derive(Debug)]
pub(super) struct Descendant {
    pub(super) pid: Pid,
    /// A handle of the process, because the system can reuse the process id.
    pub(super) handle: OwnedFd,
}

/// All processes that descend from this one.
pub(super) fn descendants_of_this_process() -> Vec<Descendant> {
    let (all, own) = (processes(), i32::try_from(std::process::id()).unwrap_or_default());
    let is_below = |mut at: Stat| {
        for _ in 0..all.len() {
            if at.parent == own {
                return true;
            }
            let Some(parent) = all.get(&at.parent) else { return false };
            at = *parent;
        }
        false
    };
    let below = all.iter().filter(|(_, seen)| is_below(**seen));
    let open = |(pid, seen): (&i32, &Stat)| {
        let id = Pid::from_raw(*pid)?;
        let handle = pidfd_open(id, PidfdFlags::empty()).ok()?;
        // If the start time has changed, the handle belongs to another process.
        (stat(*pid)?.started == seen.started).then_some(Descendant { pid: id, handle })
    };
    below.filter_map(open).collect()
}
