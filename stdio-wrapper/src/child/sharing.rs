//! Memory that the processes of a child share. After a fork, both processes have the same pages until one of
//! them writes to a page, but the kernel counts the pages for both. Without a correction, a server that forks
//! workers would count as several times its real size.

mod growth;
mod shrink;

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use self::growth::Growth;
use self::shrink::{fit_page_tables, scaled, shrink, sum};
use super::parts::Part;
use crate::capacity::{Kinds, Usage};

/// The time between two measurements is at least `PAUSE`, and at least `PAUSE_FACTOR` times the duration of the
/// last one. Therefore at most a quarter of the time is spent on measurements.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_FACTOR: u32 = 3;
/// A child with at most this number of processes (its supervisor and one more) shares no memory.
const UNSHARED: u64 = 2;
/// A new measurement is due when children have used 1/`PART` of the memory that was left.
const PART: u64 = 4;

/// The last measurement of each child's memory use.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    children: HashMap<u64, Measured>,
    /// The amount of anonymous memory that the control group reported at that time.
    anonymous: u64,
    /// The part of it that belonged neither to the wrapper nor to the children as they were measured. Negative if they
    /// seemed to have more.
    unexplained: i128,
    is_measured: bool,
    /// When the running measurement began.
    began: Option<Instant>,
    next: Option<Instant>,
}

/// A child at the time of the last measurement.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    /// The usage that the kernel reported.
    usage: Usage,
    /// The memory with shared pages counted once. `None` if there was not enough time to measure it.
    once: Option<Once>,
}

/// The memory of a child, in bytes, with each shared page counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Once {
    anonymous: u64,
    in_files: u64,
}

impl Sharing {
    /// Returns whether it is time to measure again. If so, no other measurement begins until this one has ended.
    pub(super) fn begin(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.began.is_none() && self.next.is_none_or(|next| now >= next);
        if is_due {
            self.began = Some(now);
        }
        is_due
    }

    /// Whether a measurement is in progress.
    pub(super) fn is_measuring(&self) -> bool {
        self.began.is_some()
    }

    /// Whether the container has so much more anonymous memory than at the last measurement that, with this much memory
    /// left, the next measurement might end too late. As long as the memory does not grow, no measurement is needed.
    pub(super) fn is_outdated(&self, kinds: Kinds, left: u64) -> bool {
        !self.is_measured || kinds.anonymous.saturating_sub(self.anonymous) > left / PART
    }

    /// Whether processes seem to have more memory than the control group reports, because they share some of it.
    pub(super) fn is_shared(usage: &HashMap<u64, Usage>, own: Usage, kinds: Kinds) -> bool {
        sum(usage, own, Usage::anonymous) > kinds.anonymous
            || sum(usage, own, |usage| usage.in_files) > kinds.in_files
    }

    /// Ends a measurement. `usage`, `own` and `kinds` are from its beginning. `parts` is `None` if no memory was shared.
    pub(super) fn end(
        &mut self,
        usage: &HashMap<u64, Usage>,
        own: Usage,
        kinds: Kinds,
        parts: Option<&HashMap<u64, Part>>,
    ) {
        let measured = |(number, usage): (&u64, &Usage)| {
            let reported = Once { anonymous: usage.anonymous(), in_files: usage.in_files };
            let once = match parts {
                Some(parts) if usage.processes > UNSHARED => parts.get(number).map(|part| Once {
                    anonymous: scaled(reported.anonymous, part.anonymous.once, part.anonymous.counted),
                    in_files: scaled(reported.in_files, part.in_files.once, part.in_files.counted),
                }),
                _ => Some(reported),
            };
            (*number, Measured { usage: *usage, once })
        };
        self.children = usage.iter().map(measured).collect();
        self.anonymous = kinds.anonymous;
        self.unexplained = unexplained(own, kinds, self.children.values().map(Measured::anonymous));
        self.is_measured = true;
        let now = Instant::now();
        let duration = self.began.take().map_or(Duration::ZERO, |began| now.duration_since(began));
        self.next = Some(now + PAUSE.max(duration * PAUSE_FACTOR));
    }

