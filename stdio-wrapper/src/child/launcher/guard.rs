//! Stops children that use so much of the container's resources that other children cannot start or continue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Launcher;
use super::ending::Ending;
use super::hidden::Hidden;
use super::watching::Watching;
use crate::capacity::{Kinds, Load, Measure, Usage};
use crate::child::keepers::{EXIT_PATIENCE, FEW, Gone, Held, Newcomer, Scarce};
use crate::child::parts::Part;
use crate::child::procfs::own_usage;
use crate::child::rate_limit::{Pass, RateLimit};
use crate::child::readers::{Publish, Readers};
use crate::child::relief::{self, Shortage};
use crate::child::sharing::Sharing;

/// Interval between checks for a shortage of memory or processes. A child can allocate hundreds of MiB in a
/// second.
const GUARD: Duration = Duration::from_millis(100);
/// Minimum of this interval, while little memory is left before children are stopped.
const LEAST_GUARD: Duration = Duration::from_millis(10);
/// The memory, in bytes, that children can use within [`GUARD`]. Processes that write to shared pages use it as fast as
/// the machine can copy.
const FAST: u64 = 1 << 30;
/// Time for which a measurement of shared memory delays a decision. If it takes longer, the decision uses the previous
/// measurement, unless much of the memory that is kept free is still left.
pub(super) const WAIT: Duration = Duration::from_millis(20);
/// Maximum number of stopped children that are logged per second.
const RELIEF_RATE: u32 = 5;

/// The children that were stopped because they were large.
#[derive(Debug)]
pub(super) struct Relief {
    /// The children that have not exited yet.
    ending: Ending,
    /// Notified whenever one of them has exited.
    ended: Notify,
    /// What is known about memory that the kernel attributes to no process.
    pub(super) hidden: Hidden,
    /// How much memory the processes of each child share.
    sharing: Arc<Mutex<Sharing>>,
    readers: Readers,
    /// The epoll watches of children.
    pub(super) watching: Watching,
    log: Mutex<RateLimit>,
}

impl Relief {
    pub(super) fn new(now: Instant) -> Self {
        let log = Mutex::new(RateLimit::new(RELIEF_RATE, now));
        Self {
            ending: Ending::default(),
            ended: Notify::new(),
            hidden: Hidden::default(),
            sharing: Arc::default(),
            readers: Readers::default(),
            watching: Watching::default(),
            log,
        }
    }

    /// If any child that was stopped because of its size is still exiting, waits until one of them has exited.
    /// Returns whether one has.
    pub(super) async fn one_has_ended(&self) -> bool {
        let mut gone = std::pin::pin!(self.ended.notified());
        gone.as_mut().enable();
        self.is_one_ending() && tokio::time::timeout(EXIT_PATIENCE, gone).await.is_ok()
    }

    /// Whether a child that was stopped because of its size is still exiting.
    pub(super) fn is_one_ending(&self) -> bool {
        !self.ending.is_empty()
    }

    fn sharing(&self) -> MutexGuard<'_, Sharing> {
        lock(&self.sharing)
    }

    fn may_log(&self) -> bool {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.take(Instant::now()) != Pass::No
    }
}

impl Launcher {
    /// Stops children while memory or processes are short. Runs as long as the wrapper.
    pub async fn guard(self: Arc<Self>) {
        while self.spec.capacity.is_limited() {
            tokio::time::sleep(until_next_look(self.spec.capacity.room())).await;
            let left = self.spec.capacity.room().unwrap_or_default();
            self.examine_early(left);
            if self.relief.sharing().is_outdated(self.spec.capacity.kinds(), left) {
                // The guard continues while the kernel measures.
                self.measure_sharing(Duration::ZERO).await;
            }
            let own = own_usage();
            for short in Measure::ALL {
                if let Some(load) = self.spec.capacity.load(short, &own).filter(|load| load.over > 0) {
                    self.measure_sharing(WAIT).await;
                    if short == Measure::Memory && can_wait(load, own) && self.relief.sharing().is_measuring()
                    {
                        continue;
                    }
                    // This measurement also prevents new children from being admitted.
                    let usage = self.look();
                    self.relieve(short, load, usage);
                }
            }
        }
    }

    /// Requests a count of the children's watches if there is memory that belongs to no process.
    pub(super) fn explain_hidden_memory(&self, usage: &HashMap<u64, Usage>) {
        let Some(load) = self.spec.capacity.load(Measure::Memory, &own_usage()) else { return };
        if self.shortage(Measure::Memory, (load, self.spec.capacity.kinds()), usage).hidden > 0 {
            self.relief.watching.count_soon();
        }
    }

