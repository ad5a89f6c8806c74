//! Finds the files in memory that the processes of children have open: those from `memfd_create(2)`, and those in
//! `/dev/shm`, even if they have been removed. The kernel counts such a file as memory of a process only if it is
//! mapped.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, readlinkat, statat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use super::procfs::{has_memory, threads};

/// Maximum time for the files of all children. The files of an ordinary server take less than a millisecond.
const BUDGET: Budget = Budget { processor: Duration::from_millis(20), total: Duration::from_millis(100) };

/// The processor time that each child has at least. An ordinary server with a dozen threads needs less, so it does not
/// become a suspect because there are many servers.
const ORDINARY: Duration = Duration::from_millis(2);

/// Limits on the time for an examination.
#[derive(Debug, Clone, Copy)]
struct Budget {
    /// Maximum processor time of this thread. Unlike the elapsed time, it hardly depends on how busy the machine is, so
    /// it shows whether a child has too many files.
    processor: Duration,
    /// Maximum elapsed time.
    total: Duration,
}

/// What is known about the open files of all children.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    suspects: HashSet<u64>,
}

impl OpenFiles {
    /// The children whose open files could not all be examined by the last scan, because they have too many of them,
    /// or because a process does not let others look at them. Such a child might have more memory than is known.
    pub(super) fn suspects(&self) -> &HashSet<u64> {
        &self.suspects
    }

    /// The memory, in bytes, of the files in memory that these processes of each child have open. Each file counts
    /// once.
    pub(super) fn look(&mut self, children: HashMap<u64, Vec<i32>>) -> HashMap<u64, u64> {
        self.look_for(children, BUDGET)
    }

    /// Each child gets an equal part of the processor time. What a child does not need is left for the children after
    /// it, so a child that needed too much the last time comes last.
    fn look_for(&mut self, children: HashMap<u64, Vec<i32>>, budget: Budget) -> HashMap<u64, u64> {
        let before = std::mem::take(&mut self.suspects);
        let mut order: Vec<(u64, Vec<i32>)> = children.into_iter().collect();
        order.sort_unstable_by_key(|(number, _)| (before.contains(number), *number));
        let (latest, end) = (Instant::now() + budget.total, processor_time() + budget.processor);
        let mut left = u32::try_from(order.len()).unwrap_or(u32::MAX);
        let (mut memory, mut seen) = (HashMap::new(), HashSet::new());
        for (number, pids) in order {
            let now = processor_time();
            let until = now + (end.saturating_sub(now) / left.max(1)).max(ORDINARY);
            let mut look = Look { latest, until, seen: &mut seen, memory: 0, extent: Extent::All };
            look.examine(&pids);
            let is_suspect = match look.extent {
                Extent::All => false,
                // The machine was too busy, so nothing new is known about the child.
                Extent::Late => before.contains(&number),
                Extent::TooMany => true,
            };
            if is_suspect {
                self.suspects.insert(number);
            }
            memory.insert(number, look.memory);
            left = left.saturating_sub(1);
        }
        memory
    }
}

/// The processor time that this thread has used.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// How many of the files of a child have been examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    All,
    /// Too much time had passed before all files were examined.
    Late,
    /// The child has too many files, or does not let others look at some of them.
    TooMany,
}

/// One examination of the open files of a child.
struct Look<'a> {
    /// The time after which no file is examined.
    latest: Instant,
    /// The processor time of this thread after which no file of this child is examined.
    until: Duration,
    /// The device and the number of each file that has been counted.
    seen: &'a mut HashSet<(u64, u64)>,
    memory: u64,
    extent: Extent,
}

impl Look<'_> {
    /// The threads of a process can have different open files, but usually have the same ones. Therefore the first
    /// threads of all processes are examined before the others.
    fn examine(&mut self, pids: &[i32]) {
        for pid in pids {
            if self.is_over() {
                return;
            }
            self.examine_thread(&PathBuf::from(format!("/proc/{pid}/task/{pid}")));
        }
        for pid in pids {
            let first = pid.to_string();
            for thread in threads(*pid).filter(|thread| !thread.ends_with(&first)) {
                if self.is_over() {
                    return;
                }
                self.examine_thread(&thread);
            }
        }
    }

    /// Whether the time is over, so that some files are not examined.
    fn is_over(&mut self) -> bool {
        let (is_too_much, is_late) = (processor_time() >= self.until, Instant::now() >= self.latest);
        if is_too_much {
            self.extent = Extent::TooMany;
        } else if is_late && self.extent == Extent::All {
            self.extent = Extent::Late;
        }
        is_too_much || is_late
    }

    fn examine_thread(&mut self, thread: &Path) {
        let examined = self.examine_files(&thread.join("fd"));
        if is_withheld(examined, || has_memory(thread)) {
            self.extent = Extent::TooMany;
        }
    }

    fn examine_files(&mut self, files: &Path) -> Result<(), Errno> {
        let directory = open(files, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for file in Dir::read_from(&directory)? {
            if self.is_over() {
                break;
            }
            let examined = self.examine_file(directory.as_fd(), file?.file_name());
            // After another error, the file might have been closed.
            if let Err(error @ (Errno::ACCESS | Errno::PERM)) = examined {
                return Err(error);
            }
        }
        Ok(())
    }

    fn examine_file(&mut self, directory: BorrowedFd<'_>, file: &CStr) -> Result<(), Errno> {
        if file.to_bytes().starts_with(b".") {
            return Ok(());
        }
        let name = readlinkat(directory, file, Vec::new())?;
        if is_in_memory(name.to_bytes()) {
            let about = statat(directory, file, AtFlags::empty())?;
            if self.seen.insert((about.st_dev, about.st_ino)) {
                self.memory += u64::try_from(about.st_blocks).unwrap_or_default() * 512;
            }
        }
        Ok(())
    }
}

