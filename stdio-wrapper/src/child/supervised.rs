//! The wrapper's handle of a supervisor and its child.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

use super::command::Filled;
use super::limits::Limits;
use super::orders::{Order, Orders, PREFIX, PROGRAM, Report, SUPERVISE};
use super::pipes;
use super::spec::Spec;

/// Size of the pipe for the output of a child, in bytes. With the default of 64 KiB, the child and the wrapper
/// would have to wait for each other many times during a large result.
const PIPE_SIZE: usize = 1 << 20;
/// Allocator settings for the supervisor: one arena, and unused memory is returned immediately.
pub(super) const ALLOCATOR: (&str, &str) =
    ("_RJEM_MALLOC_CONF", "background_thread:false,narenas:1,tcache:false,dirty_decay_ms:0,muzzy_decay_ms:0");

/// The process of a supervisor, and the socket over which it gets orders and sends reports.
#[derive(Debug)]
pub(super) struct Supervised {
    process: Child,
    orders: OwnedWriteHalf,
    reports: Lines<BufReader<OwnedReadHalf>>,
}

/// The wrapper's ends of the child's pipes.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Supervised {
    /// Starts a supervisor, which starts the child and reports whether this succeeded.
    pub(super) fn start(filled: &Filled, spec: &Spec) -> io::Result<(Self, Ends)> {
        let (child_stdin, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        // If the kernel does not allow a larger pipe, the default size is sufficient.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_SIZE);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        pipes::send(&ours, [&child_stdin, &child_stdout, &child_stderr])?;
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

    /// Waits for the next report. Returns `None` if the supervisor has exited, or is about to. No report is lost
    /// if this future is dropped.
    pub(super) async fn report(&mut self) -> Option<Report> {
        let line = self.reports.next_line().await.ok().flatten()?;
        serde_json::from_str(&line).ok()
    }

    /// Sends an order to the supervisor. An error means that the supervisor has exited and does not need the
    /// order.
    pub(super) fn order(&self, order: Order) {
        let _ = self.orders.try_write(&[order.byte()]);
    }

    /// Waits until the supervisor itself has exited.
    pub(super) async fn exited(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Kills the supervisor itself. Its children become children of the wrapper.
    pub(super) fn kill(&mut self) {
        // The supervisor might already have exited.
        let _ = self.process.start_kill();
    }
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
    // A signal from a terminal must reach only the wrapper, which then stops its children in order.
    command.process_group(0);
    Ok(command)
}