    /// Reduces the usage of children with several processes to the measured amount, plus what each of them can have
    /// added since then (attack 100). Children that could not be measured are reduced until all children together
    /// have no more than the control group reports.
    pub(super) fn fit(&self, usage: &mut HashMap<u64, Usage>, own: Usage, kinds: Kinds) {
        if sum(usage, own, Usage::anonymous) > kinds.anonymous {
            self.fit_anonymous(usage, own, kinds);
        }
        if sum(usage, own, |usage| usage.in_files) > kinds.in_files {
            self.fit_files(usage, own, kinds);
        }
        fit_page_tables(usage, own, kinds);
    }

    fn fit_anonymous(&self, usage: &mut HashMap<u64, Usage>, own: Usage, kinds: Kinds) {
        let growth = self.growth(usage, own, kinds);
        let grown = |number: &u64| growth.get(number).copied().unwrap_or_default();
        let reported = usage.clone();
        for (number, usage) in usage.iter_mut().filter(|(_, usage)| usage.processes > UNSHARED) {
            if let Some(before) = self.measured(*number).once {
                let fitted = before.anonymous.saturating_add(grown(number));
                usage.memory = usage.memory - usage.anonymous() + fitted.min(usage.anonymous());
            }
        }
        let floor = |number: &u64, usage: &Usage| match self.measured(*number).once {
            Some(_) => usage.anonymous(),
            None => usage.largest.min(usage.anonymous()),
        };
        shrink(usage, own, kinds.anonymous, Usage::anonymous, floor, |usage, fitted| {
            usage.memory = usage.memory - usage.anonymous() + fitted;
        });
        for (number, usage) in usage {
            if self.measured(*number).once.is_none() {
                let most = reported.get(number).copied().unwrap_or_default();
                usage.memory = usage.memory.saturating_add(grown(number)).min(most.memory);
            }
        }
    }

    /// How much each child with several processes has added since the measurement, in bytes. Page faults do not show how
    /// much that is: a server that allocates and frees memory again and again has very many. Therefore what other
    /// children and the wrapper have certainly allocated is subtracted first, and only the rest of what the container
    /// has added can be due to page faults.
    fn growth(&self, usage: &HashMap<u64, Usage>, own: Usage, kinds: Kinds) -> HashMap<u64, u64> {
        if !self.is_measured {
            return HashMap::new();
        }
        let added = kinds.anonymous.saturating_sub(self.anonymous);
        let growth_of =
            |(number, now): (&u64, &Usage)| (*number, Growth::between(&self.measured(*number).usage, now));
        let several = usage.iter().filter(|(_, usage)| usage.processes > UNSHARED);
        let growth: HashMap<u64, Growth> = several.map(growth_of).collect();
        let known = usage.iter().map(|(number, now)| match growth.get(number) {
            Some(growth) => self.measured(*number).anonymous().saturating_add(growth.allocated.min(added)),
            None => now.anonymous(),
        });
        let rest = unexplained(own, kinds, known).saturating_sub(self.unexplained).max(0);
        let rest = u64::try_from(rest).unwrap_or(u64::MAX);
        let most = |growth: Growth| growth.allocated.saturating_add(growth.written.min(rest)).min(added);
        growth.into_iter().map(|(number, growth)| (number, most(growth))).collect()
    }

    /// The same for files in memory. The kernel counts the pages of such a file for each process that has used them.
    fn fit_files(&self, usage: &mut HashMap<u64, Usage>, own: Usage, kinds: Kinds) {
        let set = |usage: &mut Usage, fitted: u64| {
            usage.memory = usage.memory - usage.in_files + fitted;
            usage.in_files = fitted;
        };
        for (number, usage) in usage.iter_mut().filter(|(_, usage)| usage.processes > UNSHARED) {
            let before = self.measured(*number);
            if let Some(once) = before.once {
                let growth = usage.in_files.saturating_sub(before.usage.in_files);
                let fitted = once.in_files.saturating_add(growth).min(usage.in_files);
                set(usage, fitted);
            }
        }
        shrink(usage, own, kinds.in_files, |usage| usage.in_files, |_, _| 0, set);
    }

    /// The last measurement of a child. A child that did not exist at that time had no memory.
    fn measured(&self, number: u64) -> Measured {
        let none = Measured { once: self.is_measured.then(Once::default), ..Measured::default() };
        self.children.get(&number).copied().unwrap_or(none)
    }
}

impl Measured {
    /// The anonymous memory of the child, in bytes. If it could not be measured, this is what it had at least.
    fn anonymous(&self) -> u64 {
        self.once.map_or(self.usage.largest.min(self.usage.anonymous()), |once| once.anonymous)
    }
}

