//! The supervisor of one child: a small process between the wrapper and the child. It runs the wrapper's
//! program with a different first argument. If a process loses its parent (by a double fork, for example), the
//! nearest subreaper among its ancestors becomes its parent. If that were the wrapper, it could not find out
//! from which child the process comes. Therefore each child has its own subreaper, which kills all its
//! descendants when the child, the session or the wrapper ends.

mod kin;

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use contract::printing::print_error;
use rustix::process::{DumpableBehavior, Pid, Signal, set_child_subreaper, set_dumpable_behavior};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use super::orders::{BECOME, Order, Orders, PROGRAM, Report};
use super::pipes;
use kin::Kin;

/// The number that is added to the OOM score of a child, which is at most 1000. When memory is short, the
/// kernel kills the process with the highest score (`proc_pid_oom_score_adj(5)`).
const FIRST_TO_GO: i32 = 500;
/// Time after which the supervisor checks again whether the processes that it has killed have exited.
const PAUSE: Duration = Duration::from_millis(20);

/// Starts the child that the arguments name, and runs until the last process of the child has exited. Standard
/// input is the socket to the wrapper.
pub fn supervise(arguments: impl Iterator<Item = String>) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(format_args!(
                "stdio-wrapper: only the wrapper itself can start a supervisor: {error}"
            ));
            ExitCode::FAILURE
        }
    }
}

/// Everything that is needed to start a child.
struct Start {
    /// The program of the child and its arguments.
    arguments: Vec<String>,
    /// The [`Orders`], as text.
    orders: String,
    pipes: [OwnedFd; 3],
}

fn run(mut arguments: impl Iterator<Item = String>) -> io::Result<()> {
    let orders = arguments.next().ok_or_else(|| io::Error::other("there are no orders"))?;
    let wrapper = pipes::socket()?;
    let start = Start { arguments: arguments.collect(), orders, pipes: pipes::receive(&wrapper)? };
    set_child_subreaper(Some(rustix::process::getpid()))?;
    // The name that `ps` shows. Nothing depends on it, so an error is ignored.
    let _ = fs::write("/proc/self/comm", "supervisor");
    let oom = OomScore::find();
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    reporting(wrapper.try_clone()?, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(watch(wrapper, start, oom))
    })
}

/// Does the work of a supervisor. If this fails, for example because no epoll watches are left, the reason is reported
/// to the wrapper, which would otherwise assume that the supervisor was killed.
fn reporting(mut wrapper: UnixStream, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let result = work();
    if let Err(error) = &result {
        let error = format!("its supervisor could not start: {error}");
        let _ = writeln!(wrapper, "{}", serde_json::to_string(&Report::NotStarted(error))?);
    }
    result
}

/// The program that becomes the child. It is another instance of the wrapper's program.
fn command(arguments: impl Iterator<Item = String>, orders: &str, supervisor: UnixStream) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg0("stdio-wrapper").args([BECOME, orders]).args(arguments);
    command.stdin(OwnedFd::from(supervisor));
    command
}

/// The OOM score of this process, which the child inherits (see [`FIRST_TO_GO`]).
#[derive(Debug)]
struct OomScore {
    file: fs::File,
    own: i32,
}

impl OomScore {
    /// Opens the file. This must happen before the process becomes non-dumpable, because from then on root owns
    /// the file.
    fn find() -> Option<Self> {
        let path = "/proc/self/oom_score_adj";
        let own = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        Some(Self { file: OpenOptions::new().write(true).open(path).ok()?, own })
    }

    /// Sets the score. Only a score below the initial one needs privileges. If the score cannot be set, the
    /// child is started without it.
    fn set(&mut self, score: i32) {
        let _ = self.file.write_all(score.min(1000).to_string().as_bytes());
    }
}

