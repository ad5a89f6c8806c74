//! Stops the child that uses up the epoll watches of the machine. Without free watches, no connection can be
//! accepted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Launcher;
use crate::capacity::Usage;
use crate::child::descent::Files;
use crate::child::isolation::Boundary;
use crate::child::keepers::{EXIT_PATIENCE, Scarce};
use crate::child::watches::{self, Probe, WATCH, Watches};

/// Interval between checks of whether watches are available.
const GUARD: Duration = Duration::from_millis(100);
/// Minimum time before the next count, after a count that did not stop a child.
const PAUSE: Duration = Duration::from_secs(2);
/// Maximum time for counting the watches of all children. The watches of children that have not been examined
/// by then are not counted.
const COUNTING: Duration = Duration::from_secs(20);
/// A count older than this is not used to compute the memory of a child's watches.
const FRESH: Duration = Duration::from_secs(20);
/// If processes of a child exit before they can be examined, the child is examined this many times in all. If processes exit
/// each time, it might pass its open files from one short-lived process to the next.
const ROUNDS: u64 = 5;
/// Number of unexaminable places ([`Watches::unknown`]) that is added for a child whose processes exited in every
/// one of the [`ROUNDS`]. It is large because an honest server, such as a browser, can have many processes that
/// cannot be inspected.
const HIDDEN: u64 = 1000;
/// Minimum time between two counts that are requested because of memory that belongs to no process.
const AGAIN: Duration = Duration::from_secs(3);

const WHY: &str = "connections and starts of servers could fail, because programs with this user id used nearly all epoll watches of the machine (fs.epoll.max_user_watches), so the server with most of them, or one that hides how many it has, was stopped";

/// The state of the guard, and the last count of the children's watches.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// Whether hardly any watches are left.
    has_too_few: AtomicBool,
    /// Whether a count has been requested because of the memory that watches take.
    is_wanted: AtomicBool,
    counted: Mutex<Option<(Instant, HashMap<u64, Watches>)>>,
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
            let taken = watches.get(child).map_or(0, |watches| watches.found.saturating_mul(WATCH));
            usage.memory += taken;
            usage.in_kernel += taken;
        }
    }

    fn counted(&self) -> MutexGuard<'_, Option<(Instant, HashMap<u64, Watches>)>> {
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
        loop {
            tokio::time::sleep(GUARD).await;
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
            let is_ended = probe.has_too_few_left() && self.end_watcher(&found).await;
            *watching.counted() = Some((Instant::now(), found));
            if !is_ended {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Stops the child that is responsible, if there is one, and waits for its exit.
    async fn end_watcher(self: &Arc<Self>, found: &HashMap<u64, Watches>) -> bool {
        let Some(held) = watches::choose(&self.not_ending(), found, watches::limit()) else { return false };
        let Some(gone) = self.end_large(&held, &self.usage(Files::LeftOut), Scarce::Watches, WHY) else {
            return false;
        };
        let _ = tokio::time::timeout(EXIT_PATIENCE, gone).await;
        true
    }

    /// Counts the watches of all children. This can take seconds.
    fn count_watches(&self) -> HashMap<u64, Watches> {
        let is_safe = self.spec.isolation.boundary == Some(Boundary::Signals);
        let until = Instant::now() + COUNTING;
        let all = self.reaper.processes().into_iter().take_while(|_| Instant::now() < until);
        all.filter_map(|(child, pids)| Some((child, self.examine(child, &pids, is_safe)?))).collect()
    }

    fn examine(&self, child: u64, pids: &[i32], is_safe: bool) -> Option<Watches> {
        let mut watches = watches::examine(pids, is_safe, &self.reaper)?;
        for round in 2..=ROUNDS {
            if watches.exited == 0 {
                return Some(watches);
            }
            let pids = self.reaper.processes().remove(&child)?;
            let again = watches::examine(&pids, is_safe, &self.reaper)?;
            let found = watches.found.max(again.found);
            let hidden = u64::from(round == ROUNDS && again.exited > 0) * HIDDEN;
            watches = Watches { found, unknown: watches.unknown.max(again.unknown) + hidden, ..again };
        }
        Some(watches)
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