    /// The container's memory that belongs to no process, such as that of epoll watches. `None` if the container has no
    /// memory limit.
    pub(super) fn memory_of_no_process(&self, usage: &HashMap<u64, Usage>) -> Option<u64> {
        let load = Load { unaccounted: 0, ..self.spec.capacity.load(Measure::Memory, &own_usage())? };
        Some(self.shortage(Measure::Memory, (load, self.spec.capacity.kinds()), usage).hidden)
    }

    /// Measures how much memory the processes of each child share, unless such a measurement is in progress or has just
    /// ended. Returns after at most `wait`, because the kernel can need long. No lock is held while the kernel measures.
    pub(super) async fn measure_sharing(self: &Arc<Self>, wait: Duration) {
        if !self.relief.sharing().begin() {
            return;
        }
        let launcher = Arc::clone(self);
        let measured = self.runtime.spawn_blocking(move || {
            let (usage, sizes) = launcher.reaper.usage();
            let (own, kinds) = (own_usage(), launcher.spec.capacity.kinds());
            let sharing = Arc::clone(&launcher.relief.sharing);
            let faults: HashMap<u64, u64> =
                usage.iter().map(|(number, usage)| (*number, usage.faults)).collect();
            let publish: Publish = Arc::new(move |number, part: Part| {
                let faults = faults.get(&number).copied().unwrap_or_default();
                lock(&sharing).record(number, part, faults, kinds);
            });
            launcher.relief.readers.measure(sizes, Sharing::is_shared(&usage, own, kinds), &publish);
            launcher.relief.sharing().end(&usage, kinds);
        });
        let _ = tokio::time::timeout(wait, measured).await;
    }

    /// The usage of each child, with memory that its processes share counted once.
    pub(super) fn usage(&self) -> HashMap<u64, Usage> {
        self.usage_with(&HashMap::new())
    }

    /// The same, with this memory of open files in bytes, by child. What a child has open and has also mapped counts twice,
    /// as far as it has used the pages. The kernel does not tell of which files they are, unless it goes through all pages
    /// of a process, which a process can delay. The sizes of open and mapped files are no substitute: a child that maps
    /// other memory after the examination of its files would count with too little.
    pub(super) fn usage_with(&self, in_files: &HashMap<u64, u64>) -> HashMap<u64, Usage> {
        let (kinds, (mut usage, sizes)) = (self.spec.capacity.kinds(), self.reaper.usage());
        for (number, usage) in &mut usage {
            usage.add_in_files(in_files.get(number).copied().unwrap_or_default());
        }
        self.relief.sharing().fit(&mut usage, &sizes, own_usage(), kinds);
        usage
    }

    fn relieve(self: &Arc<Self>, short: Measure, load: Load, usage: HashMap<u64, Usage>) {
        let load = (load, self.spec.capacity.kinds());
        let choose = |all: &[Held], usage: &HashMap<u64, Usage>| {
            let share = self.spec.capacity.share_of(short, relief::users(all), FEW);
            let charged = relief::with_held(all, &self.spec.memory.held(), usage);
            let chosen = relief::choose(all, &charged, self.shortage(short, load, usage), share);
            (!chosen.is_empty()).then_some(chosen)
        };
        let Some((chosen, usage)) = self.look_for(short, usage, choose) else { return };
        for large in chosen {
            let why = match short {
                Measure::Memory => {
                    "the memory of the container is nearly used up, so the largest server of the user whose servers use the most was stopped"
                }
                Measure::Tasks => {
                    "the processes of the container are nearly used up, so the largest server of the user whose servers use the most was stopped"
                }
            };
            // No start waits for this exit.
            let _ = self.end_large(&large, &usage, short.into(), why);
            // A server that gets time to exit could use up the rest of the memory in this time.
            if short == Measure::Memory {
                self.roster.kill(large.child);
            }
        }
    }

    /// Stops a child of a user who has more than a fair share, for a user who has no child.
    pub(super) fn end_too_large(self: &Arc<Self>, newcomer: Newcomer<'_>) -> Option<Gone> {
        let (large, short, usage) = self.too_large(newcomer)?;
        let why = match short {
            Measure::Memory => {
                "the memory of the container had no room for another user, so the largest server of the user whose servers use the most was stopped"
            }
            Measure::Tasks => {
                "the processes of the container had no room for another user, so the largest server of the user whose servers use the most was stopped"
            }
        };
        self.end_large(&large, &usage, short.into(), why)
    }

