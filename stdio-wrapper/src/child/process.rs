//! One child process, and the task that watches it until its last process has exited.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use super::command::Filled;
use super::launcher::Spec;
use super::orders::{Order, Report};
use super::reader::Output;
use super::reaper::Reaper;
use super::starts::Turn;
use super::stderr;
use super::supervised::{Ends, Supervised};
use super::warm_up::{self, Pinged};
use super::writer::Outbox;
use crate::metrics::Metrics;
use crate::turns::Copies;

/// Time between SIGTERM and SIGKILL for a child that is stopped because memory is short.
const URGENT_GRACE: Duration = Duration::from_millis(200);
/// Maximum time for a supervisor to kill all its descendants. A supervisor that was stopped by a signal never
/// does so.
const KILL_PATIENCE: Duration = Duration::from_secs(3);

/// How a child exited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The status in words, such as "exit status: 1" or "signal: 9 (SIGKILL)".
    pub status: String,
    /// Whether the wrapper stopped the child.
    pub is_wanted: bool,
}

impl Exit {
    /// Returns the reason why a request was not answered, for its caller.
    pub fn reason(exit: Option<&Self>) -> String {
        match exit {
            Some(exit) if exit.is_wanted => "The MCP server was stopped.".to_owned(),
            Some(exit) => format!("The MCP server exited before it answered ({}).", exit.status),
            None => "The MCP server closed its output before it answered.".to_owned(),
        }
    }
}

/// A running child. Dropping it stops the child.
pub struct Child {
    /// The number of the child in logs.
    pub number: u64,
    pipes: Arc<Pipes>,
    exit: watch::Receiver<Option<Exit>>,
    stop: watch::Sender<Stop>,
    /// Whether the child has sent its first response. Until then, its standard error is a banner, or the reason
    /// for a failure.
    has_answered: watch::Sender<bool>,
    /// The principal who uses the child.
    owner: OnceLock<Arc<str>>,
    held: Held,
}

/// Values that are kept until the last process of a child has exited.
type Held = Arc<Mutex<Vec<Box<dyn Send>>>>;

/// The input and output of a child.
#[derive(Debug)]
struct Pipes {
    state: Mutex<PipeState>,
    /// The input, set when the child is first used.
    outbox: OnceLock<Outbox>,
}

#[derive(Debug)]
enum PipeState {
    /// The child is an unused spare.
    Idle(Idle),
    /// The child is in use.
    Open(Outbox),
    /// The child is about to exit.
    Closed,
}

#[derive(Debug)]
struct Idle {
    stdin: OwnedFd,
    stdout: OwnedFd,
    /// The output that has been read so far.
    early: BytesMut,
    /// Set until a ping is answered. Notifies the task that waits for the ping response that the child is now
    /// in use.
    ping: Option<oneshot::Sender<()>>,
}

