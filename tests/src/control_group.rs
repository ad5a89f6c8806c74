//! Control groups that limit a process to the memory and the number of processes that a compose file allows for
//! its container. Both versions on Linux are supported: version 1 with a directory for each resource, and version
//! 2 with a single directory.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::process::run_by;
use crate::report::say;

const ROOT: &str = "/sys/fs/cgroup";

/// Limits for the processes in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Memory in bytes (`mem_limit`).
    pub memory: u64,
    /// Number of processes and threads (`pids_limit`).
    pub pids: u64,
    /// Number of open files of each process (`ulimits: nofile`), if there is a limit.
    pub files: Option<u64>,
}

/// A control group. Dropping this value removes the group, whose processes must have exited by then.
#[derive(Debug)]
pub struct ControlGroup {
    bounds: Bounds,
    /// The directory that limits memory.
    memory: PathBuf,
    /// The directory that limits processes. In version 2, it is the same directory.
    pids: PathBuf,
    is_v2: bool,
}

impl ControlGroup {
    /// Creates a control group.
    ///
    /// # Errors
    ///
    /// Most often, the permission is missing, because only root can create control groups.
    pub fn make(bounds: Bounds) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mcp-gate-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Path::new(ROOT);
        let is_v2 = root.join("cgroup.controllers").exists();
        let (memory, pids) = if is_v2 {
            // A controller might already be enabled or be missing. A missing one causes an error below.
            fs::write(root.join("cgroup.subtree_control"), "+memory +pids").ok();
            (root.join(&name), root.join(&name))
        } else {
            (root.join("memory").join(&name), root.join("pids").join(&name))
        };
        for directory in [&memory, &pids] {
            if !directory.exists() {
                fs::create_dir(directory)
                    .with_context(|| format!("no control group can be created at {}", directory.display()))?;
            }
        }
        let group = Self { bounds, memory, pids, is_v2 };
        let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        put(&group.memory.join(limit), bounds.memory)?;
        put(&group.pids.join("pids.max"), bounds.pids)?;
        // Swap space must not extend the limit. Not every kernel supports this setting.
        let swap =
            if is_v2 { ("memory.swap.max", 0) } else { ("memory.memsw.limit_in_bytes", bounds.memory) };
        put(&group.memory.join(swap.0), swap.1).ok();
        Ok(group)
    }

    /// Whether this machine allows a group with these limits. If it does not, prints that the test with this
    /// name is skipped.
    pub fn is_possible(bounds: Bounds, test: &str) -> bool {
        Self::make(bounds).inspect_err(|why| say(&format!("SKIPPED {test}: {why:#}"))).is_ok()
    }

    /// Prevents the processes of the group from starting more threads than they have now.
    ///
    /// # Errors
    ///
    /// The kernel refuses the change.
    pub fn allow_no_more_threads(&self) -> Result<()> {
        let used: u64 = fs::read_to_string(self.pids.join("pids.current"))?.trim().parse()?;
        put(&self.pids.join("pids.max"), used)
    }

    /// Allows the processes of the group to start threads up to its limit again.
    ///
    /// # Errors
    ///
    /// The kernel refuses the change.
    pub fn allow_threads(&self) -> Result<()> {
        put(&self.pids.join("pids.max"), self.bounds.pids)
    }

    /// The same command, which enters this group when it starts.
    #[must_use]
    pub fn enter(&self, command: &Command) -> Command {
        // A program that cannot be put into the group does not start, because it would run without limits.
        let script = "{ [ -z \"$2\" ] || ulimit -n \"$2\"; } && echo $$ >\"$0\" && echo $$ >\"$1\" && shift 2 && exec \"$@\"";
        let [memory, pids] = [&self.memory, &self.pids].map(|directory| directory.join("cgroup.procs"));
        let files = self.bounds.files.map_or_else(String::new, |files| files.to_string());
        let arguments = [memory.as_os_str(), pids.as_os_str(), OsStr::new(&files)];
        let shell = ["sh", "-c", script].map(OsStr::new);
        run_by(&[&shell[..], &arguments].concat(), command)
    }

    /// The memory that the processes themselves use, in bytes, excluding files that the kernel caches while
    /// memory is free.
    ///
    /// # Errors
    ///
    /// The kernel does not report the value.
    pub fn held(&self) -> Result<u64> {
        // Memory that the kernel uses for the processes, such as memory for sockets, is included only in the total
        // usage.
        let stat = fs::read_to_string(self.memory.join("memory.stat"))?;
        let of = |name: &str| {
            let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.parse::<u64>().ok()).with_context(|| format!("no {name} in {stat}"))
        };
        if self.is_v2 { of("anon") } else { of("total_rss") }
    }

    /// The peak of the total usage so far, in bytes, including files and the kernel's memory for the group.
    ///
    /// # Errors
    ///
    /// The kernel does not report the value.
    pub fn peak(&self) -> Result<u64> {
        let file = if self.is_v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        Ok(fs::read_to_string(self.memory.join(file))?.trim().parse()?)
    }

    /// The number of the group's processes that the kernel has killed because memory ran out.
    ///
    /// # Errors
    ///
    /// The kernel does not report the value.
    pub fn killed(&self) -> Result<u64> {
        let file = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.memory.join(file))?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        let Some(number) = line else { bail!("{file} does not count kills: {text}") };
        Ok(number.trim().parse()?)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // A process that has just exited is still counted for a moment.
        for directory in [&self.memory, &self.pids] {
            for _ in 0..100 {
                if !directory.exists() || fs::remove_dir(directory).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
    }
}

fn put(file: &Path, value: u64) -> Result<()> {
    fs::write(file, value.to_string()).with_context(|| file.display().to_string())
}
