//! Measures what each child uses, and kills orphans. Orphans are processes of a child whose supervisor was
//! killed. Their new parent is the next subreaper above, which is the wrapper.

use std::collections::{HashMap, HashSet};
use std::io;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
use tokio::sync::Notify;

use super::descendants::children_of_this_process;
use super::descent::{Descent, INHERITED};
use super::procfs::Sizes;
use super::supervised::Supervised;
use super::times::Spent;
use crate::capacity::Usage;
use crate::metrics::Metrics;

/// Time between two rounds if no child exits.
const PERIOD: Duration = Duration::from_secs(5);
/// Maximum number of consecutive rounds while there are orphans. Orphans that have not exited by then are
/// killed again after [`PERIOD`].
const ROUNDS: usize = 20;

/// Keeps track of the processes of all children, and kills orphans.
#[derive(Debug, Default)]
pub struct Reaper {
    /// The process id of the supervisor of each child, by the child's number. tokio waits for these processes.
    children: Mutex<HashMap<u64, i32>>,
    descent: Mutex<Descent>,
    /// The process ids of processes that count watches. The thread that started each of them waits for it.
    counting: Mutex<HashSet<i32>>,
    ended: Notify,
}

impl Reaper {
    /// Makes this process the parent of orphans.
    pub fn install() -> Arc<Self> {
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            tracing::warn!(%error, "processes that children leave behind cannot be reaped");
        }
        let reaper = Self::default();
        let before = children_of_this_process().into_iter().map(|pid| pid.as_raw_nonzero().get());
        reaper.descent().inherit(before);
        Arc::new(reaper)
    }

    /// Starts a supervisor. The lock is held during the start, so that the supervisor is not mistaken for an
    /// orphan.
    pub(super) fn start<T>(
        &self,
        number: u64,
        start: impl FnOnce() -> io::Result<(Supervised, T)>,
    ) -> io::Result<(Supervised, T)> {
        let mut children = self.children();
        let started = start()?;
        if let Some(pid) = started.0.id() {
            children.insert(number, pid);
        }
        Ok(started)
    }

    /// What each child uses now, including its supervisor and all its descendants, and the sizes of these descendants.
    pub(super) fn usage(&self) -> (HashMap<u64, Usage>, HashMap<u64, Sizes>) {
        let children = self.children();
        let mut descent = self.descent();
        descent.look(&children);
        descent.usage(&children)
    }

    /// The processes of each child, without its supervisor.
    pub(super) fn processes(&self) -> HashMap<u64, Vec<i32>> {
        let children = self.children();
        let mut descent = self.descent();
        descent.look(&children);
        descent.processes(&children)
    }

    /// Examines all processes, so that their processor time up to now is known even if they exit soon.
    pub(super) fn record_times(&self) {
        let children = self.children();
        self.descent().look(&children);
    }

    /// The processor time that each child has used, according to the last examination.
    pub(super) fn spent(&self) -> HashMap<u64, Spent> {
        self.descent().spent()
    }

    /// Starts a process that counts watches. It does not count as an orphan until [`Reaper::has_counted`] is
    /// called.
    pub(super) fn start_counting(&self, command: &mut Command) -> io::Result<Child> {
        let mut counting = self.counting();
        let process = command.spawn()?;
        counting.extend(i32::try_from(process.id()));
        Ok(process)
    }

    /// Records that the thread that started this process has reaped it.
    pub(super) fn has_counted(&self, pid: u32) {
        if let Ok(pid) = i32::try_from(pid) {
            self.counting().remove(&pid);
        }
    }

    fn counting(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn children(&self) -> MutexGuard<'_, HashMap<u64, i32>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn descent(&self) -> MutexGuard<'_, Descent> {
        self.descent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a child has not exited yet.
    pub(super) fn has_children(&self) -> bool {
        !self.children().is_empty()
    }

    /// Records that the supervisor of this child has exited and has been reaped.
    pub(super) fn child_ended(&self, number: u64) {
        self.children().remove(&number);
        self.ended.notify_one();
    }

    /// Kills orphans while the wrapper runs.
    pub async fn run(self: Arc<Self>, metrics: Arc<Metrics>) {
        loop {
            // The next round starts when a child has exited or the period is over.
            let _ = tokio::time::timeout(PERIOD, self.ended.notified()).await;
            self.note();
            self.collect(&metrics).await;
        }
    }

    /// Records which processes descend from those that existed before the first child, as long as their
    /// ancestors still exist.
    fn note(&self) {
        let children = self.children();
        let mut descent = self.descent();
        if descent.has_inherited() {
            descent.look(&children);
        }
    }

    /// Kills orphans until none is left. This takes several rounds, because the children of a killed orphan
    /// become orphans.
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
        let counting = self.counting();
        let mut found = 0;
        for pid in children_of_this_process() {
            let raw = pid.as_raw_nonzero().get();
            if counting.contains(&raw) || children.values().any(|supervisor| *supervisor == raw) {
                continue;
            }
            // This process has not been reaped yet, so its id cannot belong to another process.
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

    /// Whether a process that is not a supervisor was started by a child whose supervisor has exited. If no
    /// process existed before the first child, this is true for every such process.
    fn is_left_behind(&self, pid: i32) -> bool {
        let descent = self.descent();
        match descent.owner(pid) {
            Some(number) => number != INHERITED,
            None => !descent.has_inherited(),
        }
    }
}