/// The anonymous memory of the container that belongs neither to the wrapper nor to children with this much.
fn unexplained(own: Usage, kinds: Kinds, children: impl Iterator<Item = u64>) -> i128 {
    i128::from(kinds.anonymous) - i128::from(own.anonymous()) - children.map(i128::from).sum::<i128>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::parts::Shared;

    const OWN: Usage = Usage { memory: 10, tasks: 1, processes: 1, ..NONE };
    const NONE: Usage =
        Usage { memory: 0, in_files: 0, in_kernel: 0, largest: 0, tasks: 0, processes: 0, faults: 0 };

    fn all() -> HashMap<u64, Usage> {
        let of =
            |memory, in_files, processes| Usage { memory, in_files, tasks: processes, processes, ..NONE };
        // The first child has forked nine workers, the second has forked none, and the third has forked one.
        HashMap::from([(1, of(400, 0, 11)), (2, of(300, 20, 2)), (3, of(100, 0, 3))])
    }

    fn memory(sharing: &Sharing, kinds: Kinds) -> [u64; 3] {
        let mut usage = all();
        sharing.fit(&mut usage, OWN, kinds);
        [1, 2, 3].map(|number| usage[&number].memory)
    }

    /// A part whose processes have only anonymous memory.
    fn part(counted: u64, once: u64) -> Part {
        Part { anonymous: Shared { counted, once }, in_files: Shared::default() }
    }

    #[test]
    fn a_server_that_has_forked_counts_with_what_it_takes() {
        let kinds = Kinds { anonymous: 430, in_files: 20, ..Kinds::UNKNOWN };
        let mut sharing = Sharing::default();
        assert!(sharing.begin() && !sharing.begin(), "one measurement at a time");
        assert!(Sharing::is_shared(&all(), OWN, kinds));
        sharing.end(&all(), OWN, kinds, Some(&HashMap::from([(1, part(400, 40)), (3, part(100, 100))])));
        assert_eq!(memory(&sharing, kinds), [40, 300, 100]);
        assert!(!sharing.begin(), "the last one has just ended");
        assert_eq!(
            memory(&sharing, Kinds { anonymous: 750, in_files: 20, ..Kinds::UNKNOWN }),
            [40, 300, 100],
            "something else has added 320 bytes"
        );
    }

    #[test]
    fn without_a_measurement_children_with_several_processes_are_made_to_fit_together() {
        let sharing = Sharing::default();
        assert_eq!(
            memory(&sharing, Kinds { anonymous: 430, in_files: 20, ..Kinds::UNKNOWN }),
            [112, 300, 28]
        );
        assert_eq!(
            memory(&sharing, Kinds { anonymous: 790, in_files: 20, ..Kinds::UNKNOWN }),
            [400, 300, 100]
        );
        assert_eq!(memory(&sharing, Kinds::UNKNOWN), [400, 300, 100]);
        assert_eq!(memory(&sharing, Kinds { anonymous: 1, in_files: 1, ..Kinds::UNKNOWN }), [0, 300, 0]);
        assert!(!Sharing::is_shared(&all(), OWN, Kinds { anonymous: 790, in_files: 20, ..Kinds::UNKNOWN }));
        assert!(Sharing::is_shared(&all(), OWN, Kinds { anonymous: 790, in_files: 19, ..Kinds::UNKNOWN }));
    }

    /// The children of the tests below, with their memory in MiB.
    type Children<'a> = &'a [(u64, Usage)];

    fn of(memory: u64, processes: u64, faulted: u64) -> Usage {
        let faults = (faulted << 20) / u64::try_from(rustix::param::page_size()).unwrap();
        Usage { memory: memory << 20, processes, faults, ..NONE }
    }

    fn kinds(anonymous: u64) -> Kinds {
        Kinds { anonymous: anonymous << 20, in_files: 0, ..Kinds::UNKNOWN }
    }

    /// Two servers with nine workers each, which share nearly all their memory, and one without workers.
    fn measured() -> Sharing {
        let first = Usage { largest: 100 << 20, ..of(1000, 11, 500) };
        let before = HashMap::from([(1, first), (2, of(1000, 11, 500)), (3, of(100, 2, 100))]);
        let part = part(1000 << 20, 100 << 20);
        let mut sharing = Sharing::default();
        sharing.end(&before, NONE, kinds(300), Some(&HashMap::from([(1, part), (2, part)])));
        sharing
    }

    fn fitted(now: Children<'_>, anonymous: u64) -> Vec<u64> {
        let mut usage = now.iter().copied().collect();
        measured().fit(&mut usage, NONE, kinds(anonymous));
        now.iter().map(|(number, _)| usage[number].memory >> 20).collect()
    }

    #[test]
    fn a100_who_writes_to_shared_pages_counts_with_them_and_nobody_else_does() {
        let third = (3, of(100, 2, 100));
        let now = [(1, of(1000, 11, 650)), (2, of(1000, 11, 501)), third];
        assert_eq!(fitted(&now, 450), [250, 101, 100]);
        // At most the growth of the control group counts, because memory can have been freed in the meantime.
        assert_eq!(fitted(&now, 310), [110, 101, 100]);
        let both = [(1, of(1000, 11, 650)), (2, of(1000, 11, 530)), third];
        assert_eq!(fitted(&both, 480), [250, 130, 100]);
        assert_eq!(fitted(&[(1, of(1000, 11, 9999)), (2, of(1000, 11, 500)), third], 2000), [1000, 100, 100]);
    }

    #[test]
    fn a100_a_server_with_workers_does_not_count_with_what_another_one_allocates() {
        let [first, second] = [(1, of(1000, 11, 500)), (2, of(1000, 11, 500))];
        assert_eq!(fitted(&[first, second, (3, of(300, 2, 300))], 500), [100, 100, 300]);
        // The third child allocates in a process that it has forked, which seems to share all of it.
        let forked = [first, second, (3, of(400, 3, 300))];
        assert_eq!(fitted(&forked, 500), [100, 100, 300]);
        // A huge page causes one page fault.
        assert_eq!(fitted(&[(1, of(1200, 11, 500)), second, (3, of(100, 2, 100))], 500), [300, 100, 100]);
        // A fork allocates nothing, although the kernel reports more.
        assert_eq!(fitted(&[(1, of(2000, 21, 501)), second, (3, of(300, 2, 300))], 500), [100, 100, 300]);
        // A process has allocated huge pages after a fork.
        let huge = |largest: u64| Usage { largest: largest << 20, ..of(2000, 21, 501) };
        assert_eq!(fitted(&[(1, huge(220)), second, (3, of(100, 2, 100))], 500), [221, 100, 100]);
        assert_eq!(fitted(&[(1, huge(999)), second, (3, of(100, 2, 100))], 500), [300, 100, 100]);
        assert_eq!(fitted(&[(1, huge(100)), second, (3, of(300, 2, 300))], 500), [100, 100, 300]);
        // A child that did not exist at the last measurement had no memory then.
        assert_eq!(fitted(&[first, second, (4, of(900, 9, 200))], 500), [100, 100, 200]);
    }

    #[test]
    fn a100_a_server_that_allocates_and_frees_again_and_again_does_not_count_with_what_others_allocate() {
        // The first server has caused page faults for much more memory than the container has added.
        let [first, second] = [(1, of(1000, 11, 9999)), (2, of(1000, 11, 500))];
        assert_eq!(fitted(&[first, second, (3, of(300, 2, 300))], 500), [100, 100, 300]);
        assert_eq!(
            fitted(&[first, second, (3, of(300, 2, 300))], 540),
            [140, 100, 300],
            "nobody else has added 40"
        );
        // The second server allocates without a fork. The kernel reports this memory.
        assert_eq!(fitted(&[first, (2, of(1200, 11, 700)), (3, of(100, 2, 100))], 500), [100, 300, 100]);
        // A new child, and the wrapper itself.
        assert_eq!(
            fitted(&[first, second, (3, of(100, 2, 100)), (4, of(200, 2, 200))], 500),
            [100, 100, 100, 200]
        );
        let mut usage = HashMap::from([first, second, (3, of(100, 2, 100))]);
        measured().fit(&mut usage, of(200, 1, 0), kinds(500));
        assert_eq!(usage[&1].memory >> 20, 100);
        // Memory that another child has freed is no growth of the rest.
        assert_eq!(fitted(&[first, second], 290), [100, 100]);
    }

    #[test]
    fn a_measurement_is_due_when_a_part_of_the_memory_that_was_left_is_used() {
        let mut sharing = Sharing::default();
        assert!(sharing.is_outdated(kinds(1), 1000 << 20), "nothing has been measured");
        assert!(sharing.begin() && sharing.is_measuring());
        sharing.end(&HashMap::new(), NONE, kinds(500), None);
        let is_outdated = |anonymous, left: u64| sharing.is_outdated(kinds(anonymous), left << 20);
        assert!(!sharing.is_measuring());
        assert_eq!(
            [(500, 1), (400, 0), (550, 200), (551, 200)].map(|(all, left)| is_outdated(all, left)),
            [false, false, false, true]
        );
    }

    #[test]
    fn a100_who_cannot_be_measured_in_time_counts_with_what_it_writes() {
        let before = HashMap::from([(1, of(1000, 11, 500)), (2, of(100, 2, 100))]);
        let mut sharing = Sharing::default();
        sharing.end(&before, NONE, kinds(200), Some(&HashMap::new()));
        let mut now = HashMap::from([(1, of(1000, 11, 700)), (2, of(100, 2, 100))]);
        sharing.fit(&mut now, NONE, kinds(400));
        assert_eq!([1, 2].map(|number| now[&number].memory >> 20), [500, 100]);
    }

    #[test]
    fn a100_a_child_counts_at_least_with_its_largest_process() {
        let of = |memory, largest| Usage { memory, largest, processes: 9, ..NONE };
        let mut usage = HashMap::from([(1, of(300, 150)), (2, of(5000, 100)), (3, of(200, 20))]);
        let mut sharing = Sharing::default();
        let kinds = Kinds { anonymous: 510, in_files: 0, ..Kinds::UNKNOWN };
        sharing.end(&usage, OWN, kinds, Some(&HashMap::from([(3, part(200, 200))])));
        sharing.fit(&mut usage, OWN, kinds);
        assert_eq!([1, 2, 3].map(|number| usage[&number].memory), [152, 149, 200]);
    }

    #[test]
    fn a100_files_in_memory_that_workers_share_count_once() {
        let of = |in_files, processes| Usage { memory: in_files + 10, in_files, processes, ..NONE };
        let before = HashMap::from([(1, of(1200, 22)), (2, of(300, 3))]);
        let mut sharing = Sharing::default();
        let part = |counted, once| Part { anonymous: Shared::default(), in_files: Shared { counted, once } };
        let parts = HashMap::from([(1, part(1200, 60)), (2, part(300, 300))]);
        sharing.end(&before, NONE, Kinds { anonymous: 20, in_files: 360, ..Kinds::UNKNOWN }, Some(&parts));
        let mut now = HashMap::from([(1, of(1200, 22)), (2, of(840, 3))]);
        sharing.fit(&mut now, NONE, Kinds { anonymous: 20, in_files: 900, ..Kinds::UNKNOWN });
        assert_eq!([1, 2].map(|number| (now[&number].in_files, now[&number].memory)), [(60, 70), (840, 850)]);
    }

    #[test]
    fn a100_page_tables_count_for_each_process_but_not_more_than_the_container_has() {
        let of = |in_kernel, processes| Usage { memory: in_kernel + 10, in_kernel, processes, ..NONE };
        let fitted = |page_tables| {
            let mut usage = HashMap::from([(1, of(300, 2)), (2, of(100, 11)), (3, of(500, 4))]);
            Sharing::default().fit(&mut usage, OWN, Kinds { page_tables, ..Kinds::UNKNOWN });
            [1, 2, 3].map(|number| (usage[&number].in_kernel, usage[&number].memory))
        };
        assert_eq!(fitted(900), [(300, 310), (100, 110), (500, 510)]);
        // The processes of a child use the same page tables. Otherwise, a server could make hidden memory look known.
        assert_eq!(fitted(420), [(300, 310), (20, 30), (100, 110)]);
    }

    #[test]
    fn files_in_memory_that_processes_share_are_made_to_fit_too() {
        let mut usage =
            HashMap::from([(1, Usage { memory: 100, in_files: 80, tasks: 9, processes: 9, ..NONE })]);
        Sharing::default().fit(&mut usage, OWN, Kinds { anonymous: 30, in_files: 10, ..Kinds::UNKNOWN });
        assert_eq!((usage[&1].memory, usage[&1].in_files), (30, 10));
    }
}
