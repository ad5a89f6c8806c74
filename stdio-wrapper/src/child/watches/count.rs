//! Counts the watches of a child's processes, in a separate process that runs the wrapper's program once more.
//! To print the watches of an epoll instance (`proc_pid_fdinfo(5)`), the kernel needs about as much memory as
//! the watches themselves use. If that memory is not available, the kernel kills only the counting process.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::child::orders::{COUNT, PROGRAM};
use crate::child::reaper::Reaper;
use crate::child::supervised::ALLOCATOR;

/// Maximum processor time for the processes of one child. The files of an ordinary server take a few
/// milliseconds.
const BUDGET: Duration = Duration::from_secs(1);
/// Maximum time for the processes of one child. The kernel counts a million watches in about a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval between checks of whether the count is complete.
const LOOK: Duration = Duration::from_millis(5);

/// Counts the watches of these processes. Prints the sum so far after each file that has watches, so that a
/// partial result exists if this process is killed.
pub fn count_watches(pids: impl Iterator<Item = String>) -> ExitCode {
    // Without this, the kernel might kill another process to get the memory that is needed here.
    if fs::write("/proc/self/oom_score_adj", "1000").is_err() {
        return ExitCode::FAILURE;
    }
    let mut found = 0;
    for pid in pids {
        count(Path::new("/proc").join(pid).join("task"), &mut found, is_over);
    }
    ExitCode::SUCCESS
}

/// Counts the watches of one process, until `is_over`. Its threads can have different open files.
fn count(threads: impl AsRef<Path>, found: &mut u64, is_over: fn() -> bool) {
    for thread in fs::read_dir(threads).into_iter().flatten().flatten() {
        // The thread might have exited, or its process might not be inspectable.
        let _ = count_files(&thread.path().join("fdinfo"), found, is_over);
        if is_over() {
            return;
        }
    }
}

fn count_files(files: &Path, found: &mut u64, is_over: fn() -> bool) -> io::Result<()> {
    for file in fs::read_dir(files)? {
        if is_over() {
            break;
        }
        let before = *found;
        // The file might have been closed.
        let _ = File::open(file?.path()).and_then(|file| count_file(BufReader::new(file), found));
        if *found != before {
            writeln!(io::stdout(), "{found}")?;
        }
    }
    Ok(())
}

fn count_file(mut text: impl io::BufRead, found: &mut u64) -> io::Result<()> {
    let mut line = Vec::new();
    while text.read_until(b'\n', &mut line)? > 0 {
        *found += u64::from(line.starts_with(b"tfd:"));
        line.clear();
    }
    Ok(())
}

/// Whether this process has used up its processor time.
fn is_over() -> bool {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(spent).is_ok_and(|spent| spent >= BUDGET)
}

/// Counts the watches of these processes of a child, in a separate process. If that process is killed or takes
/// too long, the result is the number that it had found by then. Returns `None` if it cannot be started.
pub(in crate::child) fn examine(pids: &[i32], reaper: &Reaper) -> Option<u64> {
    let mut command = Command::new(PROGRAM);
    command.arg(COUNT).args(pids.iter().map(i32::to_string));
    command.env_clear().env(ALLOCATOR.0, ALLOCATOR.1);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = reaper.start_counting(&mut command).ok()?;
    let until = Instant::now() + PATIENCE;
    while matches!(process.try_wait(), Ok(None)) && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
    // The process might already have exited.
    let _ = process.kill();
    let _ = process.wait();
    reaper.has_counted(process.id());
    let mut text = String::new();
    process.stdout.take()?.read_to_string(&mut text).ok()?;
    Some(text.lines().rev().find_map(|line| line.parse().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_watch_of_a_file_is_counted() {
        let mut found = 0;
        let text = "pos:\t0\nflags:\t02\ntfd:       7 events:       19 data: 7  pos:0 ino:40f sdev:10\ntfd: 8 events: 19\n";
        count_file(text.as_bytes(), &mut found).unwrap();
        count_file(b"tfd".as_slice(), &mut found).unwrap();
        assert_eq!(found, 2);
    }

    #[test]
    fn the_watches_of_a_process_are_found_under_each_number_of_a_file() {
        let script = "import os, select\nepoll = select.epoll()\nfile = os.eventfd(0)\nfor n in range(100, 150):\n  os.dup2(file, n); epoll.register(n); os.close(n)\nprint('watching', flush=True)\ninput()";
        let mut python = Command::new("python3");
        python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut python = python.spawn().unwrap();
        python.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
        let mut found = 0;
        // The processor time of this process includes that of all other tests.
        let never = || false;
        count(format!("/proc/{}/task", python.id()), &mut found, never);
        count("/proc/0/task", &mut found, never);
        python.kill().unwrap();
        python.wait().unwrap();
        assert_eq!(found, 50);
    }
}
