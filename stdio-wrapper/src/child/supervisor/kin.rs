//! The processes below a supervisor: its child, and what the child and its descendants have left behind.

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, kill_process_group, wait, waitid,
};

use crate::child::descent::children_of_this_process;

/// Looks in a row before it is waited for what was killed to end. A process that forks and exits, over and over, is only
/// there for a moment.
const LOOKS: usize = 16;

#[derive(Debug)]
pub(super) struct Kin {
    child: Pid,
    /// What `waitpid(2)` said of the child.
    status: Option<i32>,
    /// Others that were killed.
    killed: u64,
}

impl Kin {
    pub(super) fn of(child: Pid) -> Self {
        Self { child, status: None, killed: 0 }
    }

    /// Whether the child has ended. It is not waited for, so that its id stays its own, and that of its group.
    pub(super) fn child_has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.status.is_some() || !matches!(waitid(WaitId::Pid(self.child), options), Ok(None))
    }

    /// Signals the child and its group.
    pub(super) fn signal(&self, signal: Signal) {
        // Once it has been waited for, its id may be another one's.
        if self.status.is_none() {
            // It may have ended, which is the aim.
            let _ = kill_process_group(self.child, signal);
            // It may have left its group.
            let _ = kill_process(self.child, signal);
        }
    }

    /// Waits for whatever has ended.
    pub(super) fn collect(&mut self) {
        self.reap();
    }

    /// Kills what there is. Tells whether anything is left: what a killed process has started comes to us when it ends.
    pub(super) fn kill(&mut self) -> bool {
        for _ in 0..LOOKS {
            for pid in children_of_this_process() {
                // Nobody else waits for them, so their ids are theirs.
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

    /// Tells whether there are processes that have not ended.
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
