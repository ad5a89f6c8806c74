//! Counts the watches of a child's processes, in a separate process that runs the wrapper's program once more.
//! To print the watches of an epoll instance (`proc_pid_fdinfo(5)`), the kernel needs about as much memory as
//! the watches themselves use. If that memory is not available, the kernel kills only the counting process.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use super::Watches;
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
    let mut watches = Watches::default();
    for pid in pids {
        count(Path::new("/proc").join(pid).join("task"), &mut watches);
    }
    if print(watches).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(Watches { found, unknown, exited }: Watches) -> io::Result<()> {
    writeln!(io::stdout(), "{found} {unknown} {exited}")
}

/// Counts the watches of one process. Its threads can have different open files.
fn count(threads: impl AsRef<Path>, watches: &mut Watches) {
    for thread in fs::read_dir(&threads).into_iter().flatten().flatten() {
        if count_files(&thread.path().join("fdinfo"), watches).is_err_and(|error| !has_ended(&error)) {
            watches.unknown += 1;
            return;
        }
    }
    watches.exited += u64::from(!threads.as_ref().exists());
}

fn count_files(files: &Path, watches: &mut Watches) -> io::Result<()> {
    for file in fs::read_dir(files)? {
        if is_over() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let before = *watches;
        match File::open(file?.path()).and_then(|file| count_file(BufReader::new(file), watches)) {
            Err(error) if !has_ended(&error) => return Err(error),
            _ if *watches != before => print(*watches)?,
            _ => {}
        }
    }
    Ok(())
}

/// Whether the error means that a process or file no longer exists.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

fn count_file(mut text: impl io::BufRead, watches: &mut Watches) -> io::Result<()> {
    let mut line = Vec::new();
    while text.read_until(b'\n', &mut line)? > 0 {
        if line.starts_with(b"tfd:") {
            watches.found += 1;
        } else if let Some(sent) = line.strip_prefix(b"scm_fds:") {
            // The files in transit in this socket belong to no process, and any of them can be an epoll
            // instance.
            watches.unknown += std::str::from_utf8(sent).map_or(0, |sent| sent.trim().parse().unwrap_or(0));
        }
        line.clear();
    }
    Ok(())
}

fn is_over() -> bool {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(spent).is_ok_and(|spent| spent >= BUDGET)
}

/// Counts the watches of these processes of a child, in a separate process. If the counting process is killed
/// or takes too long, the child counts as the cause, provided that children cannot send signals to that process
/// (`is_safe`). Returns `None` if the watches cannot be counted.
pub(in crate::child) fn examine(pids: &[i32], is_safe: bool, reaper: &Reaper) -> Option<Watches> {
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
    let is_complete = process.wait().is_ok_and(|status| status.success());
    reaper.has_counted(process.id());
    let mut text = String::new();
    process.stdout.take()?.read_to_string(&mut text).ok()?;
    let mut watches = text.lines().rev().find_map(parse).unwrap_or_default();
    watches.unknown += u64::from(is_safe && !is_complete);
    Some(watches)
}

fn parse(text: &str) -> Option<Watches> {
    let mut numbers = text.split(' ').map(|number| number.parse().ok());
    Some(Watches { found: numbers.next()??, unknown: numbers.next()??, exited: numbers.next()?? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_and_files_on_their_way_are_counted() {
        let mut watches = Watches::default();
        let text = "pos:\t0\nflags:\t02\ntfd:       7 events:       19 data: 7  pos:0 ino:40f sdev:10\ntfd: 8 events: 19\n";
        count_file(text.as_bytes(), &mut watches).unwrap();
        count_file(b"pos:\t0\nscm_fds: 3\n".as_slice(), &mut watches).unwrap();
        count_file(b"tfd".as_slice(), &mut watches).unwrap();
        assert_eq!(watches, Watches { found: 2, unknown: 3, exited: 0 });
        assert_eq!([parse("2 3 0"), parse("2 3"), parse("")], [Some(watches), None, None]);
    }

    #[test]
    fn the_watches_of_a_process_are_found_under_each_number_of_a_file() {
        let script = "import os, select\nepoll = select.epoll()\nfile = os.eventfd(0)\nfor n in range(100, 150):\n  os.dup2(file, n); epoll.register(n); os.close(n)\nprint('watching', flush=True)\ninput()";
        let mut python = Command::new("python3");
        python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut python = python.spawn().unwrap();
        python.stdout.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
        let mut watches = Watches::default();
        count(format!("/proc/{}/task", python.id()), &mut watches);
        count("/proc/0/task", &mut watches);
        python.kill().unwrap();
        python.wait().unwrap();
        assert_eq!(watches, Watches { found: 50, unknown: 0, exited: 1 });
    }
}
