//! One child process, and the task that watches it until no process of it is left.

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

/// Time to end after SIGTERM for a child that is ended because memory is short.
const URGENT_GRACE: Duration = Duration::from_millis(200);
/// Maximum time for a supervisor to kill everything below it. A supervisor that was stopped by a signal never does.
const KILL_PATIENCE: Duration = Duration::from_secs(3);

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The status in words, like "exit status: 1" or "signal: 9 (SIGKILL)".
    pub status: String,
    /// Whether the wrapper ended the child.
    pub is_wanted: bool,
}

impl Exit {
    /// Says why a request was not answered, in a form for its caller.
    pub fn reason(exit: Option<&Self>) -> String {
        match exit {
            Some(exit) if exit.is_wanted => "The MCP server was stopped.".to_owned(),
            Some(exit) => format!("The MCP server ended before it answered ({}).", exit.status),
            None => "The MCP server closed its output before it answered.".to_owned(),
        }
    }
}

/// A running child. Dropping it makes the child end.
pub struct Child {
    /// The number of the child in logs.
    pub number: u64,
    pipes: Arc<Pipes>,
    exit: watch::Receiver<Option<Exit>>,
    stop: watch::Sender<Stop>,
    /// Whether the child has sent its first answer. Until then, its standard error is a banner, or the reason why
    /// it fails.
    has_answered: watch::Sender<bool>,
    /// The principal for whom it is used.
    owner: OnceLock<Arc<str>>,
    held: Held,
}

/// Values that are kept until no process of a child is left.
type Held = Arc<Mutex<Vec<Box<dyn Send>>>>;

/// The input and output of a child.
#[derive(Debug)]
struct Pipes {
    state: Mutex<PipeState>,
    /// The input, as soon as the child is used.
    outbox: OnceLock<Outbox>,
}

#[derive(Debug)]
enum PipeState {
    /// The child is a spare, which nobody uses.
    Idle(Idle),
    /// The child is used.
    Open(Outbox),
    /// The child is about to end.
    Closed,
}

#[derive(Debug)]
struct Idle {
    stdin: OwnedFd,
    stdout: OwnedFd,
    /// The output that was read so far.
    early: BytesMut,
    /// Set until a ping is answered. It tells the function that waits for the answer that the child is used now.
    ping: Option<oneshot::Sender<()>>,
}

impl Pipes {
    /// Closes the input of the child after the messages in the queue. Returns whether a ping was not answered.
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

