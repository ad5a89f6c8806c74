//! The processor time and the page faults of the processes of a child, including those that have exited.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The unit of the times in `/proc` (`proc_pid_stat(5)`): a hundredth of a second on every architecture for which
/// the wrapper is built.
pub(super) const TICK: Duration = Duration::from_millis(10);
/// The time after which a new period for [`Spent::recent`] begins.
const PERIOD: Duration = Duration::from_secs(60);

/// Processor time in units of [`TICK`], and the number of page faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) user: u64,
    pub(super) system: u64,
    pub(super) faults: u64,
}

impl Work {
    fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn minus(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    fn with(self, other: Self, of: fn(u64, u64) -> u64) -> Self {
        Self {
            user: of(self.user, other.user),
            system: of(self.system, other.system),
            faults: of(self.faults, other.faults),
        }
    }
}

/// The work of a process with all its threads, and of the processes for which it has waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Works {
    pub(super) own: Work,
    pub(super) reaped: Work,
}

/// The processor time and page faults of a child. Times are in units of [`TICK`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// System time during the last one to two minutes.
    pub(super) recent: u64,
    /// System time since the start of the child.
    pub(super) system: u64,
    /// System and user time since the start of the child. The sum is exact, but the kernel only estimates how it is
    /// divided between the two, from what the process is doing each time a timer fires. A process that is never in the
    /// kernel at these moments has no system time.
    pub(super) total: u64,
    /// Page faults since the start of the child.
    pub(super) faults: u64,
}

/// Adds up the work of a child's processes, which `P` identifies.
#[derive(Debug)]
pub(super) struct Ledger<P> {
    /// The processes that existed at the last scan, with their work.
    seen: HashMap<P, Works>,
    spent: Work,
    /// The starts of the previous and of the current period, each with the system time spent by then.
    periods: [(Instant, u64); 2],
}

impl<P: Eq + Hash> Ledger<P> {
    pub(super) fn new(now: Instant) -> Self {
        Self { seen: HashMap::new(), spent: Work::default(), periods: [(now, 0); 2] }
    }

    /// Records the work of all processes of the child.
    pub(super) fn look(&mut self, found: HashMap<P, Works>, now: Instant) {
        let sum = |all: &mut dyn Iterator<Item = Work>| all.fold(Work::default(), Work::plus);
        let before = |process: &P| self.seen.get(process).copied().unwrap_or_default();
        let worked = sum(&mut found.iter().map(|(process, work)| work.own.minus(before(process).own)));
        let reaped = sum(&mut found.iter().map(|(process, work)| work.reaped.minus(before(process).reaped)));
        // The work of an exited process moves to the process that waited for it, and must not be counted again. If no
        // process waited for it (`SIGCHLD` is ignored), the work up to the last scan has been counted.
        let exited = self.seen.iter().filter(|(process, _)| !found.contains_key(process));
        let moved = sum(&mut exited.map(|(_, work)| work.own.plus(work.reaped)));
        self.spent = self.spent.plus(worked).plus(reaped.minus(moved));
        self.seen = found;
        let [_, current] = self.periods;
        if now.duration_since(current.0) >= PERIOD {
            self.periods = [current, (now, self.spent.system)];
        }
    }

    pub(super) fn spent(&self) -> Spent {
        let [(_, before), _] = self.periods;
        let Work { user, system, faults } = self.spent;
        Spent { recent: system.saturating_sub(before), system, total: system.saturating_add(user), faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn works(own: u64, reaped: u64) -> Works {
        let work = |system| Work { user: 1, system, faults: system * 100 };
        Works { own: work(own), reaped: work(reaped) }
    }

    fn after(looks: &[&[(&str, u64, u64)]]) -> Spent {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        for look in looks {
            let found = look.iter().map(|(name, own, reaped)| ((*name).to_owned(), works(*own, *reaped)));
            ledger.look(found.collect(), now);
        }
        ledger.spent()
    }

    #[test]
    fn time_of_a_process_counts_once_whoever_waits_for_it() {
        let spent = after(&[
            &[("parent", 5, 0)],
            &[("parent", 6, 0), ("worker", 30, 0)],
            &[("parent", 6, 0), ("worker", 40, 0)],
            &[("parent", 7, 45)],
        ]);
        assert_eq!((spent.system, spent.recent, spent.faults), (52, 52, 5200));
        let unseen = after(&[&[("parent", 5, 0)], &[("parent", 5, 80)]]);
        assert_eq!(unseen.system, 85, "it has exited before it was seen");
    }

    #[test]
    fn a100_time_of_a_process_counts_even_if_nobody_waits_for_it() {
        let spent = after(&[&[("parent", 5, 0), ("worker", 30, 0)], &[("parent", 5, 0)]]);
        assert_eq!(spent.system, 35);
    }

    #[test]
    fn only_time_of_the_last_minutes_is_recent() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let mut look = |seconds, system| {
            let own = Work { user: 7, system, faults: 0 };
            let works = Works { own, reaped: Work::default() };
            ledger.look(HashMap::from([(1, works)]), start + Duration::from_secs(seconds));
            ledger.spent()
        };
        assert_eq!(look(1, 10), Spent { recent: 10, system: 10, total: 17, faults: 0 });
        assert_eq!(look(61, 30).recent, 30);
        assert_eq!(look(119, 50).recent, 50);
        assert_eq!(look(121, 50).recent, 20);
        assert_eq!(look(200, 60), Spent { recent: 10, system: 60, total: 67, faults: 0 });
    }
}
