//! One child process and the task that watches over it until nothing of it is left.

use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::{Notify, oneshot, watch};

use super::command::Filled;
use super::launcher::Spec;
use super::limits;
use super::reader::Output;
use super::reaper::{MARKER, Reaper, mark};
use super::stderr;
use super::warm_up::{self, Pinged};
use super::writer::Outbox;
use crate::metrics::Metrics;

/// Size of the pipe for a child's output. The usual 64 KiB makes a large result a dialogue of many small steps.
const PIPE_SIZE: usize = 1 << 20;

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// In words: "exit status: 1", "signal: 9 (SIGKILL)".
    pub status: String,
    /// Whether we asked for it.
    pub is_wanted: bool,
}

impl Exit {
    /// Why a request was not answered, for its caller.
    pub fn reason(exit: Option<&Self>) -> String {
        match exit {
            Some(exit) if exit.is_wanted => "The MCP server was stopped.".to_owned(),
            Some(exit) => format!("The MCP server ended before it answered ({}).", exit.status),
            None => "The MCP server closed its output before it answered.".to_owned(),
        }
    }
}

/// A running child. Dropping it asks it to end.
#[derive(Debug)]
pub struct Child {
    /// Number of the child in logs.
    pub number: u64,
    pipes: Arc<Pipes>,
    exit: watch::Receiver<Option<Exit>>,
    stop: Arc<Notify>,
    /// Whether it has answered something: until then what it says on standard error is a banner, or the reason why it fails.
    has_answered: watch::Sender<bool>,
}

/// The child's input and output.
#[derive(Debug)]
struct Pipes(Mutex<PipeState>);

#[derive(Debug)]
enum PipeState {
    /// A spare: nobody talks to it yet.
    Idle(Idle),
    /// In use.
    Open(Outbox),
    /// Ending.
    Closed,
}

#[derive(Debug)]
struct Idle {
    stdin: OwnedFd,
    stdout: OwnedFd,
    /// What the child has written already, as far as it was read.
    early: BytesMut,
    /// Set while the answer to a ping is waited for: tells that the child is used now.
    ping: Option<oneshot::Sender<()>>,
}

impl Pipes {
    /// Closes the child's input, after what is queued. Tells whether the child had not answered a ping.
    fn close(&self) -> bool {
        match std::mem::replace(&mut *self.state(), PipeState::Closed) {
            PipeState::Open(outbox) => {
                outbox.close();
                false
            }
            PipeState::Idle(idle) => idle.ping.is_some(),
            PipeState::Closed => false,
        }
    }

    fn state(&self) -> MutexGuard<'_, PipeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what a spare writes, until it has answered the ping or is used.
    async fn answer(&self, stdout: pipe::Receiver) -> Pinged {
        loop {
            if stdout.readable().await.is_err() {
                return Pinged::Ended;
            }
            let mut state = self.state();
            // Only while nobody uses the child: nothing that is meant for a session is read here.
            let idle = match &mut *state {
                PipeState::Idle(idle) => idle,
                PipeState::Open(_) => return Pinged::Taken,
                PipeState::Closed => return Pinged::Ended,
            };
            match stdout.try_read_buf(&mut idle.early) {
                Ok(1..) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Ok(0) | Err(_) => return Pinged::Ended,
            }
            let is_much = idle.early.len() > warm_up::MAX_EARLY;
            if let Some(pinged) = warm_up::take_answer(&mut idle.early).or(is_much.then_some(Pinged::Refused))
            {
                idle.ping = None;
                return pinged;
            }
        }
    }
}