impl Pipes {
    /// Closes the input of the child after the queued messages have been written. Returns whether a ping was
    /// not answered.
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the output of a spare until it has answered the ping or is taken.
    async fn answer(&self, stdout: pipe::Receiver) -> Pinged {
        loop {
            if stdout.readable().await.is_err() {
                return Pinged::Ended;
            }
            let mut state = self.state();
            // Once a session has taken the child, its output belongs to the session and must not be read here.
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
    /// Starts a child with its own process group and supervisor.
    pub(super) fn start(
        number: u64,
        filled: &Filled,
        spec: &Spec,
        reaper: &Arc<Reaper>,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (supervised, ends) = reaper.start(number, || Supervised::start(filled, spec))?;
        metrics.children_started_total.add();
        metrics.children.add();
        let settings = &spec.child;
        // The thread that takes the child connects the pipes, so that it also handles the messages.
        let Ends { stdin, stdout, stderr } = ends;
        let stderr = pipe::Receiver::from_owned_fd(stderr)?;
        let idle = Idle { stdin, stdout, early: BytesMut::new(), ping: None };
        let pipes = Arc::new(Pipes { state: Mutex::new(PipeState::Idle(idle)), outbox: OnceLock::new() });
        let (exit_sender, exit) = watch::channel(None);
        let (has_answered, answered) = watch::channel(false);
        let log = stderr::Log::new(number, settings.stderr_rate, Arc::clone(metrics));
        tokio::spawn(stderr::drain(stderr, log, answered, exit.clone()));
        let stop = watch::Sender::new(Stop::NotWanted);
        let watched = Watched {
            number,
            supervised,
            pipes: Arc::clone(&pipes),
            stop: stop.clone(),
            grace: settings.stop_grace,
            reaper: Arc::clone(reaper),
            metrics: Arc::clone(metrics),
            held: Held::default(),
        };
        let held = Arc::clone(&watched.held);
        tokio::spawn(watched.run(exit_sender));
        Ok(Self { number, pipes, exit, stop, has_answered, owner: OnceLock::new(), held })
    }

    /// Connects the child to the runtime of the calling function. At most about `max_queue` bytes are queued
    /// for the child.
    pub(super) fn connect(self, max_queue: usize) -> std::io::Result<(Self, Outbox, Output)> {
        let mut state = self.pipes.state();
        let PipeState::Idle(idle) = std::mem::replace(&mut *state, PipeState::Closed) else {
            return Err(std::io::Error::other("the child has exited"));
        };
        if let Some(waiting) = idle.ping {
            // The receiver might already have stopped waiting.
            let _ = waiting.send(());
        }
        let copies = Copies::of_child(self.owner().map_or("", |owner| owner), self.number);
        let outbox = Outbox::start(pipe::Sender::from_owned_fd(idle.stdin)?, max_queue, copies);
        // This cannot fail, because a child is connected only once.
        let _ = self.pipes.outbox.set(outbox.clone());
        *state = PipeState::Open(outbox.clone());
        drop(state);
        let output = Output { pipe: pipe::Receiver::from_owned_fd(idle.stdout)?, early: idle.early };
        Ok((self, outbox, output))
    }

    /// Sends a ping to a spare. The returned future resolves to the outcome.
    pub(super) fn ping(&self) -> std::io::Result<impl Future<Output = Pinged> + Send + use<>> {
        let (waiting, mut used) = oneshot::channel();
        let stdout = {
            let mut state = self.pipes.state();
            let PipeState::Idle(idle) = &mut *state else {
                return Err(std::io::Error::other("the child is in use"));
            };
            let stdout = pipe::Receiver::from_owned_fd(idle.stdout.try_clone()?)?;
            // The pipe is empty, so the whole line fits.
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

    /// Stops the child: closes its input, sends SIGTERM after the grace period, and SIGKILL after another grace
    /// period.
    pub fn stop(&self) {
        Stop::Wanted.ask(&self.stop);
    }

    /// Stops the child immediately, because memory is short: sends SIGTERM, and SIGKILL shortly after.
    pub fn stop_at_once(&self) {
        Stop::AtOnce.ask(&self.stop);
    }

    /// A handle that can stop the child even after the `Child` was dropped.
    pub(super) fn remains(&self) -> Remains {
        Remains { stop: self.stop.clone(), exit: self.exit.clone() }
    }

    /// Records the principal who uses the child. Only the first call has an effect.
    pub(super) fn set_owner(&self, owner: Arc<str>) {
        // This cannot fail, because a child is taken only once.
        let _ = self.owner.set(owner);
    }

    /// The principal who uses the child, if it was taken.
    pub(super) fn owner(&self) -> Option<&Arc<str>> {
        self.owner.get()
    }

    /// Keeps a value until the last process of the child has exited. The value is dropped before the exit is
    /// announced.
    pub fn hold(&self, held: impl Send + 'static) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(held));
    }

    /// Occupies the start slot until the child has sent its first response, has exited, or has used up its
    /// time.
    pub(super) fn occupy(&self, turn: Arc<Turn>) {
        let (mut has_answered, exited) = (self.has_answered.subscribe(), self.exited());
        tokio::spawn(async move {
            let answered = async {
                // A child that is no longer used still needs the processor until it has exited.
                if has_answered.wait_for(|has_answered| *has_answered).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = answered => {}
                _ = exited => {}
                () = tokio::time::sleep_until(turn.until()) => {}
            }
            turn.leave();
        });
    }

    /// Records that the child has sent its first response.
    pub fn set_answered(&self) {
        self.has_answered.send_replace(true);
    }

    /// Whether the child has exited.
    pub fn has_exited(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits until the last process of the child has exited.
    pub fn exited(&self) -> impl Future<Output = Exit> + Send + use<> {
        exited(self.exit.clone())
    }
}

/// Waits until the last process of a child has exited.
async fn exited(mut exit: watch::Receiver<Option<Exit>>) -> Exit {
    let gone = Exit { status: "unknown".to_owned(), is_wanted: true };
    match exit.wait_for(Option::is_some).await {
        Ok(exit) => exit.clone().unwrap_or(gone),
        Err(_) => gone,
    }
}

/// A child that was dropped and has not exited yet.
#[derive(Debug, Clone)]
pub(super) struct Remains {
    stop: watch::Sender<Stop>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Remains {
    /// Like [`Child::stop_at_once`].
    pub(super) fn stop_at_once(&self) {
        Stop::AtOnce.ask(&self.stop);
    }

    /// Kills the child immediately, without SIGTERM.
    pub(super) fn kill(&self) {
        Stop::Killed.ask(&self.stop);
    }

    /// Whether a stop of the child has been requested.
    pub(super) fn is_ending(&self) -> bool {
        *self.stop.borrow() != Stop::NotWanted
    }

    /// Whether the child has exited.
    pub(super) fn has_exited(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits until the last process of the child has exited.
    pub(super) fn exited(&self) -> impl Future<Output = Exit> + Send + use<> {
        exited(self.exit.clone())
    }
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child")
            .field("number", &self.number)
            .field("exit", &self.exit)
            .finish_non_exhaustive()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a child must be stopped, and how quickly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    NotWanted,
    /// The child gets its grace periods.
    Wanted,
    /// The child gets no grace period.
    AtOnce,
    /// The child gets SIGKILL, because it must not run any longer.
    Killed,
}

impl Stop {
    /// Requests this stop, unless a quicker one has already been requested.
    fn ask(self, stop: &watch::Sender<Self>) {
        stop.send_if_modified(|stop| {
            let is_sooner = *stop < self;
            *stop = self.max(*stop);
            is_sooner
        });
    }

    /// Waits until at least this stop is requested.
    async fn wait(self, stop: &watch::Sender<Self>) {
        // The result cannot be an error, because this function borrows the sender.
        let _ = stop.subscribe().wait_for(|stop| *stop >= self).await;
    }
}

/// The state of the task that watches a child.
struct Watched {
    number: u64,
    supervised: Supervised,
    pipes: Arc<Pipes>,
    stop: watch::Sender<Stop>,
    grace: Duration,
    reaper: Arc<Reaper>,
    metrics: Arc<Metrics>,
    held: Held,
}

impl Watched {
    async fn run(mut self, exit: watch::Sender<Option<Exit>>) {
        let stop = self.stop.clone();
        let (status, mut is_wanted) = tokio::select! {
            status = self.ended() => (status, false),
            () = Stop::Wanted.wait(&stop) => (self.end().await, true),
        };
        // If a child exits because of a ping, the wrapper caused it.
        is_wanted |= self.pipes.close();
        if is_wanted {
            tracing::debug!(child = self.number, status, "child exited");
        } else {
            self.metrics.children_crashed_total.add();
            tracing::warn!(child = self.number, status, "child exited without being stopped");
        }
        let exit_status = Exit { status, is_wanted };
        // Processes that the child has left behind are killed with it (attack 107). The child counts as running
        // until they have exited.
        if tokio::time::timeout(KILL_PATIENCE, self.exited()).await.is_err() {
            tracing::warn!(child = self.number, "processes of the child did not exit after they were killed");
            exit.send_replace(Some(exit_status.clone()));
            self.supervised.kill();
            self.exited().await;
        }
        if let Some(outbox) = self.pipes.outbox.get() {
            outbox.abandon();
        }
        self.reaper.child_ended(self.number);
        self.metrics.children.sub();
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
        exit.send_replace(Some(exit_status));
    }

    /// Waits until the child has exited. Returns its status in words.
    async fn ended(&mut self) -> String {
        loop {
            match self.supervised.report().await {
                Some(Report::Ended(status)) => return ExitStatus::from_raw(status).to_string(),
                Some(Report::NotStarted(error)) => {
                    tracing::error!(child = self.number, error, "the child could not be started");
                    return format!("not started: {error}");
                }
                Some(Report::Warning(warning)) => {
                    tracing::warn!(
                        child = self.number,
                        warning,
                        "the child runs, but without part of its configuration"
                    );
                }
                Some(Report::Gone(killed)) => self.metrics.orphans_killed_total.add_many(killed),
                None => {
                    return "its supervisor ended without a report, for example because it was killed"
                        .to_owned();
                }
            }
        }
    }

    /// Waits until the child has exited or its grace period is over. An immediate stop shortens the rest of the
    /// grace period to `urgent`. Returns the status in words if the child has exited.
    async fn ended_within_grace(&mut self, urgent: Duration) -> Option<String> {
        let (stop, grace) = (self.stop.clone(), self.grace);
        let at_once = async {
            Stop::AtOnce.wait(&stop).await;
            tokio::time::sleep(urgent).await;
        };
        let killed = self.stop.clone();
        tokio::select! {
            status = self.ended() => Some(status),
            () = tokio::time::sleep(grace) => None,
            () = at_once => None,
            () = Stop::Killed.wait(&killed) => None,
        }
    }

    /// Waits until the last process of the child has exited.
    async fn exited(&mut self) {
        while let Some(report) = self.supervised.report().await {
            if let Report::Gone(killed) = report {
                self.metrics.orphans_killed_total.add_many(killed);
            }
        }
        if let Err(error) = self.supervised.exited().await {
            tracing::warn!(child = self.number, %error, "the supervisor of the child cannot be waited for");
        }
    }

    /// Stops the child as the stdio transport specifies (2025-11-25, lifecycle, "Shutdown").
    async fn end(&mut self) -> String {
        self.pipes.close();
        if let Some(status) = self.ended_within_grace(Duration::ZERO).await {
            return status;
        }
        self.supervised.order(Order::Terminate);
        if let Some(status) = self.ended_within_grace(URGENT_GRACE).await {
            return status;
        }
        self.metrics.children_killed_total.add();
        tracing::warn!(
            child = self.number,
            "child did not exit after the end of its input and SIGTERM, so it is killed"
        );
        self.supervised.order(Order::Kill);
        if let Ok(status) = tokio::time::timeout(KILL_PATIENCE, self.ended()).await {
            return status;
        }
        self.supervised.kill();
        "killed".to_owned()
    }
}
