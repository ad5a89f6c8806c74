//! A child and its supervisor, from the wrapper's side.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{ExitStatus, Stdio};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

use super::command::Filled;
use super::launcher::Spec;
use super::limits::Limits;
use super::orders::{Order, Orders, PREFIX, Report, SUPERVISE};

/// This program, whatever its name is now and whoever may see it.
const PROGRAM: &str = "/proc/self/exe";
/// Size of the pipe for a child's output, in bytes. The usual 64 KiB makes a large result a dialogue of many small steps.
const PIPE_SIZE: usize = 1 << 20;
/// The supervisor's allocator gets along with one arena, and gives back what it does not use.
const ALLOCATOR: (&str, &str) =
    ("_RJEM_MALLOC_CONF", "background_thread:false,narenas:1,tcache:false,dirty_decay_ms:0,muzzy_decay_ms:0");

/// A supervisor that runs.
#[derive(Debug)]
pub(super) struct Supervised {
    process: Child,
    orders: OwnedWriteHalf,
    reports: Lines<BufReader<OwnedReadHalf>>,
}

/// Our ends of the child's pipes.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Supervised {
    /// Starts a supervisor, which starts the child. Whether it could is in its reports.
    pub(super) fn start(filled: &Filled, spec: &Spec) -> io::Result<(Self, Ends)> {
        let (child_stdin, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        // Without the right to a larger pipe the usual size does.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_SIZE);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        send_pipes(&ours, [&child_stdin, &child_stdout, &child_stderr])?;
        ours.set_nonblocking(true)?;
        let (reports, orders) = UnixStream::from_std(ours)?.into_split();
        let process = command(filled, spec, theirs.into())?.spawn()?;
        let reports = BufReader::new(reports).lines();
        Ok((Self { process, orders, reports }, Ends { stdin, stdout, stderr }))
    }

    /// The supervisor's process id.
    pub(super) fn id(&self) -> Option<i32> {
        self.process.id().and_then(|id| i32::try_from(id).ok())
    }

    /// The next report. `None`: the supervisor is gone, or will be in a moment. Nothing is lost if this is dropped.
    pub(super) async fn report(&mut self) -> Option<Report> {
        let line = self.reports.next_line().await.ok().flatten()?;
        serde_json::from_str(&line).ok()
    }

    /// Tells the supervisor what to do. One that is gone has done everything.
    pub(super) fn order(&self, order: Order) {
        let _ = self.orders.try_write(&[order.byte()]);
    }

    /// Waits for the end of the supervisor itself.
    pub(super) async fn gone(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Ends the supervisor itself. What is below it comes to us.
    pub(super) fn kill(&mut self) {
        // It may be gone.
        let _ = self.process.start_kill();
    }
}

/// They stay in the socket until they are received, so nobody waits.
fn send_pipes(wrapper: &std::os::unix::net::UnixStream, pipes: [&OwnedFd; 3]) -> io::Result<()> {
    let pipes = pipes.map(|pipe| pipe.as_fd());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&pipes)) {
        return Err(io::Error::other("there is no room for the pipes of the child"));
    }
    sendmsg(wrapper, &[IoSlice::new(b"P")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn command(filled: &Filled, spec: &Spec, wrapper: OwnedFd) -> io::Result<Command> {
    if let Some(cwd) = filled.cwd.as_ref().filter(|_| filled.cwd_is_per_caller) {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(cwd)?;
    }
    let limits = Limits::of(&spec.child);
    let orders = Orders { isolation: spec.isolation, limits, cwd: filled.cwd.clone() };
    let mut command = Command::new(PROGRAM);
    command.arg0("stdio-wrapper").args([SUPERVISE, &serde_json::to_string(&orders)?]).args(&filled.command);
    command.env_clear().env(ALLOCATOR.0, ALLOCATOR.1);
    command.envs(filled.env.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)));
    command.stdin(Stdio::from(wrapper)).stdout(Stdio::null()).stderr(Stdio::null());
    // Signals from a terminal are for the wrapper, which then ends its children in order.
    command.process_group(0);
    Ok(command)
}
