//! Stops the child that uses up the epoll watches of the machine. Without free watches, no connection can be
//! accepted.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Launcher;
use crate::capacity::Usage;
use crate::child::keepers::{EXIT_PATIENCE, Gone, Scarce};
use crate::child::watches::{self, Evidence, Probe, WATCH};

/// Interval between checks of whether watches are available.
const GUARD: Duration = Duration::from_millis(100);
/// Minimum time before the next count, after a count that did not stop a child.
const PAUSE: Duration = Duration::from_secs(2);
/// Maximum time for counting the watches of all children. The watches of children that have not been examined
/// by then are not counted.
const COUNTING: Duration = Duration::from_secs(10);
/// A count older than this is not used to compute the memory of a child's watches.
const FRESH: Duration = Duration::from_secs(20);
/// Minimum and maximum interval at which the children's processor time is recorded. Between these, the interval is a
/// hundred times the duration of the last recording, which takes long on a machine with many processes.
const RECORD: Duration = Duration::from_secs(1);
const MAX_RECORD: Duration = Duration::from_secs(5);
/// Time after a child is stopped during which no other child is stopped because of its processor time. The kernel
/// needs several seconds to free millions of watches, and might still be doing so after the child counts as exited.
const FREEING: Duration = Duration::from_secs(20);
/// Minimum time between two counts that are requested because of memory that belongs to no process.
const AGAIN: Duration = Duration::from_secs(3);

const WHY: &str = "connections and starts of servers could fail, because programs with this user id used nearly all epoll watches of the machine (fs.epoll.max_user_watches), so the server with most of them, or with the processor time that so many take, was stopped";

/// The state of the guard, and the last count of the children's watches.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// Whether hardly any watches are left.
    has_too_few: AtomicBool,
    /// Whether a count has been requested because of the memory that watches take.
    is_wanted: AtomicBool,
    counted: Mutex<Option<(Instant, HashMap<u64, u64>)>>,
}

impl Watching {
    pub(super) fn has_too_few(&self) -> bool {
        self.has_too_few.load(Ordering::Relaxed)
    }

    /// Requests a count of the watches, unless they have just been counted. The reason is memory that belongs
    /// to no process. A count might fail once memory is short, because the kernel needs memory to print the
    /// watches.
    pub(super) fn count_soon(&self) {
        if self.counted().as_ref().is_none_or(|(at, _)| at.elapsed() >= AGAIN) {
            self.is_wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Adds the memory that the kernel needs for the watches of children, if it is known.
    pub(super) fn add_memory(&self, usage: &mut HashMap<u64, Usage>) {
        let counted = self.counted();
        let Some((_, watches)) = counted.as_ref().filter(|(at, _)| at.elapsed() < FRESH) else { return };
        for (child, usage) in usage {
            let taken = watches.get(child).map_or(0, |found| found.saturating_mul(WATCH));
            usage.add_in_kernel(taken);
        }
    }

    fn counted(&self) -> MutexGuard<'_, Option<(Instant, HashMap<u64, u64>)>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launcher {
    /// Stops children that use up the watches. Runs for as long as the wrapper runs.
    pub async fn guard_watches(self: Arc<Self>) {
        let probe = match Probe::new() {
            Ok(probe) => probe,
            Err(error) => {
                tracing::warn!(%error, "the wrapper cannot notice if no epoll watches are left");
                return;
            }
        };
        let (mut freed_at, mut next_record) = (Instant::now(), Instant::now());
        loop {
            tokio::time::sleep(GUARD).await;
            if Instant::now() >= next_record {
                next_record = self.record_times().await;
            }
            let watching = &self.relief.watching;
            let has_too_few = probe.has_too_few_left();
            let before = watching.has_too_few.swap(has_too_few, Ordering::Relaxed);
            if has_too_few != before {
                tell(has_too_few);
            }
            if !watching.is_wanted.swap(false, Ordering::Relaxed) && !has_too_few {
                continue;
            }
            let launcher = Arc::clone(&self);
            let Ok(found) = tokio::task::spawn_blocking(move || launcher.count_watches()).await else {
                continue;
            };
            let is_freeing = Instant::now() < freed_at;
            let ended = if probe.has_too_few_left() { self.end_watcher(&found, is_freeing) } else { None };
            *watching.counted() = Some((Instant::now(), found));
            if let Some(gone) = ended {
                freed_at = Instant::now() + FREEING;
                wait_for(gone, &probe).await;
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Records the processor time of all children. Returns the time at which it must be recorded again.
    async fn record_times(&self) -> Instant {
        let (reaper, begun) = (Arc::clone(&self.reaper), Instant::now());
        let _ = tokio::task::spawn_blocking(move || reaper.record_times()).await;
        Instant::now() + (begun.elapsed() * 100).clamp(RECORD, MAX_RECORD)
    }

    /// Stops the child that has used up the watches, if it can be determined. While the kernel is freeing the watches
    /// of another child, only watches that have been found are a reason to stop a child.
    fn end_watcher(self: &Arc<Self>, found: &HashMap<u64, u64>, is_freeing: bool) -> Option<Gone> {
        let usage = self.usage();
        let spent = if is_freeing { HashMap::new() } else { self.reaper.spent() };
        let in_kernel = self.memory_of_no_process(&usage);
        let evidence = Evidence { found, spent: &spent, in_kernel, limit: watches::limit() };
        let held = watches::choose(&self.not_ending(), evidence)?;
        self.end_large(&held, &usage, Scarce::Watches, WHY)
    }

    /// Counts the watches of all children. This can take seconds, so the children that have recently used the most
    /// system time are examined first.
    fn count_watches(&self) -> HashMap<u64, u64> {
        let until = Instant::now() + COUNTING;
        let mut all: Vec<_> = self.reaper.processes().into_iter().collect();
        let spent = self.reaper.spent();
        all.sort_by_key(|(child, _)| Reverse(spent.get(child).map(|spent| spent.recent)));
        let (mut found, limit) = (HashMap::new(), watches::limit());
        for (child, pids) in all {
            if Instant::now() >= until {
                break;
            }
            // If no counting process can be started, the child is chosen by its processor time.
            let Some(watches) = watches::examine(&pids, &self.reaper) else { break };
            found.insert(child, watches);
            if watches > limit / 2 {
                // No other child can have more.
                break;
            }
        }
        found
    }
}

/// Waits until this child has exited, or enough watches are available again.
async fn wait_for(mut gone: Gone, probe: &Probe) {
    let begun = Instant::now();
    while begun.elapsed() < EXIT_PATIENCE && probe.has_too_few_left() {
        if tokio::time::timeout(GUARD, &mut gone).await.is_ok() {
            return;
        }
    }
}

fn tell(has_too_few: bool) {
    if has_too_few {
        tracing::error!(
            "connections and starts of servers can fail: programs with the user id of this wrapper use nearly all \
             epoll watches of the machine (fs.epoll.max_user_watches). If it is not a server of this wrapper, it is one \
             of another container whose programs have the same user id; give each container a user id of its own"
        );
    } else {
        tracing::info!("there are enough epoll watches again");
    }
}