    /// Reads the output of a spare until it has answered the ping or is used.
    async fn answer(&self, stdout: pipe::Receiver) -> Pinged {
        loop {
            if stdout.readable().await.is_err() {
                return Pinged::Ended;
            }
            let mut state = self.state();
            // Once a session uses the child, its output belongs to the session and must not be read here.
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
    /// Starts a child with a process group and a supervisor of its own.
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
        // The pipes are connected by the thread that takes the child, so that messages are handled on that thread.
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

    /// Connects the child to the runtime of the calling function. At most about `max_queue` bytes wait until the child reads them.
    pub(super) fn connect(self, max_queue: usize) -> std::io::Result<(Self, Outbox, Output)> {
        let mut state = self.pipes.state();
        let PipeState::Idle(idle) = std::mem::replace(&mut *state, PipeState::Closed) else {
            return Err(std::io::Error::other("the child has ended"));
        };
        if let Some(waiting) = idle.ping {
            // The other side might have stopped waiting.
            let _ = waiting.send(());
        }
        let outbox = Outbox::start(pipe::Sender::from_owned_fd(idle.stdin)?, max_queue);
        // A child is connected once.
        let _ = self.pipes.outbox.set(outbox.clone());
        *state = PipeState::Open(outbox.clone());
        drop(state);
        let output = Output { pipe: pipe::Receiver::from_owned_fd(idle.stdout)?, early: idle.early };
        Ok((self, outbox, output))
    }

    /// Sends a ping to a spare. The future returns its outcome.
    pub(super) fn ping(&self) -> std::io::Result<impl Future<Output = Pinged> + Send + use<>> {
        let (waiting, mut used) = oneshot::channel();
        let stdout = {
            let mut state = self.pipes.state();
            let PipeState::Idle(idle) = &mut *state else {
                return Err(std::io::Error::other("the child is in use"));
            };
            let stdout = pipe::Receiver::from_owned_fd(idle.stdout.try_clone()?)?;
            // An empty pipe has space for the whole line.
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

    /// Makes the child end: its input is closed, and after the grace period it gets SIGTERM, and after another one SIGKILL.
    pub fn stop(&self) {
        Stop::Wanted.ask(&self.stop);
    }

    /// Makes the child end at once, because memory is short: it gets SIGTERM, and SIGKILL a moment later.
    pub fn stop_at_once(&self) {
        Stop::AtOnce.ask(&self.stop);
    }

    /// A handle with which the child can be ended also when nobody keeps it any more.
    pub(super) fn remains(&self) -> Remains {
        Remains { stop: self.stop.clone(), exit: self.exit.clone() }
    }

    /// Records the principal for whom the child is used. Only the first call has an effect.
    pub(super) fn set_owner(&self, owner: Arc<str>) {
        // A child is taken only once, so this cannot fail.
        let _ = self.owner.set(owner);
    }

    /// The principal for whom the child is used, if it was taken.
    pub(super) fn owner(&self) -> Option<&Arc<str>> {
        self.owner.get()
    }

    /// Keeps a value until no process of the child is left. It is dropped before the end is announced.
    pub fn hold(&self, held: impl Send + 'static) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(held));
    }

    /// Keeps the place of the start until the child has answered something or has ended, or until its time is over.
    pub(super) fn occupy(&self, turn: Arc<Turn>) {
        let (mut has_answered, exited) = (self.has_answered.subscribe(), self.exited());
        tokio::spawn(async move {
            let answered = async {
                // A child that is not used any more still uses the processor until it has ended.
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

    /// Records that the child has answered something.
    pub fn set_answered(&self) {
        self.has_answered.send_replace(true);
    }

    /// Whether the child has ended.
    pub fn has_exited(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits until no process of the child is left.
    pub fn exited(&self) -> impl Future<Output = Exit> + Send + use<> {
        exited(self.exit.clone())
    }
}

/// Waits until no process of a child is left.
async fn exited(mut exit: watch::Receiver<Option<Exit>>) -> Exit {
    let gone = Exit { status: "unknown".to_owned(), is_wanted: true };
    match exit.wait_for(Option::is_some).await {
        Ok(exit) => exit.clone().unwrap_or(gone),
        Err(_) => gone,
    }
}

/// A child that nobody keeps any more, and that has not ended yet.
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

    /// Whether the child is about to end.
    pub(super) fn is_ending(&self) -> bool {
        *self.stop.borrow() != Stop::NotWanted
    }

    /// Whether the child has ended.
    pub(super) fn has_exited(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits until no process of the child is left.
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

/// Whether a child is to end, and how soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    NotWanted,
    /// The child has its grace periods.
    Wanted,
    /// There is no time to wait.
    AtOnce,
}

impl Stop {
    /// Makes this known, unless the child is to end sooner already.
    fn ask(self, stop: &watch::Sender<Self>) {
        stop.send_if_modified(|stop| {
            let is_sooner = *stop < self;
            *stop = self.max(*stop);
            is_sooner
        });
    }

    /// Waits until the child is to end this soon.
    async fn wait(self, stop: &watch::Sender<Self>) {
        // The result cannot be an error, because the sender is here.
        let _ = stop.subscribe().wait_for(|stop| *stop >= self).await;
    }
}

/// A child, as the task that watches it has it.
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
        // If a child ends because of a ping, the wrapper is the reason.
        is_wanted |= self.pipes.close();
        if is_wanted {
            tracing::debug!(child = self.number, status, "child ended");
        } else {
            self.metrics.children_crashed_total.add();
            tracing::warn!(child = self.number, status, "child ended by itself");
        }
        let exit_status = Exit { status, is_wanted };
        // Processes that the child has left behind end with it (attack 107). The child counts until they have ended.
        if tokio::time::timeout(KILL_PATIENCE, self.exited()).await.is_err() {
            tracing::warn!(
                child = self.number,
                "what the child has started does not end, although it was killed"
            );
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

    /// Waits until the child has ended. Returns its status in words.
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
                        "the child does not run quite as configured"
                    );
                }
                Some(Report::Gone(killed)) => self.metrics.orphans_killed_total.add_many(killed),
                None => return "its supervisor was ended".to_owned(),
            }
        }
    }

    /// Waits until the child has ended or its grace period is over. As soon as there is no time to wait, the grace period is
    /// only this long. Returns its status in words if it has ended.
    async fn ended_within_grace(&mut self, urgent: Duration) -> Option<String> {
        let (stop, grace) = (self.stop.clone(), self.grace);
        let at_once = async {
            Stop::AtOnce.wait(&stop).await;
            tokio::time::sleep(urgent).await;
        };
        tokio::select! {
            status = self.ended() => Some(status),
            () = tokio::time::sleep(grace) => None,
            () = at_once => None,
        }
    }

    /// Waits until no process of the child is left.
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

    /// Ends the child in the way that the stdio transport describes (2025-11-25, lifecycle, "Shutdown").
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
            "child ignored the end of its input and SIGTERM, so it is killed"
        );
        self.supervised.order(Order::Kill);
        if let Ok(status) = tokio::time::timeout(KILL_PATIENCE, self.ended()).await {
            return status;
        }
        self.supervised.kill();
        "killed".to_owned()
    }
}