    /// Finds a child whose user has more than a fair share, if there is no room for a user who has no child.
    pub(super) fn too_large(
        self: &Arc<Self>,
        newcomer: Newcomer<'_>,
    ) -> Option<(Held, Measure, HashMap<u64, Usage>)> {
        // All children are measured only if a child could be chosen.
        let (short, _) = self.spec.capacity.share(1, FEW).filter(|_| newcomer.has == 0)?;
        let load = (self.spec.capacity.load(short, &own_usage())?, self.spec.capacity.kinds());
        let choose = |all: &[Held], usage: &HashMap<u64, Usage>| {
            let (_, share) = self.spec.capacity.share(relief::users_with(all, newcomer), FEW)?;
            let charged = relief::with_held(all, &self.spec.memory.held(), usage);
            relief::choose_for(newcomer, all, &charged, self.shortage(short, load, usage), share)
        };
        let (large, usage) = self.look_for(short, self.usage(), choose)?;
        Some((large, short, usage))
    }

    /// All children, except those that were stopped because of their size and are still exiting.
    pub(super) fn not_ending(&self) -> Vec<Held> {
        let mut all = self.keepers.held();
        all.extend(self.roster.not_kept(&all));
        all.retain(|held| !self.relief.ending.contains(held.child));
        all
    }

    pub(super) fn shortage(
        &self,
        short: Measure,
        load: (Load, Kinds),
        usage: &HashMap<u64, Usage>,
    ) -> Shortage {
        let own = own_usage();
        let of_nobody = match short {
            Measure::Memory => {
                let (load, kinds) = load;
                let all = (Load { unaccounted: 0, ..load }, kinds);
                Shortage::new(short, all, usage, own, 0).hidden
            }
            // A child counts with the processes that it has recently had.
            Measure::Tasks => u64::MAX,
        };
        let given_back = self.relief.ending.gives_back(short, usage, of_nobody, Instant::now());
        Shortage::new(short, load, usage, own, given_back)
    }

    pub(super) fn end_large(
        self: &Arc<Self>,
        large: &Held,
        usage: &HashMap<u64, Usage>,
        scarce: Scarce,
        why: &'static str,
    ) -> Option<Gone> {
        let kept = self.keepers.end_large(large.child, scarce);
        let gone = kept.or_else(|| self.roster.end(large.child))?;
        let taken = usage.get(&large.child).copied().unwrap_or_default();
        self.relief.ending.insert(large.child, taken, Instant::now());
        let (launcher, child) = (Arc::clone(self), large.child);
        // A caller waiting for the exit continues only after the freed resources have been measured.
        let freed = self.runtime.spawn(async move {
            gone.await;
            launcher.relief.ending.remove(child);
            launcher.look();
            launcher.relief.ended.notify_waiters();
        });
        match scarce {
            Scarce::Memory => self.metrics.children_ended_for_memory_total.add(),
            Scarce::Tasks => self.metrics.children_ended_for_processes_total.add(),
            Scarce::Watches => self.metrics.children_ended_for_watches_total.add(),
        }
        if self.relief.may_log() {
            tracing::warn!(child, user = large.user, mib = taken.memory >> 20, tasks = taken.tasks, "{why}");
        }
        Some(Box::pin(async move {
            let _ = freed.await;
        }))
    }
}

fn lock(sharing: &Mutex<Sharing>) -> MutexGuard<'_, Sharing> {
    sharing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether at least three quarters of the memory that is kept free are left, so that a decision can wait until a
/// measurement has ended. At least twice [`Load::unaccounted`] is kept free. `own` is the usage of the wrapper, which
/// also uses this memory.
fn can_wait(load: Load, own: Usage) -> bool {
    load.over.saturating_add(own.memory) < load.unaccounted / 2
}

/// Time until the next check, with this much memory left until children are stopped.
fn until_next_look(room: Option<u64>) -> Duration {
    let part = room.unwrap_or(FAST).min(FAST) * 100 / FAST;
    (GUARD * u32::try_from(part).unwrap_or(100) / 100).max(LEAST_GUARD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_waits_for_a_measurement_only_while_most_of_the_reserve_is_left() {
        let waits = |over, memory| {
            can_wait(Load { used: 900, over, unaccounted: 64 }, Usage { memory, ..Usage::default() })
        };
        assert!(waits(20, 11) && !waits(20, 12) && !waits(32, 0));
        assert!(!waits(0, 90), "the wrapper itself uses the reserve");
    }

    #[test]
    fn a100_the_less_memory_is_left_the_more_often_the_guard_looks() {
        let all = [None, Some(u64::MAX), Some(FAST / 2), Some(0)].map(until_next_look);
        assert_eq!(all.map(|time| time.as_millis()), [100, 100, 50, 10]);
    }
}
