//! Reads from `/proc` what the kernel knows about one process (`proc(5)`).

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;

use super::times::{Work, Works};
use crate::capacity::Usage;

/// Maximum number of open files that are examined in one process. Without this limit, a child with very many
/// open files could delay the measurement for all.
const MAX_FILES: usize = 256;

/// Maximum number of threads of one process that are examined if its first thread has ended.
const MAX_THREADS: usize = 16;

/// A process, identified by its id and start time, because the kernel reuses process ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// The start time, in clock ticks since the machine booted.
    pub(super) started: u64,
}

/// The parent of a process, the time of its start, and its processor time and page faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) parent: i32,
    pub(super) started: u64,
    pub(super) works: Works,
}

impl Stat {
    pub(super) fn process(self, pid: i32) -> Process {
        Process { pid, started: self.started }
    }
}

/// All processes, by process id.
pub(super) fn processes() -> HashMap<i32, Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return HashMap::new() };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

/// Reads the parent, the start and the work of a process. Returns `None` if it has exited.
pub(super) fn stat(pid: i32) -> Option<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads `/proc/PID/stat` (`proc_pid_stat(5)`). The program name is in brackets, and can itself contain
/// brackets.
fn parse(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let mut fields = fields.skip(5);
    // The times of reaped processes are signed. A negative one would be a kernel error, and counts as 0.
    let mut next = || Some(fields.next()?.parse::<u64>().unwrap_or(0));
    // Faults that need no access to a disk ("minor"), and those that do ("major").
    let (minor, reaped_minor, major, reaped_major) = (next()?, next()?, next()?, next()?);
    let own = Work { user: next()?, system: next()?, faults: minor.saturating_add(major) };
    let reaped = Work { user: next()?, system: next()?, faults: reaped_minor.saturating_add(reaped_major) };
    let started = fields.nth(4)?.parse().ok()?;
    Some(Stat { parent, started, works: Works { own, reaped } })
}

/// The memory and the threads of a process. Returns `None` if it has exited.
pub(super) fn usage_of(pid: i32) -> Option<Usage> {
    let usage = parse_usage(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
    if usage.memory > 0 || usage.tasks < 2 {
        return Some(usage);
    }
    // The first thread has exited and shows no memory, but other threads run. All threads of a process share
    // the same memory.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let status = |entry: std::io::Result<std::fs::DirEntry>| {
        parse_usage(&std::fs::read_to_string(entry.ok()?.path().join("status")).ok()?)
    };
    let largest = threads.take(MAX_THREADS).filter_map(status).max_by_key(|thread| thread.memory);
    Some(Usage { tasks: usage.tasks, ..largest.unwrap_or(usage) })
}

/// The memory, in bytes, of unnamed files that a process has open: from `memfd_create(2)`, or removed from a
/// file system in memory. The kernel counts such a file as memory of the process only if it is mapped. Each
/// file counts once.
pub(super) fn memory_in_files(pid: i32, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let size = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let name = std::fs::read_link(&path).ok()?;
        let name = name.to_str()?;
        let is_in_memory = name.starts_with("/memfd:") || name.starts_with("/dev/shm/");
        let about = is_in_memory.then(|| std::fs::metadata(&path)).and_then(Result::ok)?;
        seen.insert((about.dev(), about.ino())).then(|| about.blocks() * 512)
    };
    open.take(MAX_FILES).filter_map(size).sum()
}

/// Reads `/proc/PID/status` (`proc_pid_status(5)`). Memory that is backed by a file on disk is not counted,
/// because the kernel can free it.
fn parse_usage(text: &str) -> Option<Usage> {
    let number = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    // A process that has exited still reports a number of threads, but no memory.
    let in_files = number("RssShmem:").unwrap_or_default() * 1024;
    let memory = number("RssAnon:").unwrap_or_default() * 1024 + in_files;
    Some(Usage { memory, in_files, tasks: number("Threads:")?, processes: 1, ..Usage::default() })
}

/// The anonymous memory of a process and its memory in files, in bytes. A page that n processes share counts as 1/n of a
/// page (`Documentation/filesystems/proc.rst`, `smaps_rollup`). `None` if the process does not let others look at its pages.
pub(super) fn proportional(pid: i32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((number("Pss_Anon:")?, number("Pss_Shmem:")?))
}

/// The resources that this process uses.
pub(super) fn own_usage() -> Usage {
    i32::try_from(std::process::id()).ok().and_then(usage_of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_what_the_kernel_cannot_take_back() {
        let text =
            "Name:\tnode\nRssAnon:\t   30000 kB\nRssFile:\t   9000 kB\nRssShmem:\t      24 kB\nThreads:\t7\n";
        let usage =
            Usage { memory: 30_024 * 1024, in_files: 24 * 1024, tasks: 7, processes: 1, ..Usage::default() };
        assert_eq!(parse_usage(text), Some(usage));
        let ended = Usage { tasks: 1, processes: 1, ..Usage::default() };
        assert_eq!(parse_usage("Name:\tx\nThreads:\t1\n"), Some(ended));
        assert_eq!(parse_usage(""), None);
    }

    #[test]
    fn parent_and_start_are_found_behind_any_name() {
        let text = "12 (a) b (c) S 7 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 111 222";
        let own = Work { user: 5, system: 6, faults: 4 };
        let works = Works { own, reaped: Work { user: 7, system: 8, faults: 6 } };
        assert_eq!(parse(text), Some(Stat { parent: 7, started: 98765, works }));
        assert_eq!(parse("12 (a) S"), None);
    }
}
