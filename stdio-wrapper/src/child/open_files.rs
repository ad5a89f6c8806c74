//! Finds the files in memory that the processes of children have open or have mapped, even if they have been removed:
//! those from `memfd_create(2)`, those of file systems in memory such as `/dev/shm`, and shared memory. The kernel counts
//! such a file as memory of a process only if it is mapped, and only the pages that the process has used since.

mod file_systems;
mod mapped;
mod turns;

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags, open, readlinkat, statx};
use rustix::io::Errno;

use self::file_systems::{Device, FileSystems};
pub(super) use self::mapped::Possible;
use self::turns::{BUDGET, Budget, Extent, Turn, Turns};
use super::procfs::{has_memory, threads};

/// A file, identified by its file system and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileId {
    device: Device,
    inode: u64,
}

/// The files that have been counted, and the memory with which each of them counts, in bytes.
#[derive(Debug, Default)]
struct Seen(HashMap<FileId, u64>);

impl Seen {
    /// Counts a file, and returns by how much this is more than before.
    fn adds(&mut self, file: FileId, bytes: u64) -> u64 {
        let counted = self.0.entry(file).or_default();
        let more = bytes.saturating_sub(*counted);
        *counted += more;
        more
    }

    /// Counts a file with this much, whatever a mapping of it shows later. Returns 0 if it has been counted.
    fn adds_exactly(&mut self, file: FileId, bytes: u64) -> u64 {
        if self.0.insert(file, u64::MAX).is_some() { 0 } else { bytes }
    }
}

/// What an examination has found, by child.
#[derive(Debug, Default)]
pub(super) struct Examined {
    /// The memory, in bytes, of the files in memory that the processes of the child have open. Each file counts once.
    pub(super) in_files: HashMap<u64, u64>,
    /// The memory that the child can have at most in files in memory, including those that it has only mapped.
    pub(super) possible: HashMap<u64, Possible>,
    /// The children whose open files or mappings could not all be examined, because they have too many of them, or
    /// because a process does not let others look at them. Such a child might have more memory than is known.
    pub(super) suspects: HashSet<u64>,
}

/// Examines the processes of each child. This can take most of a second, if children have very many open files or
/// mappings. `before` contains the suspects of the previous examination.
pub(super) fn examine(children: &HashMap<u64, Vec<i32>>, before: &HashSet<u64>) -> Examined {
    examine_within(BUDGET, children, before)
}

/// A child that needed too much time the last time comes last. Before it come the children with many processes, so that
/// they get the time that the others do not need.
fn examine_within(budget: Budget, children: &HashMap<u64, Vec<i32>>, before: &HashSet<u64>) -> Examined {
    let mut order: Vec<(u64, &[i32])> = children.iter().map(|(number, pids)| (*number, &pids[..])).collect();
    order.sort_unstable_by_key(|(number, pids)| (before.contains(number), pids.len(), *number));
    let (mut file_systems, mut seen) = (FileSystems::of_this_process(), Seen::default());
    let mut examined = Examined::default();
    let mut turns = Turns::new(budget, order.len());
    for (number, pids) in &order {
        let turn = turns.next();
        let found = Possible::default();
        let mut look = Look { turn, file_systems: &mut file_systems, seen: &mut seen, found };
        look.examine(pids);
        examined.note(*number, look.turn.extent(), before);
        examined.in_files.insert(*number, look.found.in_files);
        examined.possible.insert(*number, look.found);
    }
    // What any child has open is known exactly, so mappings come after the open files of all children.
    let mut turns = Turns::new(budget, order.len());
    for (number, pids) in &order {
        let (mut turn, possible) = (turns.next(), examined.possible.entry(*number).or_default());
        examine_mappings(pids, &mut turn, &mut file_systems, &mut seen, possible);
        examined.note(*number, turn.extent(), before);
    }
    examined
}

fn examine_mappings(
    pids: &[i32],
    turn: &mut Turn,
    file_systems: &mut FileSystems,
    seen: &mut Seen,
    possible: &mut Possible,
) {
    for process in pids.iter().map(|pid| PathBuf::from(format!("/proc/{pid}"))) {
        if turn.is_over() {
            return;
        }
        let examined = mapped::examine(&process, turn, file_systems, seen, possible);
        let examined = examined.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        if is_withheld(examined, || has_memory(&process)) {
            turn.is_withheld();
        }
    }
}

impl Examined {
    /// Records how much of a child has been examined.
    fn note(&mut self, number: u64, extent: Extent, before: &HashSet<u64>) {
        let is_suspect = match extent {
            Extent::All => false,
            // The machine was too busy, so nothing new is known about the child.
            Extent::Late => before.contains(&number),
            Extent::TooMuch => true,
        };
        if is_suspect {
            self.suspects.insert(number);
        }
    }
}

/// One examination of the open files of a child.
struct Look<'a> {
    turn: Turn,
    file_systems: &'a mut FileSystems,
    seen: &'a mut Seen,
    found: Possible,
}

