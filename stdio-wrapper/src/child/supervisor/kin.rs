//! The descendants of a supervisor: its child, and processes that the child and its descendants have left
//! behind.

use std::collections::HashSet;
use std::os::fd::AsFd as _;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, kill_process_group,
    pidfd_send_signal, prlimit, wait, waitid,
};

use crate::child::descendants::{children_of_this_process, descendants_of_this_process};

/// Number of scans for children before the supervisor waits for the processes that it has killed. With only one
/// scan, a process that repeatedly forks and exits would never be found.
const LOOKS: usize = 16;
/// Number of scans in which only the children of the supervisor are killed. This is enough for nearly every
/// program.
const EASY_LOOKS: usize = 2;
/// Maximum number of scans for processes that can still fork, before they are killed.
const STOPS: usize = 16;

#[derive(Debug)]
pub(super) struct Kin {
    child: Pid,
    /// The status of the child (`waitpid(2)`), once it has exited.
    status: Option<i32>,
    /// The number of other processes that were killed.
    killed: u64,
}

impl Kin {
    pub(super) fn of(child: Pid) -> Self {
        Self { child, status: None, killed: 0 }
    }

    /// Whether the child has exited. The child is not reaped here, so that its id, which is also its group id,
    /// is not given to another process.
    pub(super) fn child_has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.status.is_some() || !matches!(waitid(WaitId::Pid(self.child), options), Ok(None))
    }

    /// Signals the child and its group.
    pub(super) fn signal(&self, signal: Signal) {
        // Once the child has been reaped, its id might belong to another process.
        if self.status.is_none() {
            // The child might already have exited.
            let _ = kill_process_group(self.child, signal);
            // The child might have left its group.
            let _ = kill_process(self.child, signal);
        }
    }

    /// Reaps the processes that have exited.
    pub(super) fn collect(&mut self) {
        self.reap();
    }

    /// Kills all children of the supervisor. Returns whether any are left. The children of a killed process
    /// become children of the supervisor.
    pub(super) fn kill(&mut self) -> bool {
        for look in 0..LOOKS {
            if look >= EASY_LOOKS {
                stop_forks();
            }
            for pid in children_of_this_process() {
                // Only this process reaps its children, so their ids cannot belong to other processes.
                let _ = kill_process(pid, Signal::KILL);
            }
            if !self.reap() {
                return false;
            }
        }
        true
    }

    pub(super) fn status(&self) -> Option<i32> {
        self.status
    }

    pub(super) fn killed(&self) -> u64 {
        self.killed
    }

    /// Reaps the processes that have exited. Returns whether any are still running.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.child => self.status = Some(status.as_raw()),
                Ok(Some((_, status))) => {
                    self.killed += u64::from(status.terminating_signal() == Some(Signal::KILL.as_raw()));
                }
                Ok(None) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Stops all descendants of the supervisor, prevents them from forking, and kills them. Killing one generation
/// after another is too slow for processes that fork continuously, and each killed process frees a process slot
/// for another one.
fn stop_forks() {
    let mut stopped = HashSet::new();
    for _ in 0..STOPS {
        let found = descendants_of_this_process();
        let fresh: Vec<_> = found.iter().filter(|process| !stopped.contains(&process.pid)).collect();
        if fresh.is_empty() {
            break;
        }
        for process in fresh {
            // The process might already have exited.
            let _ = pidfd_send_signal(process.handle.as_fd(), Signal::STOP);
            // The children of the process inherit this limit. It does not apply to processes of root, which are
            // only stopped.
            let none = Rlimit { current: Some(0), maximum: Some(0) };
            let _ = prlimit(Some(process.pid), Resource::Nproc, none);
            stopped.insert(process.pid);
        }
    }
    for process in descendants_of_this_process() {
        let _ = pidfd_send_signal(process.handle.as_fd(), Signal::KILL);
    }
}
