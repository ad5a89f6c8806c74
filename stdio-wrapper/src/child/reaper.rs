//! Processes that a child leaves behind. One that detaches from the child's group (a double fork, setsid) is handed to us
//! by the kernel, because we are the subreaper; the mark in its environment tells whose it was, or else its ancestors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::sync::Notify;

use super::descent::{Descent, INHERITED, started};
use crate::capacity::Usage;
use crate::metrics::Metrics;

/// Variable in each child's environment; what it starts inherits it.
pub(super) const MARKER: &str = "STDIO_WRAPPER_CHILD";

/// Time between two looks when nothing has ended.
const PERIOD: Duration = Duration::from_secs(5);

/// Knows which processes are ours, and ends the ones that are nobody's any more.
#[derive(Debug, Default)]
pub struct Reaper {
    /// Number and process id of every child that tokio waits for.
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
        reaper.descent().inherit(own_children().into_iter().map(|pid| pid.as_raw_nonzero().get()));
        Arc::new(reaper)
    }

    /// Starts a process; the lock keeps the collector from taking it for an orphan.
    pub(super) fn spawn(
        &self,
        number: u64,
        start: impl FnOnce() -> std::io::Result<tokio::process::Child>,
    ) -> std::io::Result<tokio::process::Child> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let process = start()?;
        if let Some(pid) = process.id().and_then(|id| i32::try_from(id).ok()) {
            children.insert(number, pid);
        }
        Ok(process)
    }

    /// Notes which processes come from which child, while that can be seen. To be called before a child is ended.
    pub(super) fn note(&self) {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        self.descent().look(&children);
    }

    /// What each child takes now, with the processes that come from it.
    pub(super) fn usage(&self) -> HashMap<u64, Usage> {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let mut descent = self.descent();
        descent.look(&children);
        descent.usage(&children)
    }

    fn descent(&self) -> MutexGuard<'_, Descent> {
        self.descent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process of this child has been waited for.
    pub(super) fn child_ended(&self, number: u64) {
        self.children.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.ended.notify_one();
    }

    /// Collects for ever.
    pub async fn run(self: Arc<Self>, metrics: Arc<Metrics>) {
        loop {
            // Either is a reason to look.
            let _ = tokio::time::timeout(PERIOD, self.ended.notified()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.note();
            self.collect(&metrics).await;
        }
    }

    /// Ends and collects orphans until none is left. An orphan's own children come to us when it dies, hence the rounds.
    pub async fn collect(&self, metrics: &Metrics) {
        for _ in 0..20 {
            if self.sweep(metrics) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn sweep(&self, metrics: &Metrics) -> usize {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = 0;
        for pid in own_children() {
            if children.values().any(|known| *known == pid.as_raw_nonzero().get()) {
                continue;
            }
            let is_ownerless = self.is_ownerless(pid, &children);
            if is_ownerless {
                found += 1;
                // Our own child that nobody has waited for: its id cannot be another process's.
                if kill_process(pid, Signal::KILL).is_ok() {
                    metrics.orphans_killed_total.add();
                }
            }
            if matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(Some(_))) {
                found += 1;
            }
        }
        found
    }

    /// Whether the child is gone that a process comes from. By its mark; if it has dropped that, by what was noted; and if
    /// nothing was, by its age: it comes from no child that is younger.
    fn is_ownerless(&self, pid: Pid, children: &HashMap<u64, i32>) -> bool {
        let raw = pid.as_raw_nonzero().get();
        if let Some(number) = owner(pid).or_else(|| self.descent().owner(raw)) {
            return number != INHERITED && !children.contains_key(&number);
        }
        let Some(start) = started(raw).filter(|_| self.descent().has_children_only()) else { return false };
        !children.values().any(|child| started(*child).is_none_or(|child| child <= start))
    }
}

/// Number of the child that a process comes from, by the mark in its environment. A dead process has none left.
fn owner(pid: Pid) -> Option<u64> {
    let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
    let prefix = format!("{MARKER}={}-", std::process::id());
    let number =
        environment.split(|byte| *byte == 0).find_map(|item| item.strip_prefix(prefix.as_bytes()))?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// The mark of a child.
pub(super) fn mark(number: u64) -> String {
    format!("{}-{number}", std::process::id())
}

/// Direct children of all our threads.
fn own_children() -> Vec<Pid> {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<i32>>())
        .filter_map(Pid::from_raw)
        .collect()
}
