//! One child process: how it is started, connected, and told to stop.

mod input_output;
mod watched;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use super::command::Filled;
use super::exit::{Exit, Remains, Stop, exited};
use super::output::Output;
use super::owner::Owner;
use super::reaper::Reaper;
use super::spec::Spec;
use super::starts::Turn;
use super::stderr;
use super::supervised::{Ends, Supervised};
use super::warm_up::{self, Pinged};
use super::writer::Outbox;
use crate::metrics::Metrics;
use crate::turns::Copies;
use input_output::{PipeState, Pipes};
use watched::Watched;

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
    owner: Owner,
    held: Held,
}

/// Values that are kept until the last process of a child has exited.
type Held = Arc<Mutex<Vec<Box<dyn Send>>>>;

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
        let pipes = Arc::new(Pipes::new(stdin, stdout));
        let (exit_sender, exit) = watch::channel(None);
        let (has_answered, answered) = watch::channel(false);
        let owner = Owner::default();
        let log = stderr::Log::new(number, Arc::clone(&owner), settings.stderr_rate, Arc::clone(metrics));
        tokio::spawn(stderr::drain(stderr, log, answered.clone(), exit.clone()));
        let stop = watch::Sender::new(Stop::NotWanted);
        let watched = Watched {
            number,
            owner: Arc::clone(&owner),
            answered,
            limits: watched::limits(settings),
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
        Ok(Self { number, pipes, exit, stop, has_answered, owner, held })
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
        Remains::new(self.stop.clone(), self.exit.clone())
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