/// Starts the child. Returns its process id and the reports for the wrapper. The supervisor's copies of the
/// pipes are then closed, so that the wrapper detects when the child closes its ends.
fn start(start: Start, oom: Option<OomScore>) -> io::Result<(Pid, String)> {
    let Start { arguments, orders, pipes } = start;
    let (mut ours, theirs) = UnixStream::pair()?;
    pipes::send(&ours, pipes.each_ref())?;
    drop(pipes);
    let isolation = serde_json::from_str::<Orders>(&orders)?.isolation;
    let mut command = command(arguments.into_iter(), &orders, theirs);
    let mut oom = oom;
    if let Some(oom) = &mut oom {
        oom.set(oom.own + FIRST_TO_GO);
    }
    let started = isolation.start(|| command.spawn());
    if let Some(oom) = &mut oom {
        oom.set(oom.own);
    }
    let mut started = started?;
    // The command holds a copy of the other end of the socket.
    drop(command);
    let mut reports = String::new();
    ours.read_to_string(&mut reports)?;
    if let Some(error) = reports.lines().find_map(not_started) {
        let _ = started.wait();
        return Err(io::Error::other(error));
    }
    let pid = i32::try_from(started.id()).ok().and_then(Pid::from_raw);
    Ok((pid.ok_or_else(|| io::Error::other("the child has no process id"))?, reports))
}

/// Returns the reason if this report says that the program did not become the child.
fn not_started(report: &str) -> Option<String> {
    match serde_json::from_str(report).ok()? {
        Report::NotStarted(error) => Some(error),
        Report::Warning(_) | Report::Ended(_) | Report::Gone(_) => None,
    }
}

/// The signals that a supervisor handles.
struct Events {
    /// A descendant of the supervisor has exited.
    ended: Signals,
    terminate: Signals,
    interrupt: Signals,
    hang_up: Signals,
}

impl Events {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            ended: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next order. Returns `None` if a process has exited.
    async fn next(&mut self, wrapper: &mut OwnedReadHalf) -> Option<Order> {
        tokio::select! {
            _ = self.ended.recv() => None,
            // If the wrapper has exited, this counts as an order to kill.
            byte = wrapper.read_u8() => Some(byte.map_or(Order::Kill, Order::of)),
            // A signal to all processes of a service is also meant for the child.
            _ = self.terminate.recv() => Some(Order::Terminate),
            _ = self.interrupt.recv() => Some(Order::Terminate),
            _ = self.hang_up.recv() => Some(Order::Terminate),
        }
    }
}

async fn watch(wrapper: UnixStream, order: Start, oom: Option<OomScore>) -> io::Result<()> {
    wrapper.set_nonblocking(true)?;
    let (mut from_wrapper, mut to_wrapper) = tokio::net::UnixStream::from_std(wrapper)?.into_split();
    let mut events = Events::listen()?;
    let (child, reports) = match start(order, oom) {
        Ok(started) => started,
        Err(error) => return say(&mut to_wrapper, &Report::NotStarted(error.to_string())).await,
    };
    // An error means that the wrapper has exited, which is noticed below.
    let _ = to_wrapper.write_all(reports.as_bytes()).await;
    let mut kin = Kin::of(child);
    while !kin.child_has_ended() {
        match events.next(&mut from_wrapper).await {
            None => kin.collect(),
            Some(Order::Terminate) => kin.signal(Signal::TERM),
            Some(Order::Kill) => break,
        }
    }
    end(&mut kin, &mut events.ended, &mut to_wrapper).await;
    Ok(())
}

/// Kills the child and all descendants of the supervisor, and reports this. Waits for processes that do not
/// exit.
async fn end(kin: &mut Kin, ended: &mut Signals, to_wrapper: &mut OwnedWriteHalf) {
    kin.signal(Signal::KILL);
    let mut is_told = false;
    loop {
        let is_any_left = kin.kill();
        if let Some(status) = kin.status().filter(|_| !is_told) {
            is_told = true;
            let _ = say(to_wrapper, &Report::Ended(status)).await;
        }
        if !is_any_left {
            break;
        }
        let _ = tokio::time::timeout(PAUSE, ended.recv()).await;
    }
    let _ = say(to_wrapper, &Report::Gone(kin.killed())).await;
}

async fn say(wrapper: &mut OwnedWriteHalf, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    wrapper.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_that_cannot_start_says_why() {
        let (ours, mut wrapper) = UnixStream::pair().unwrap();
        assert!(reporting(ours, || Err(io::Error::from_raw_os_error(28))).is_err());
        let mut report = String::new();
        wrapper.read_to_string(&mut report).unwrap();
        assert!(report.contains("could not start") && report.contains("No space left"), "{report}");
        assert!(matches!(serde_json::from_str(&report), Ok(Report::NotStarted(_))), "{report}");
        let (ours, mut wrapper) = UnixStream::pair().unwrap();
        reporting(ours, || Ok(())).unwrap();
        assert_eq!(wrapper.read(&mut [0]).unwrap(), 0);
    }
}
