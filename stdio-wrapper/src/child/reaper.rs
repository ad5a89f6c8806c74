//! What each child takes, and processes that come to us because the supervisor of a child was killed: the kernel hands them to
//! the next subreaper above, and that is the wrapper.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
use tokio::sync::Notify;

use super::descent::{Descent, INHERITED, children_of_this_process};
use super::supervised::Supervised;
use crate::capacity::Usage;
use crate::metrics::Metrics;

/// Time between two looks when nothing has ended.
const PERIOD: Duration = Duration::from_secs(5);
/// Looks in a row while there are orphans. Those that still do not end are looked at again after [`PERIOD`].
const ROUNDS: usize = 20;

/// Knows which processes are ours, and ends the ones that are nobody's any more.
#[derive(Debug, Default)]
pub struct Reaper {
    /// Number of every child, and the process id of its supervisor, which tokio waits for.
    children: Mutex<HashMap<u64, i32>>,
    descent: Mutex<Descent>,
    ended: Notify,
}

impl Reaper {
    /// Makes this process the one that gets orphans.
    pub fn install() -> Arc<Self> {
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            tracing::warn!(%error, "processes that children leave behind cannot be collected");
        }
        let reaper = Self::default();
        let before = children_of_this_process().into_iter().map(|pid| pid.as_raw_nonzero().get());
        reaper.descent().inherit(before);
        Arc::new(reaper)
    }

    /// Starts a supervisor; the lock keeps the collector from taking it for an orphan.
    pub(super) fn start<T>(
        &self,
        number: u64,
        start: impl FnOnce() -> std::io::Result<(Supervised, T)>,
    ) -> std::io::Result<(Supervised, T)> {
        let mut children = self.children();
        let started = start()?;
        if let Some(pid) = started.0.id() {
            children.insert(number, pid);
        }
        Ok(started)
    }

    /// What each child takes now, with its supervisor and the processes that come from it.
    pub(super) fn usage(&self) -> HashMap<u64, Usage> {
        let children = self.children();
        let mut descent = self.descent();
        descent.look(&children);
        descent.usage(&children)
    }

    fn children(&self) -> MutexGuard<'_, HashMap<u64, i32>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn descent(&self) -> MutexGuard<'_, Descent> {
        self.descent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The supervisor of this child has been waited for.
    pub(super) fn child_ended(&self, number: u64) {
        self.children().remove(&number);
        self.ended.notify_one();
    }

    /// Collects for ever.
    pub async fn run(self: Arc<Self>, metrics: Arc<Metrics>) {
        loop {
            // Either is a reason to look.
            let _ = tokio::time::timeout(PERIOD, self.ended.notified()).await;
            self.note();
            self.collect(&metrics).await;
        }
    }

    /// Notes what comes from the processes that were there before any child, while that can be seen.
    fn note(&self) {
        let children = self.children();
        let mut descent = self.descent();
        if descent.has_inherited() {
            descent.look(&children);
        }
    }

    /// Ends and collects orphans until none is left. An orphan's own children come to us when it dies, hence the rounds.
    pub async fn collect(&self, metrics: &Metrics) {
        for _ in 0..ROUNDS {
            if self.sweep(metrics) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn sweep(&self, metrics: &Metrics) -> usize {
        let children = self.children();
        let mut found = 0;
        for pid in children_of_this_process() {
            let raw = pid.as_raw_nonzero().get();
            if children.values().any(|supervisor| *supervisor == raw) {
                continue;
            }
            // Our own child that nobody has waited for: its id cannot be another process's.
            if self.is_left_behind(raw) && kill_process(pid, Signal::KILL).is_ok() {
                found += 1;
                metrics.orphans_killed_total.add();
            }
            if matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(Some(_))) {
                found += 1;
            }
        }
        found
    }

    /// Whether a process that is no supervisor is below a child whose supervisor is gone. Where nothing was there before the
    /// first child, it can come from nowhere else.
    fn is_left_behind(&self, pid: i32) -> bool {
        let descent = self.descent();
        match descent.owner(pid) {
            Some(number) => number != INHERITED,
            None => !descent.has_inherited(),
        }
    }
}