/// Whether the kernel does not let this process look at the files of a thread that is not exiting. The kernel lets no
/// process look at the files of a thread that is exiting, but such a thread no longer has any memory, and its files are
/// closed soon. Other errors do not count, because the thread has exited or has not caused them.
fn is_withheld(examined: Result<(), Errno>, has_memory: impl FnOnce() -> bool) -> bool {
    matches!(examined, Err(Errno::ACCESS | Errno::PERM)) && has_memory()
}

/// Whether this is the name of a file in memory, as shown by a link in `/proc/PID/fd`. The program chooses the rest of
/// the name, which does not have to be UTF-8.
fn is_in_memory(name: &[u8]) -> bool {
    name.starts_with(b"/memfd:") || name.starts_with(b"/dev/shm/")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that has run a Python script, and waits until it is killed.
    struct Python(Child);

    impl Python {
        fn run(script: &str) -> Self {
            let script = format!("import os\n{script}\nprint('ready', flush=True)\ninput()");
            let mut command = Command::new("python3");
            let mut child =
                command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
            Self(child)
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }
    }

    impl Drop for Python {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    const LONG: Budget = Budget { processor: Duration::from_secs(60), total: Duration::from_secs(60) };

    fn memory_of(python: &Python) -> (u64, bool) {
        let mut files = OpenFiles::default();
        let memory = files.look_for(HashMap::from([(5, vec![python.pid()])]), LONG);
        (memory[&5] >> 20, files.suspects().contains(&5))
    }

    #[test]
    fn a100_a_file_in_memory_is_found_behind_many_other_files_and_whatever_its_name_is() {
        let script = "kept = [os.open('/dev/null', os.O_RDONLY) for _ in range(400)]\nfile = os.memfd_create('\\udcff\\udcfe')\nos.write(file, b'k' * (3 << 20))";
        assert_eq!(memory_of(&Python::run(script)), (3, false));
    }

    #[test]
    fn a100_a_file_in_memory_is_found_that_only_one_thread_has_open() {
        let script = "import ctypes, threading\ndone = threading.Event()\ndef hide():\n  assert ctypes.CDLL(None).unshare(0x400) == 0\n  os.write(os.memfd_create('x'), b'k' * (3 << 20))\n  done.set()\n  threading.Event().wait()\nthreading.Thread(target=hide, daemon=True).start()\ndone.wait()";
        assert_eq!(memory_of(&Python::run(script)), (3, false));
    }

    #[test]
    fn a100_who_lets_nobody_look_at_its_files_is_a_suspect_unless_it_is_exiting() {
        assert!(is_withheld(Err(Errno::ACCESS), || true));
        assert!(is_withheld(Err(Errno::PERM), || true));
        assert!(!is_withheld(Err(Errno::ACCESS), || false));
        assert!(!is_withheld(Err(Errno::NOENT), || true));
        assert!(!is_withheld(Ok(()), || true));
    }

    #[test]
    fn a100_ordinary_servers_are_no_suspects_however_many_they_are() {
        let ordinary = Python::run("kept = [os.open('/dev/null', os.O_RDONLY) for _ in range(50)]");
        let children = (0..300).map(|number| (number, vec![ordinary.pid()])).collect();
        let mut files = OpenFiles::default();
        files.look_for(children, Budget { processor: Duration::from_millis(1), ..LONG });
        assert!(files.suspects().is_empty(), "{:?}", files.suspects());
    }

    #[test]
    fn a100_who_has_too_many_files_is_a_suspect_and_does_not_prevent_others_from_being_examined() {
        let many = Python::run("kept = [os.open('/dev/null', os.O_RDONLY) for _ in range(400)]");
        let few = Python::run("file = os.memfd_create('x')\nos.write(file, b'k' * (3 << 20))");
        let children = HashMap::from([(1, vec![many.pid(); 100_000]), (2, vec![few.pid()])]);
        let mut files = OpenFiles::default();
        for _ in 0..2 {
            let budget = Budget { processor: Duration::from_millis(40), ..LONG };
            let memory = files.look_for(children.clone(), budget);
            assert_eq!((memory[&2] >> 20, files.suspects()), (3, &HashSet::from([1])));
        }
        // If the machine is busy, children that could not be examined in time are suspects only if they already were.
        files.look_for(children, Budget { total: Duration::ZERO, ..LONG });
        assert_eq!(files.suspects(), &HashSet::from([1]));
        files.look_for(HashMap::from([(1, vec![many.pid()])]), LONG);
        assert!(files.suspects().is_empty(), "all files were examined this time");
    }
}
