//! The supervisor of one child: a small process between it and the wrapper, which is this program with another first argument.
//! What a child leaves behind (a double fork, setsid) is handed by the kernel to the nearest subreaper above it. If that were
//! the wrapper, nobody could tell any more whose it was; so each child has one of its own, which ends all that is left below
//! it when the child or the session ends, or when the wrapper does.

mod kin;

use std::fs::{self, OpenOptions};
use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{DumpableBehavior, Pid, Signal, set_child_subreaper, set_dumpable_behavior};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use super::orders::{Order, Orders, PREFIX, Report};
use kin::Kin;

/// What is added to a child's share when the kernel looks for a process to end because memory is short, of at most 1000
/// (`proc_pid_oom_score_adj(5)`).
const FIRST_TO_GO: i32 = 500;
/// Time between two looks at processes that do not end although they are killed.
const PAUSE: Duration = Duration::from_millis(20);

/// Starts the child that the arguments name and stays until nothing of it is left. Standard input is the way to the wrapper.
pub fn supervise(arguments: impl Iterator<Item = String>) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stdio-wrapper: only the wrapper itself can start a supervisor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> io::Result<()> {
    let orders = arguments.next().ok_or_else(|| io::Error::other("there are no orders"))?;
    let orders: Orders = serde_json::from_str(&orders)?;
    let wrapper = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let pipes = receive_pipes(&wrapper)?;
    set_child_subreaper(Some(rustix::process::getpid()))?;
    // What `ps` shows. It is a courtesy.
    let _ = fs::write("/proc/self/comm", "supervisor");
    let oom = OomScore::find();
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let command = command(arguments, &orders, pipes)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(watch(wrapper, command, &orders, oom))
}

/// The child's standard input, output and error.
fn receive_pipes(wrapper: &UnixStream) -> io::Result<[OwnedFd; 3]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(wrapper, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let pipes: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(pipes) => Some(pipes),
            _ => None,
        })
        .flatten()
        .collect();
    pipes.try_into().map_err(|_| io::Error::other("the pipes of the child are missing"))
}

fn command(
    mut arguments: impl Iterator<Item = String>,
    orders: &Orders,
    [stdin, stdout, stderr]: [OwnedFd; 3],
) -> io::Result<Command> {
    let program = arguments.next().ok_or_else(|| io::Error::other("there is no command"))?;
    let mut command = Command::new(program);
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(PREFIX)?.to_owned(), value)));
    command.args(arguments).env_clear().envs(env);
    command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
    if let Some(cwd) = &orders.cwd {
        command.current_dir(cwd);
    }
    Ok(command)
}

/// The part that memory plays in which process the kernel ends; the child inherits it.
#[derive(Debug)]
struct OomScore {
    file: fs::File,
    own: i32,
}

impl OomScore {
    /// To be called before this process hides: afterwards its file is root's.
    fn find() -> Option<Self> {
        let path = "/proc/self/oom_score_adj";
        let own = fs::read_to_string(path).ok()?.trim().parse().ok()?;
        Some(Self { file: OpenOptions::new().write(true).open(path).ok()?, own })
    }

    /// Rights are only needed for less than there was at the start. Where it cannot be written, nothing else suffers.
    fn set(&mut self, score: i32) {
        let _ = self.file.write_all(score.min(1000).to_string().as_bytes());
    }
}

/// Starts the child. Its own copies of the pipes are closed then, so that their ends can be seen.
fn start(mut command: Command, orders: &Orders, oom: Option<OomScore>) -> io::Result<Pid> {
    let mut oom = oom;
    if let Some(oom) = &mut oom {
        oom.set(oom.own + FIRST_TO_GO);
    }
    let started = orders.isolation.start(|| command.spawn());
    if let Some(oom) = &mut oom {
        oom.set(oom.own);
    }
    let pid = i32::try_from(started?.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("the child has no process id"))
}

/// What may happen.
struct Events {
    /// A process below us has ended.
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

    /// What the wrapper orders next. `None`: to look what has ended.
    async fn next(&mut self, wrapper: &mut OwnedReadHalf) -> Option<Order> {
        tokio::select! {
            _ = self.ended.recv() => None,
            // A wrapper that is gone orders nothing else.
            byte = wrapper.read_u8() => Some(byte.map_or(Order::Kill, Order::of)),
            // Whoever signals every process of a service means the child too.
            _ = self.terminate.recv() => Some(Order::Terminate),
            _ = self.interrupt.recv() => Some(Order::Terminate),
            _ = self.hang_up.recv() => Some(Order::Terminate),
        }
    }
}

async fn watch(
    wrapper: UnixStream,
    command: Command,
    orders: &Orders,
    oom: Option<OomScore>,
) -> io::Result<()> {
    wrapper.set_nonblocking(true)?;
    let (mut from_wrapper, mut to_wrapper) = tokio::net::UnixStream::from_std(wrapper)?.into_split();
    let mut events = Events::listen()?;
    let child = match start(command, orders, oom) {
        Ok(child) => child,
        Err(error) => return say(&mut to_wrapper, &Report::NotStarted(error.to_string())).await,
    };
    for warning in orders.limits.apply(child) {
        // It may be gone; that is seen below.
        let _ = say(&mut to_wrapper, &Report::Warning(warning)).await;
    }
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

/// Kills the child and all that is below it, and tells what came of it. What cannot be killed is waited for.
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