impl Child {
    /// Starts a process in a group of its own.
    pub(super) fn start(
        number: u64,
        filled: &Filled,
        spec: &Spec,
        reaper: &Arc<Reaper>,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let mut command = command(number, filled)?;
        let settings = &spec.child;
        let mut process = reaper.spawn(number, || spec.isolation.start(|| command.spawn()))?;
        metrics.children_started_total.add();
        metrics.children.add();
        let pid = process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            limits::apply(pid, settings);
        }
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (process.stdin.take(), process.stdout.take(), process.stderr.take())
        else {
            return Err(std::io::Error::other("the child's pipes are missing"));
        };
        // Without the right to a larger pipe the usual size does.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_SIZE);
        // Whoever takes the child in use connects the pipes, so that its messages are handled on that thread.
        let (stdin, stdout) = (stdin.into_owned_fd()?, stdout.into_owned_fd()?);
        let idle = Idle { stdin, stdout, early: BytesMut::new(), ping: None };
        let pipes = Arc::new(Pipes(Mutex::new(PipeState::Idle(idle))));
        let (exit_sender, exit) = watch::channel(None);
        let (has_answered, answered) = watch::channel(false);
        let log = stderr::Log::new(number, settings.stderr_rate, Arc::clone(metrics));
        tokio::spawn(stderr::drain(stderr, log, answered, exit.clone()));
        let stop = Arc::new(Notify::new());
        let watched = Watched {
            number,
            process,
            pid,
            pipes: Arc::clone(&pipes),
            stop: Arc::clone(&stop),
            grace: settings.stop_grace,
            reaper: Arc::clone(reaper),
            metrics: Arc::clone(metrics),
        };
        tokio::spawn(watched.run(exit_sender));
        Ok(Self { number, pipes, exit, stop, has_answered })
    }

    /// Puts the child to use on the runtime of the caller. At most about `max_queue` bytes wait for its input.
    pub(super) fn connect(self, max_queue: usize) -> std::io::Result<(Self, Outbox, Output)> {
        let mut state = self.pipes.state();
        let PipeState::Idle(idle) = std::mem::replace(&mut *state, PipeState::Closed) else {
            return Err(std::io::Error::other("the child has ended"));
        };
        if let Some(waiting) = idle.ping {
            // It may have stopped waiting.
            let _ = waiting.send(());
        }
        let outbox = Outbox::start(pipe::Sender::from_owned_fd(idle.stdin)?, max_queue);
        *state = PipeState::Open(outbox.clone());
        drop(state);
        let output = Output { pipe: pipe::Receiver::from_owned_fd(idle.stdout)?, early: idle.early };
        Ok((self, outbox, output))
    }

    /// Sends a ping to a spare; the future tells what came of it.
    pub(super) fn ping(&self) -> std::io::Result<impl Future<Output = Pinged> + Send + use<>> {
        let (waiting, mut used) = oneshot::channel();
        let stdout = {
            let mut state = self.pipes.state();
            let PipeState::Idle(idle) = &mut *state else {
                return Err(std::io::Error::other("the child is in use"));
            };
            let stdout = pipe::Receiver::from_owned_fd(idle.stdout.try_clone()?)?;
            // So little goes into an empty pipe at once.
            rustix::io::write(&idle.stdin, warm_up::PING)?;
            idle.ping = Some(waiting);
            stdout
        };
        let (pipes, exited) = (Arc::clone(&self.pipes), self.exited());
        Ok(async move {
            tokio::select! {
                pinged = pipes.answer(stdout) => pinged,
                Ok(()) = &mut used => Pinged::Taken,
                _ = exited => Pinged::Ended,
            }
        })
    }

    /// Asks the child to end: input closed, then SIGTERM, then SIGKILL, each after the grace period.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// The child has answered something.
    pub fn set_answered(&self) {
        self.has_answered.send_replace(true);
    }

    /// Whether it has ended.
    pub fn has_exited(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits until the process and its group are gone.
    pub fn exited(&self) -> impl Future<Output = Exit> + Send + use<> {
        let mut exit = self.exit.clone();
        async move {
            let gone = Exit { status: "unknown".to_owned(), is_wanted: true };
            match exit.wait_for(Option::is_some).await {
                Ok(exit) => exit.clone().unwrap_or(gone),
                Err(_) => gone,
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

fn command(number: u64, filled: &Filled) -> std::io::Result<Command> {
    let (program, arguments) =
        filled.command.split_first().ok_or_else(|| std::io::Error::other("there is no command"))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(filled.env.iter().map(|(name, value)| (name, value)));
    command.env(MARKER, mark(number));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    if let Some(cwd) = &filled.cwd {
        if filled.cwd_is_per_caller {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(cwd)?;
        }
        command.current_dir(cwd);
    }
    Ok(command)
}

/// What the watching task owns.
struct Watched {
    number: u64,
    process: tokio::process::Child,
    pid: Option<Pid>,
    pipes: Arc<Pipes>,
    stop: Arc<Notify>,
    grace: Duration,
    reaper: Arc<Reaper>,
    metrics: Arc<Metrics>,
}

impl Watched {
    async fn run(mut self, exit: watch::Sender<Option<Exit>>) {
        let stop = Arc::clone(&self.stop);
        let (status, mut is_wanted) = tokio::select! {
            status = self.process.wait() => (status, false),
            () = stop.notified() => (self.end().await, true),
        };
        // A child that ends at a ping does so because of us.
        is_wanted |= self.pipes.close();
        // Whatever the child started and left in its group ends with it (attack 107).
        self.signal(Signal::KILL);
        self.reaper.child_ended(self.number);
        self.metrics.children.sub();
        let status = status.map_or_else(|error| error.to_string(), describe);
        if is_wanted {
            tracing::debug!(child = self.number, status, "child ended");
        } else {
            self.metrics.children_crashed_total.add();
            tracing::warn!(child = self.number, status, "child ended by itself");
        }
        exit.send_replace(Some(Exit { status, is_wanted }));
    }

    /// The order that the stdio transport asks for (2025-11-25, lifecycle, "Shutdown").
    async fn end(&mut self) -> std::io::Result<ExitStatus> {
        self.reaper.note();
        self.pipes.close();
        if let Ok(status) = tokio::time::timeout(self.grace, self.process.wait()).await {
            return status;
        }
        self.signal(Signal::TERM);
        if let Ok(status) = tokio::time::timeout(self.grace, self.process.wait()).await {
            return status;
        }
        self.metrics.children_killed_total.add();
        tracing::warn!(
            child = self.number,
            "child ignored the end of its input and SIGTERM, so it is killed"
        );
        self.signal(Signal::KILL);
        self.process.wait().await
    }

    /// To the whole group. It may be gone already, which is the aim.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            let _ = kill_process_group(pid, signal);
        }
    }
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}