impl Look<'_> {
    /// The threads of a process can have different open files, but usually have the same ones. Therefore the first
    /// threads of all processes are examined before the others.
    fn examine(&mut self, pids: &[i32]) {
        for pid in pids {
            if self.turn.is_over() {
                return;
            }
            self.examine_thread(&PathBuf::from(format!("/proc/{pid}/task/{pid}")));
        }
        for pid in pids {
            let first = pid.to_string();
            for thread in threads(*pid).filter(|thread| !thread.ends_with(&first)) {
                if self.turn.is_over() {
                    return;
                }
                self.examine_thread(&thread);
            }
        }
    }

    fn examine_thread(&mut self, thread: &Path) {
        let examined = self.examine_files(thread);
        if is_withheld(examined, || has_memory(thread)) {
            self.turn.is_withheld();
        }
    }

    fn examine_files(&mut self, thread: &Path) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(thread.join("fd"), flags, Mode::empty())?;
        for file in Dir::read_from(&directory)? {
            if self.turn.is_over() {
                break;
            }
            let examined = self.examine_file(thread, directory.as_fd(), file?.file_name());
            // After another error, the file might have been closed.
            if let Err(error @ (Errno::ACCESS | Errno::PERM)) = examined {
                return Err(error);
            }
        }
        Ok(())
    }

    fn examine_file(&mut self, thread: &Path, directory: BorrowedFd<'_>, file: &CStr) -> Result<(), Errno> {
        if file.to_bytes().starts_with(b".") {
            return Ok(());
        }
        let name = || readlinkat(directory, file, Vec::new());
        // A file system that does not respond must not delay this.
        let Ok(about) = statx(directory, file, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS) else {
            // Only if the name is also withheld does the process not let others look at it.
            return name().map(drop);
        };
        if FileType::from_raw_mode(about.stx_mode.into()) != FileType::RegularFile {
            return Ok(());
        }
        let device = Device { major: about.stx_dev_major, minor: about.stx_dev_minor };
        let file = FileId { device, inode: about.stx_ino };
        match self.file_systems.is_in_memory(device, thread) {
            Some(true) => self.found.in_files += self.seen.adds_exactly(file, about.stx_blocks * 512),
            // The kernel does not tell how much of this file has been used.
            None if is_secret(name()?.to_bytes()) => {
                self.found.secret += self.seen.adds_exactly(file, about.stx_size);
            }
            Some(false) | None => {}
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

/// Whether this is the name of a file from `memfd_secret(2)`, as shown by the kernel. Their file system cannot be found
/// otherwise.
fn is_secret(name: &[u8]) -> bool {
    name.starts_with(b"/secretmem")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use super::*;

    /// A process that has run a Python script, and waits until it is killed.
    struct Python(Child);

    impl Python {
        fn run(script: &str) -> Self {
            Self::run_with(&["python3"], script)
        }

        /// Runs it with this command, which replaces itself by Python.
        fn run_with(within: &[&str], script: &str) -> Self {
            let script = format!("import os\n{script}\nprint('ready', flush=True)\ninput()");
            let mut command = Command::new(within[0]);
            command.args(&within[1..]).args(["-c", &script]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
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

    fn examine(children: &HashMap<u64, Vec<i32>>, budget: Budget) -> Examined {
        examine_within(budget, children, &HashSet::new())
    }

    fn examine_all(python: &Python) -> (Examined, bool) {
        let examined = examine(&HashMap::from([(5, vec![python.pid(); 2])]), LONG);
        let is_suspect = examined.suspects.contains(&5);
        (examined, is_suspect)
    }

    /// The memory of the open files, in MiB, and whether the process is a suspect.
    fn memory_of(python: &Python) -> (u64, bool) {
        let (examined, is_suspect) = examine_all(python);
        (examined.in_files[&5] >> 20, is_suspect)
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

    fn possible_of(python: &Python) -> (Possible, bool) {
        let (examined, is_suspect) = examine_all(python);
        (examined.possible[&5], is_suspect)
    }

    #[test]
    fn a100_memory_is_found_that_is_mapped_without_an_open_file_and_that_the_kernel_does_not_count() {
        let script = "import mmap\nfirst = mmap.mmap(-1, 5 << 20)\nfirst.write(b'k' * (5 << 20))\nfirst.madvise(mmap.MADV_DONTNEED)\nfile = os.memfd_create('x')\nos.write(file, b'k' * (3 << 20))\nsecond = mmap.mmap(file, 3 << 20)\nagain = mmap.mmap(file, 1 << 20)\nos.closerange(3, 99)";
        // Python keeps a second descriptor of a file that it maps.
        let python = Python::run(script);
        assert_eq!(memory_of(&python), (0, false));
        let expected = Possible { in_files: 3 << 20, without_file: 5 << 20, secret: 0 };
        assert_eq!(possible_of(&python), (expected, false));
        // What is open is known exactly, whatever is mapped of it.
        let script = "import mmap\nfile = os.memfd_create('x')\nos.write(file, b'k' * (3 << 20))\nos.ftruncate(file, 9 << 20)\nkept = mmap.mmap(file, 9 << 20)";
        assert_eq!(
            possible_of(&Python::run(script)),
            (Possible { in_files: 3 << 20, ..Possible::default() }, false)
        );
    }

    #[test]
    fn a100_a_file_from_memfd_secret_is_found_open_or_mapped() {
        let opened = "import ctypes, sys, mmap\nfile = ctypes.CDLL(None).syscall(447, 0)\nif file >= 0:\n  os.ftruncate(file, 1 << 20)";
        let python = Python::run(opened);
        let has_secret = std::fs::read_dir(format!("/proc/{}/fd", python.pid())).unwrap().any(|file| {
            std::fs::read_link(file.unwrap().path())
                .is_ok_and(|name| name.starts_with("/secretmem (deleted)"))
        });
        // A kernel can be configured without such files.
        if has_secret {
            let expected = (Possible { secret: 1 << 20, ..Possible::default() }, false);
            assert_eq!(possible_of(&python), expected);
            let mapped = format!("{opened}\n  kept = mmap.mmap(file, 1 << 20)\n  os.closerange(3, 99)");
            assert_eq!(possible_of(&Python::run(&mapped)), expected);
        }
    }

    #[test]
    fn a100_a_file_in_memory_is_found_wherever_its_file_system_is() {
        // Mounting needs privileges, which a test run in a container might not have.
        let script = "import subprocess, tempfile\nplace = tempfile.mkdtemp()\nassert subprocess.run(['mount', '-t', 'tmpfs', 'none', place]).returncode == 0\nfile = os.open(place + '/x', os.O_RDWR | os.O_CREAT)\nos.write(file, b'k' * (3 << 20))";
        let may_mount =
            Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success());
        if may_mount {
            assert_eq!(memory_of(&Python::run_with(&["unshare", "-m", "python3"], script)), (3, false));
        }
    }

    #[test]
    fn a100_who_maps_too_much_to_be_examined_is_a_suspect() {
        let many = Python::run("import mmap\nkept = [mmap.mmap(-1, 4096) for _ in range(400)]");
        let children = HashMap::from([(1, vec![many.pid(); 100_000])]);
        let examined = examine(&children, Budget { processor: Duration::from_millis(40), ..LONG });
        assert_eq!(examined.suspects, HashSet::from([1]));
        let examined = examine(&children, Budget { total: Duration::ZERO, ..LONG });
        assert!(examined.suspects.is_empty(), "the machine was busy");
    }

    #[test]
    fn a100_ordinary_servers_are_no_suspects_however_many_they_are() {
        let ordinary = Python::run("kept = [os.open('/dev/null', os.O_RDONLY) for _ in range(50)]");
        let children = (0..300).map(|number| (number, vec![ordinary.pid()])).collect();
        let examined = examine(&children, Budget { processor: Duration::from_millis(1), ..LONG });
        assert!(examined.suspects.is_empty(), "{:?}", examined.suspects);
    }

    /// The time for one examination must be enough for both.
    #[test]
    fn a100_a_server_with_many_workers_that_have_thousands_of_files_and_mappings_is_no_suspect() {
        let script = "import mmap, resource\nmost = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\nresource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\nfiles = [os.open('/dev/null', os.O_RDONLY) for _ in range(1000)]\nkept = [mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=1 + 2 * (n % 2)) for n in range(2000)]";
        let (large, small) = (Python::run(script), Python::run(""));
        let children = HashMap::from([(1, vec![large.pid(); 10]), (2, vec![small.pid()])]);
        let examined = examine(&children, Budget { total: LONG.total, ..BUDGET });
        assert!(examined.suspects.is_empty(), "{:?}", examined.suspects);
    }

    #[test]
    fn a100_who_has_too_many_files_is_a_suspect_and_does_not_prevent_others_from_being_examined() {
        let many = Python::run("kept = [os.open('/dev/null', os.O_RDONLY) for _ in range(400)]");
        let few = Python::run("file = os.memfd_create('x')\nos.write(file, b'k' * (3 << 20))");
        let children = HashMap::from([(1, vec![many.pid(); 100_000]), (2, vec![few.pid()])]);
        let mut before = HashSet::new();
        for _ in 0..2 {
            let budget = Budget { processor: Duration::from_millis(40), ..LONG };
            let examined = examine_within(budget, &children, &before);
            assert_eq!((examined.in_files[&2] >> 20, &examined.suspects), (3, &HashSet::from([1])));
            before = examined.suspects;
        }
        // If the machine is busy, children that could not be examined in time are suspects only if they already were.
        let examined = examine_within(Budget { total: Duration::ZERO, ..LONG }, &children, &before);
        assert_eq!(examined.suspects, HashSet::from([1]));
        let examined = examine_within(LONG, &HashMap::from([(1, vec![many.pid()])]), &before);
        assert!(examined.suspects.is_empty(), "all files were examined this time");
    }
}
