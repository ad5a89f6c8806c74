//! Measures the memory of the processes of a child, which can share some of it.

use super::procfs::{Process, Sizes, usage_of};

/// The memory of the processes of a child, without its supervisor, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// The anonymous memory that the kernel reports for each process.
    pub(super) sizes: Sizes,
    /// Anonymous memory, with each shared page counted once.
    pub(super) anonymous: u64,
    /// Memory of mapped files that are stored only in memory, as the kernel reports it for the processes.
    pub(super) reported_in_files: u64,
    /// The same, with each shared page counted once.
    pub(super) in_files: u64,
}

impl Part {
    /// Measures processes. `proportional` returns the anonymous memory of a process and its memory in files, with a page
    /// that n processes share counted as 1/n of a page. If it returns `None`, the process counts as if it shared nothing.
    pub(super) fn of(processes: &[Process], proportional: impl Fn(i32) -> Option<(u64, u64)>) -> Self {
        let mut part = Self::default();
        for process in processes {
            // The process might have exited in the meantime.
            let usage = usage_of(process.pid).unwrap_or_default();
            let measured = if usage.memory > 0 { proportional(process.pid) } else { None };
            let (anonymous, in_files) = measured.unwrap_or((u64::MAX, u64::MAX));
            part.sizes.insert(*process, usage.anonymous());
            part.anonymous += anonymous.min(usage.anonymous());
            part.reported_in_files += usage.in_files;
            part.in_files += in_files.min(usage.in_files);
        }
        part
    }

    /// The memory of processes, as if they shared nothing.
    pub(super) fn unshared(processes: &[Process]) -> Self {
        Self::of(processes, |_| None)
    }

    /// What the kernel reports for all processes together, in bytes.
    pub(super) fn reported(&self) -> u64 {
        self.sizes.values().sum::<u64>() + self.reported_in_files
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::child::descent::Descent;
    use crate::child::procfs::proportional;

    #[test]
    fn pages_that_processes_share_after_a_fork_count_once() {
        let script = "import os, signal, sys\nimport mmap\nkept = b'k' * (40 << 20)\nshared = mmap.mmap(-1, 10 << 20)\nshared.write(bytes(10 << 20))\nfor _ in range(5):\n  if os.fork() == 0:\n    sum(shared[::4096])\n    os.kill(os.getpid(), signal.SIGSTOP)\n[os.waitpid(-1, os.WUNTRACED) for _ in range(5)]\nprint('forked', flush=True)\nsignal.pause()";
        let mut command = std::process::Command::new("sh");
        // The shell represents the supervisor.
        command.args(["-c", "python3 -c \"$0\"; exit", script]).stdout(std::process::Stdio::piped());
        let mut shell = command.spawn().unwrap();
        let mut out = [0; 7];
        std::io::Read::read_exact(&mut shell.stdout.take().unwrap(), &mut out).unwrap();
        let children = HashMap::from([(5, i32::try_from(shell.id()).unwrap())]);
        let mut descent = Descent::default();
        descent.look(&children);
        let (usage, sizes) = descent.usage(&children);
        let processes: Vec<Process> = sizes[&5].keys().copied().collect();
        let (part, unshared) = (Part::of(&processes, proportional), Part::unshared(&processes));
        for process in processes {
            let _ = kill_process(Pid::from_raw(process.pid).unwrap(), Signal::KILL);
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
        let usage = usage[&5];
        assert!(usage.processes == 7 && usage.anonymous() > 240 << 20, "{usage:?}");
        assert!(usage.anonymous() > sizes[&5].values().sum::<u64>(), "the supervisor has memory too");
        assert!(unshared.anonymous > 240 << 20 && unshared.in_files >= 60 << 20, "{unshared:?}");
        assert!(unshared.reported() > 300 << 20, "{unshared:?}");
        assert!((40 << 20..100 << 20).contains(&part.anonymous), "{part:?}");
        assert!(part.reported_in_files >= 60 << 20, "{part:?}");
        assert!((9 << 20..20 << 20).contains(&part.in_files), "{part:?}");
    }
}
