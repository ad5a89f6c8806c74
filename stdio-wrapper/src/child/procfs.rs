//! Reads from `/proc` what the kernel knows about one process (`proc(5)`).

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::times::{Work, Works};
use crate::capacity::Usage;

/// A process, identified by its id and start time, because the kernel reuses process ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// The start time, in clock ticks since the machine booted.
    pub(super) started: u64,
}

/// The anonymous memory of each of these processes, in bytes.
pub(super) type Sizes = HashMap<Process, u64>;

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
    stat_in(&directory(pid))
}

fn stat_in(directory: &Path) -> Option<Stat> {
    let known = read(&directory.join("stat")).ok().and_then(|text| parse(&text));
    // A process must not be overlooked because this file cannot be read or understood.
    known.or_else(|| parse_parent(&read(&directory.join("status")).ok()?))
}

fn directory(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// Reads a file that can contain the name of a program. A program can choose a name that is not UTF-8.
fn read(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
}

/// Reads only the parent from `/proc/PID/status`. Start and work are unknown.
fn parse_parent(text: &str) -> Option<Stat> {
    let parent = text.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    Some(Stat { parent, started: 0, works: Works::default() })
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
    usage_in(&directory(pid))
}

fn usage_in(directory: &Path) -> Option<Usage> {
    let Some(usage) = usage_of_thread(directory) else {
        // A process that cannot be measured must not be overlooked.
        return directory.exists().then_some(Usage { tasks: 1, processes: 1, ..Usage::default() });
    };
    if usage.memory > 0 || usage.tasks < 2 {
        return Some(usage);
    }
    // The first thread has exited and shows no memory, but other threads run. All threads of a process share the same
    // memory, so the first one that shows any is enough. Other threads can also have exited, and are still listed while
    // another process traces them. All threads together count towards the container's limit on processes.
    let with_memory = threads_in(directory).filter_map(|thread| usage_of_thread(&thread));
    let found = with_memory.into_iter().find(|thread| thread.memory > 0);
    Some(Usage { tasks: usage.tasks, ..found.unwrap_or(usage) })
}

/// The directories of the threads of a process.
pub(super) fn threads(pid: i32) -> impl Iterator<Item = PathBuf> {
    threads_in(&directory(pid))
}

fn threads_in(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let listed = std::fs::read_dir(directory.join("task"));
    listed.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// Whether a thread has memory, and therefore is not exiting.
pub(super) fn has_memory(thread: &Path) -> bool {
    usage_of_thread(thread).is_some_and(|usage| usage.memory > 0)
}

fn usage_of_thread(directory: &Path) -> Option<Usage> {
    parse_usage(&read(&directory.join("status")).ok()?)
}

/// Reads `/proc/PID/status` (`proc_pid_status(5)`). Memory that is backed by a file on disk is not counted,
/// because the kernel can free it.
fn parse_usage(text: &str) -> Option<Usage> {
    let number = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    let bytes = |name: &str| number(name).unwrap_or_default() * 1024;
    // A process that has exited still reports a number of threads, but no memory.
    let in_files = bytes("RssShmem:");
    // A page that has only been read takes no memory itself, but its page table does.
    let in_kernel = bytes("VmPTE:");
    let memory = bytes("RssAnon:") + in_files + in_kernel;
    Some(Usage { memory, in_files, in_kernel, tasks: number("Threads:")?, processes: 1, ..Usage::default() })
}

/// The anonymous memory of a process and its memory in files that are stored only in memory, in bytes. A page that n
/// processes share counts as 1/n of a page (`Documentation/filesystems/proc.rst`, `smaps_rollup`). Returns `None` if
/// the process has exited or does not let others look at its pages.
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
        let text = "Name:\tnode\nRssAnon:\t   30000 kB\nRssFile:\t   9000 kB\nRssShmem:\t      24 kB\nVmPTE:\t     100 kB\nThreads:\t7\n";
        let usage = Usage {
            memory: 30_124 * 1024,
            in_files: 24 * 1024,
            in_kernel: 100 * 1024,
            tasks: 7,
            processes: 1,
            ..Usage::default()
        };
        assert_eq!((parse_usage(text), usage.anonymous()), (Some(usage), 30_000 * 1024));
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

    #[test]
    fn a100_a_process_is_seen_whatever_its_name_is() {
        let script = "import ctypes\nctypes.CDLL(None).prctl(15, b'\\xff\\xfe) \\n', 0, 0, 0)\nprint('named', flush=True)\ninput()";
        let mut command = std::process::Command::new("python3");
        command.args(["-c", script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut python = command.spawn().unwrap();
        io::Read::read_exact(python.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
        let pid = i32::try_from(python.id()).unwrap();
        let (seen, usage, all) = (stat(pid), usage_of(pid), processes());
        python.kill().unwrap();
        python.wait().unwrap();
        assert_eq!(seen.map(|stat| stat.parent), i32::try_from(std::process::id()).ok());
        assert_eq!(all.get(&pid).map(|stat| stat.started), seen.map(|stat| stat.started));
        assert!(usage.is_some_and(|usage| usage.memory > 1 << 20), "{usage:?}");
    }

    /// The directory of a process with these files.
    fn process_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        directory
    }

    #[test]
    fn a100_a_process_that_cannot_be_understood_counts_as_one_task_of_its_parent() {
        let odd = process_with(&[("stat", "12 (odd"), ("status", "Name:\todd\nPPid:\t7\n")]);
        let seen = Stat { parent: 7, started: 0, works: Works::default() };
        assert_eq!(stat_in(odd.path()), Some(seen));
        let one = Usage { tasks: 1, processes: 1, ..Usage::default() };
        assert_eq!(usage_in(odd.path()), Some(one));
        let exited = odd.path().join("exited");
        assert_eq!((stat_in(&exited), usage_in(&exited)), (None, None));
    }

    #[test]
    fn a100_memory_is_found_behind_any_number_of_threads_that_have_exited() {
        const ALL: u64 = 20;
        for with_memory in 0..ALL {
            let process = process_with(&[("status", "Threads:\t20\n")]);
            for number in 0..ALL {
                let thread = process.path().join("task").join(number.to_string());
                let memory = if number == with_memory { "RssAnon:\t900 kB\n" } else { "" };
                std::fs::create_dir_all(&thread).unwrap();
                std::fs::write(thread.join("status"), format!("{memory}Threads:\t20\n")).unwrap();
            }
            let usage = usage_in(process.path()).unwrap();
            assert_eq!((usage.memory, usage.tasks), (900 * 1024, ALL), "{with_memory}");
        }
    }
}
