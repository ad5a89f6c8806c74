//! Starts children: from the spares that are ready, or new ones, and not at all while they keep dying.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::command::{CommandError, Placeholders, fill};
use super::process::Child;
use super::reaper::Reaper;
use super::writer::Outbox;
use crate::config;
use crate::metrics::Metrics;

/// What to start and how many to keep ready.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Command and limits.
    pub child: config::Child,
    /// Spares.
    pub prewarm: usize,
    /// Bytes that may wait for a child's input.
    pub max_queue: usize,
}

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Children keep dying; the time says when to try again.
    #[error("The MCP server keeps failing at start. It is tried again in {} s.", .0.as_secs() + 1)]
    BackOff(Duration),
    /// The operating system refused.
    #[error("The MCP server could not be started: {0}.")]
    Spawn(#[from] std::io::Error),
    /// The caller lacks what the command needs.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Starts children.
#[derive(Debug)]
pub struct Launcher {
    spec: Spec,
    runtime: Handle,
    reaper: Arc<Reaper>,
    metrics: Arc<Metrics>,
    next: AtomicU64,
    state: Mutex<State>,
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    spares: VecDeque<Child>,
    backoff: Backoff,
}

impl Launcher {
    /// A launcher whose children are watched on `runtime`.
    pub fn new(spec: Spec, runtime: Handle, reaper: Arc<Reaper>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            spec,
            runtime,
            reaper,
            metrics,
            next: AtomicU64::new(1),
            state: Mutex::default(),
            taken: Notify::new(),
        })
    }

    /// A child for one caller, a spare if there is one, with the ways in and out. They belong to the runtime of the
    /// caller: a message that is handled where its HTTP connection is needs no other thread.
    pub fn take(&self, caller: &Placeholders) -> Result<(Child, Outbox, pipe::Receiver), StartError> {
        let spare = {
            let mut state = self.state();
            std::iter::from_fn(|| state.spares.pop_front()).find(|spare| !spare.has_exited())
        };
        self.taken.notify_one();
        let child = match spare {
            Some(spare) => spare,
            None => self.start(caller)?,
        };
        Ok(child.connect(self.spec.max_queue)?)
    }

    /// A child answered: the next failure is the first one again.
    pub fn child_worked(&self) {
        self.state().backoff.worked();
    }

    /// A child ended before it answered.
    pub fn child_failed(&self) {
        self.metrics.children_failed_total.add();
        self.state().backoff.failed(Instant::now());
    }

    /// Whether a child could be started now.
    pub fn is_ready(&self) -> bool {
        self.state().backoff.remaining(Instant::now()).is_none()
    }

    /// Keeps the spares ready, for ever.
    pub async fn keep_spares(self: Arc<Self>) {
        if self.spec.prewarm == 0 {
            return;
        }
        loop {
            self.refill();
            // A spare may also have died unseen.
            let _ = tokio::time::timeout(Duration::from_secs(1), self.taken.notified()).await;
        }
    }

    /// Lets every spare go, and waits for their ends.
    pub async fn stop_spares(&self) {
        let spares = std::mem::take(&mut self.state().spares);
        for spare in &spares {
            spare.stop();
        }
        for spare in spares {
            spare.exited().await;
        }
    }

    fn refill(&self) {
        let missing = {
            let mut state = self.state();
            let before = state.spares.len();
            state.spares.retain(|spare| !spare.has_exited());
            if state.spares.len() < before {
                state.backoff.failed(Instant::now());
            }
            self.spec.prewarm.saturating_sub(state.spares.len())
        };
        for _ in 0..missing {
            match self.start(&Placeholders::default()) {
                Ok(spare) => self.state().spares.push_back(spare),
                Err(error) => {
                    tracing::debug!(%error, "no spare child");
                    return;
                }
            }
        }
    }

    fn start(&self, caller: &Placeholders) -> Result<Child, StartError> {
        if let Some(rest) = self.state().backoff.remaining(Instant::now()) {
            return Err(StartError::BackOff(rest));
        }
        let filled = fill(&self.spec.child, caller)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let _runtime = self.runtime.enter();
        let started = Child::start(number, &filled, &self.spec.child, &self.reaper, &self.metrics);
        started.map_err(|error| {
            tracing::error!(%error, program = filled.command.first(), "the child could not be started");
            self.child_failed();
            StartError::Spawn(error)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
