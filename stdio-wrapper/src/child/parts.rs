//! Measures the memory of processes that share some of it. The kernel walks all pages for this, which takes time.

use std::collections::HashMap;

use tokio::time::Instant;

use super::procfs::{proportional, usage_of};

/// The memory of the processes of a child.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) anonymous: Shared,
    /// Memory of mapped files that are stored only in memory.
    pub(super) in_files: Shared,
}

/// One kind of memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shared {
    /// The sum of the values that the kernel reports for the processes.
    pub(super) counted: u64,
    /// The same sum, with each shared page counted once.
    pub(super) once: u64,
}

impl Shared {
    /// Adds a process. A process that does not let others look at its pages counts as if it shared none.
    fn add(&mut self, counted: u64, proportional: Option<u64>) {
        self.counted += counted;
        self.once += proportional.unwrap_or(counted).min(counted);
    }
}

/// The memory of each child with several processes. `processes` does not contain the supervisors. A child is left out
/// if it cannot be measured before `until`. The child that seems to have the most memory is measured first.
pub(super) fn parts(processes: &HashMap<u64, Vec<i32>>, until: Instant) -> HashMap<u64, Part> {
    let part = |pids: &[i32]| {
        let mut part = Part::default();
        for pid in pids {
            // The process might have exited in the meantime.
            let usage = usage_of(*pid).unwrap_or_default();
            if usage.memory > 0 {
                if Instant::now() >= until {
                    return None;
                }
                let (anonymous, in_files) = proportional(*pid).unzip();
                part.anonymous.add(usage.anonymous(), anonymous);
                part.in_files.add(usage.in_files, in_files);
            }
        }
        Some(part)
    };
    // A child with a single process shares its pages with no other process of the child.
    let several = processes.iter().filter(|(_, pids)| pids.len() > 1);
    let memory = |pids: &[i32]| pids.iter().filter_map(|pid| Some(usage_of(*pid)?.memory)).sum::<u64>();
    let mut several: Vec<_> = several.map(|(number, pids)| (memory(pids), number, pids)).collect();
    several.sort_unstable_by_key(|(memory, ..)| std::cmp::Reverse(*memory));
    several.into_iter().filter_map(|(_, number, pids)| Some((*number, part(pids)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::child::descent::Descent;

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
        let counted = descent.usage(&children)[&5];
        let processes = descent.processes(&children);
        let part = parts(&processes, Instant::now() + Duration::from_secs(60)).get(&5).copied();
        let late = parts(&processes, Instant::now());
        for pid in processes.into_values().flatten() {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(counted.processes == 7 && counted.anonymous() > 240 << 20, "{counted:?}");
        let part = part.unwrap();
        assert!(part.anonymous.counted > 240 << 20, "{part:?}");
        assert!((40 << 20..100 << 20).contains(&part.anonymous.once), "{part:?}");
        assert!(part.in_files.counted >= 60 << 20, "{part:?}");
        assert!((9 << 20..20 << 20).contains(&part.in_files.once), "{part:?}");
        assert!(late.is_empty(), "{late:?}");
    }
}
