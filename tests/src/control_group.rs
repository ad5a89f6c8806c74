//! Control groups, in which a process has the memory and the processes that a compose file gives to its container. Both
//! hierarchies of Linux are known: version 1, with a directory for each resource, and version 2 with one for all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};

const ROOT: &str = "/sys/fs/cgroup";

/// What the processes in a group may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of memory (`mem_limit`).
    pub memory: u64,
    /// Processes and threads (`pids_limit`).
    pub pids: u64,
    /// Open files of each process (`ulimits: nofile`), if it is said.
    pub files: Option<u64>,
}

/// A group of its own. Dropped, it is removed; its processes have to be gone by then.
#[derive(Debug)]
pub struct ControlGroup {
    bounds: Bounds,
    /// Where memory is counted.
    memory: PathBuf,
    /// Where processes are counted: the same directory in version 2.
    pids: PathBuf,
    is_v2: bool,
}

impl ControlGroup {
    /// Makes one, or says why this machine has none for us.
    ///
    /// # Errors
    ///
    /// For lack of rights, mostly: only root makes control groups.
    pub fn make(bounds: Bounds) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mcp-gate-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Path::new(ROOT);
        let is_v2 = root.join("cgroup.controllers").exists();
        let (memory, pids) = if is_v2 {
            // What is on already, or is not to be had, shows below.
            fs::write(root.join("cgroup.subtree_control"), "+memory +pids").ok();
            (root.join(&name), root.join(&name))
        } else {
            (root.join("memory").join(&name), root.join("pids").join(&name))
        };
        for directory in [&memory, &pids] {
            if !directory.exists() {
                fs::create_dir(directory)
                    .with_context(|| format!("no control group can be made at {}", directory.display()))?;
            }
        }
        let group = Self { bounds, memory, pids, is_v2 };
        let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        put(&group.memory.join(limit), bounds.memory)?;
        put(&group.pids.join("pids.max"), bounds.pids)?;
        // No way out by swapping; not every kernel counts it.
        let swap =
            if is_v2 { ("memory.swap.max", 0) } else { ("memory.memsw.limit_in_bytes", bounds.memory) };
        put(&group.memory.join(swap.0), swap.1).ok();
        Ok(group)
    }

    /// The same command, started inside.
    #[must_use]
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside
            .arg("-c")
            .arg("[ -z \"$3\" ] || ulimit -n \"$3\"; echo $$ >\"$1\"; echo $$ >\"$2\"; shift 3; exec \"$@\"")
            .arg("sh");
        inside.args([self.memory.join("cgroup.procs"), self.pids.join("cgroup.procs")]);
        inside.arg(self.bounds.files.map_or_else(String::new, |files| files.to_string()));
        inside.arg(command.get_program()).args(command.get_args());
        // `env_clear` of the original cannot be asked for, so everything is set anew.
        inside.env_clear();
        inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside
    }

    /// Bytes that its processes hold themselves, without files that the kernel keeps in memory as long as there is room.
    ///
    /// # Errors
    ///
    /// When the kernel does not say it.
    pub fn held(&self) -> Result<u64> {
        // What the kernel holds for them, such as sockets, is in `usage` only.
        let stat = fs::read_to_string(self.memory.join("memory.stat"))?;
        let of = |name: &str| {
            let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.parse::<u64>().ok()).with_context(|| format!("no {name} in {stat}"))
        };
        if self.is_v2 { of("anon") } else { of("total_rss") }
    }

    /// The most that was ever counted for it, with files and with what the kernel holds.
    ///
    /// # Errors
    ///
    /// When the kernel does not say it.
    pub fn peak(&self) -> Result<u64> {
        let file = if self.is_v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        Ok(fs::read_to_string(self.memory.join(file))?.trim().parse()?)
    }

    /// How many of its processes the kernel has killed for lack of memory.
    ///
    /// # Errors
    ///
    /// When the kernel does not say it.
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
        // A process that has just ended is counted for a moment longer.
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
