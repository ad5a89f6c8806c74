//! Memory that the processes of a child share. After a fork, both processes have the same pages until one of
//! them writes to a page, but the kernel counts the pages for both. Without a correction, a server that forks
//! workers would count as several times its real size.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::descent::Part;
use crate::capacity::{Kinds, Usage};

/// Maximum time for one measurement of shared memory.
const MEASURE: Duration = Duration::from_millis(50);
/// The time between two measurements is at least `PAUSE`, and at least `PAUSE_FACTOR` times the duration of the
/// last one. Therefore at most a quarter of the time is spent on measurements. They take place only while
/// memory is short.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_FACTOR: u32 = 3;
/// A child with at most this number of processes (its supervisor and one more) shares no memory.
const UNSHARED: u64 = 2;
/// If a child has written at least this many bytes to pages that its processes shared, it can use up the memory before
/// it is measured again. Less than that can come from values that were not read at the same moment.
const WRITTEN: u64 = 16 << 20;

/// The last measurement of each child's memory use.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    children: HashMap<u64, Measured>,
    /// The amount of anonymous memory that the control group reported at that time.
    anonymous: u64,
    own: Usage,
    next: Option<Instant>,
}

/// A child at the time of the last measurement.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    /// The usage that the kernel reported.
    usage: Usage,
    /// The anonymous memory with shared pages counted once. `None` if the time did not suffice.
    shared_once: Option<u64>,
}

impl Sharing {
    /// Whether it is time to measure again.
    pub(super) fn is_due(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    /// Measures the parts of children, if their sum exceeds what the control group reports.
    pub(super) fn measure(
        &mut self,
        usage: &HashMap<u64, Usage>,
        own: Usage,
        kinds: Kinds,
        parts: impl FnOnce(Instant) -> HashMap<u64, Part>,
    ) {
        let now = Instant::now();
        let is_shared = sum(usage, own, Usage::anonymous) > kinds.anonymous;
        let parts = if is_shared { parts(now + MEASURE) } else { HashMap::new() };
        let measured = |(number, usage): (&u64, &Usage)| {
            let part =
                parts.get(number).map(|part| scaled(usage.anonymous(), part.shared_once, part.counted));
            let is_exact = !is_shared || usage.processes <= UNSHARED;
            let shared_once = part.or_else(|| is_exact.then(|| usage.anonymous()));
            (*number, Measured { usage: *usage, shared_once })
        };
        self.children = usage.iter().map(measured).collect();
        self.anonymous = kinds.anonymous;
        self.own = own;
        self.next = Some(Instant::now() + PAUSE.max(now.elapsed() * PAUSE_FACTOR));
    }

    /// Reduces the usage of children with several processes to the measured amount, plus what each of them can have
    /// added since then (attack 100). Children that could not be measured are reduced until all children together
    /// have no more than the control group reports.
    pub(super) fn fit(&self, usage: &mut HashMap<u64, Usage>, own: Usage, kinds: Kinds) {
        if sum(usage, own, Usage::anonymous) > kinds.anonymous {
            let added = self.added(kinds);
            let reported = usage.clone();
            for (number, usage) in usage.iter_mut().filter(|(_, usage)| usage.processes > UNSHARED) {
                if let Some(before) = self.measured(*number).shared_once {
                    let fitted = before.saturating_add(added.min(self.growth(*number, usage)));
                    usage.memory = usage.in_files + fitted.min(usage.anonymous());
                }
            }
            let floor = |number: &u64, usage: &Usage| match self.measured(*number).shared_once {
                Some(_) => usage.anonymous(),
                None => usage.largest.min(usage.anonymous()),
            };
            shrink(usage, own, kinds.anonymous, Usage::anonymous, floor, |usage, fitted| {
                usage.memory = usage.in_files + fitted;
            });
            for (number, usage) in usage.iter_mut() {
                if self.measured(*number).shared_once.is_none() {
                    let most = reported.get(number).copied().unwrap_or_default();
                    let growth = added.min(self.growth(*number, &most));
                    usage.memory = usage.memory.saturating_add(growth).min(most.memory);
                }
            }
        }
        shrink(
            usage,
            own,
            kinds.in_files,
            |usage| usage.in_files,
            |_, _| 0,
            |usage, fitted| {
                usage.memory = usage.anonymous() + fitted;
                usage.in_files = fitted;
            },
        );
    }

    /// The children that have just written to many pages that their processes shared. Such a write adds to the memory of
    /// the control group, but not to what the kernel reports for a process. It is known by its page faults.
    pub(super) fn writers(&self, usage: &HashMap<u64, Usage>, own: Usage, kinds: Kinds) -> HashSet<u64> {
        let allocated = |(number, now): (&u64, &Usage)| {
            let before = self.measured(*number).usage;
            // A new process seems to have allocated everything that it shares.
            let has_forked = now.processes > before.processes.max(UNSHARED);
            if has_forked { 0 } else { now.anonymous().saturating_sub(before.anonymous()) }
        };
        let by_children: u64 = usage.iter().map(allocated).sum();
        let by_wrapper = own.anonymous().saturating_sub(self.own.anonymous());
        if self.added(kinds).saturating_sub(by_children + by_wrapper) < WRITTEN {
            return HashSet::new();
        }
        let has_written =
            |number: &u64, now: &Usage| now.processes > UNSHARED && self.faulted(*number, now) >= WRITTEN;
        usage.iter().filter(|(number, now)| has_written(number, now)).map(|(number, _)| *number).collect()
    }

    /// The anonymous memory, in bytes, that was added to the container since the measurement, if there was one.
    fn added(&self, kinds: Kinds) -> u64 {
        self.next.map_or(0, |_| kinds.anonymous.saturating_sub(self.anonymous))
    }

    /// The most that a child can have added to the anonymous memory of the container since the measurement, in bytes. What
    /// it allocates adds to what the kernel reports. A write to a shared page does not, but causes a page fault, because
    /// the kernel then copies this page.
    fn growth(&self, number: u64, now: &Usage) -> u64 {
        let before = self.measured(number).usage;
        now.anonymous().saturating_sub(before.anonymous()).saturating_add(self.faulted(number, now))
    }

    /// The memory, in bytes, of the pages to which the page faults since the measurement belong.
    fn faulted(&self, number: u64, now: &Usage) -> u64 {
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(u64::MAX);
        now.faults.saturating_sub(self.measured(number).usage.faults).saturating_mul(page)
    }

    /// A child that did not exist had no memory.
    fn measured(&self, number: u64) -> Measured {
        let none = Measured { shared_once: self.next.map(|_| 0), ..Measured::default() };
        self.children.get(&number).copied().unwrap_or(none)
    }
}

/// Reduces one kind of memory of children with several processes until all children together have no more than the limit. Each of
/// them keeps at least its floor, and is reduced in proportion to what it has above it.
fn shrink(
    usage: &mut HashMap<u64, Usage>,
    own: Usage,
    limit: u64,
    of: fn(&Usage) -> u64,
    floor: impl Fn(&u64, &Usage) -> u64,
    set: impl Fn(&mut Usage, u64),
) {
    let excess = sum(usage, own, of).saturating_sub(limit);
    let several = usage.iter_mut().filter(|(_, usage)| usage.processes > UNSHARED);
    let mut several: Vec<(u64, &mut Usage)> =
        several.map(|(number, usage)| (of(usage).saturating_sub(floor(number, usage)), usage)).collect();
    let reducible: u64 = several.iter().map(|(above, _)| above).sum();
    for (above, usage) in &mut several {
        let fitted = of(usage) - scaled(*above, excess, reducible);
        set(usage, fitted);
    }
}

/// `number * part / whole`, but at most `number`.
fn scaled(number: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(number) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX).min(number)
}

fn sum(usage: &HashMap<u64, Usage>, own: Usage, of: fn(&Usage) -> u64) -> u64 {
    usage.values().chain([&own]).map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_server_that_has_forked_counts_with_what_it_takes() {
        let kinds = Kinds { anonymous: 430, in_files: 20 };
        let mut sharing = Sharing::default();
        let measured = Part { counted: 400, shared_once: 40 };
        sharing.measure(&all(), OWN, kinds, |_| {
            HashMap::from([(1, measured), (3, Part { counted: 100, shared_once: 100 })])
        });
        assert_eq!(memory(&sharing, kinds), [40, 300, 100]);
        assert!(!sharing.is_due());
        assert_eq!(
            memory(&sharing, Kinds { anonymous: 750, in_files: 20 }),
            [40, 300, 100],
            "something else has added 320 bytes"
        );
    }

    #[test]
    fn without_a_measurement_children_with_several_processes_are_made_to_fit_together() {
        let sharing = Sharing::default();
        assert_eq!(memory(&sharing, Kinds { anonymous: 430, in_files: 20 }), [112, 300, 28]);
        assert_eq!(memory(&sharing, Kinds { anonymous: 790, in_files: 20 }), [400, 300, 100]);
        assert_eq!(memory(&sharing, Kinds { anonymous: u64::MAX, in_files: u64::MAX }), [400, 300, 100]);
        assert_eq!(memory(&sharing, Kinds { anonymous: 1, in_files: 1 }), [0, 300, 0]);
        Sharing::default()
            .measure(&all(), OWN, Kinds { anonymous: 790, in_files: 0 }, |_| panic!("nothing is shared"));
    }

    /// The children of the tests below, with their memory in MiB.
    type Children<'a> = &'a [(u64, Usage)];

    fn of(memory: u64, processes: u64, faulted: u64) -> Usage {
        let faults = (faulted << 20) / u64::try_from(rustix::param::page_size()).unwrap();
        Usage { memory: memory << 20, processes, faults, ..NONE }
    }

    fn kinds(anonymous: u64) -> Kinds {
        Kinds { anonymous: anonymous << 20, in_files: 0 }
    }

    /// Two servers with nine workers each, which share nearly all their memory, and one without workers.
    fn measured() -> Sharing {
        let before = HashMap::from([(1, of(1000, 11, 500)), (2, of(1000, 11, 500)), (3, of(100, 2, 100))]);
        let part = Part { counted: 1000 << 20, shared_once: 100 << 20 };
        let mut sharing = Sharing::default();
        sharing.measure(&before, NONE, kinds(300), |_| HashMap::from([(1, part), (2, part)]));
        sharing
    }

    fn fitted(now: Children<'_>, anonymous: u64) -> Vec<u64> {
        let mut usage = now.iter().copied().collect();
        measured().fit(&mut usage, NONE, kinds(anonymous));
        now.iter().map(|(number, _)| usage[number].memory >> 20).collect()
    }

    fn writers(now: Children<'_>, anonymous: u64) -> Vec<u64> {
        let usage = now.iter().copied().collect();
        let mut found: Vec<u64> = measured().writers(&usage, NONE, kinds(anonymous)).into_iter().collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn a100_who_writes_to_shared_pages_counts_with_them_and_nobody_else_does() {
        let third = (3, of(100, 2, 100));
        let now = [(1, of(1000, 11, 650)), (2, of(1000, 11, 501)), third];
        assert_eq!(fitted(&now, 450), [250, 101, 100]);
        assert_eq!(writers(&now, 450), [1]);
        // Page faults that add nothing, because the memory has been freed in between.
        assert_eq!(fitted(&now, 310), [110, 101, 100]);
        assert_eq!(writers(&now, 315), [0; 0]);
        let both = [(1, of(1000, 11, 650)), (2, of(1000, 11, 530)), third];
        assert_eq!(fitted(&both, 480), [250, 130, 100]);
        assert_eq!(writers(&both, 480), [1, 2]);
        assert_eq!(fitted(&[(1, of(1000, 11, 9999)), (2, of(1000, 11, 500)), third], 2000), [1000, 100, 100]);
    }

    #[test]
    fn a100_a_server_with_workers_does_not_count_with_what_another_one_allocates() {
        let [first, second] = [(1, of(1000, 11, 500)), (2, of(1000, 11, 500))];
        assert_eq!(fitted(&[first, second, (3, of(300, 2, 300))], 500), [100, 100, 300]);
        // The third child allocates in a process that it has forked, which seems to share all of it.
        let forked = [first, second, (3, of(400, 3, 300))];
        assert_eq!(fitted(&forked, 500), [100, 100, 300]);
        assert_eq!(writers(&forked, 500), [3]);
        // A huge page causes one page fault.
        assert_eq!(fitted(&[(1, of(1200, 11, 500)), second, (3, of(100, 2, 100))], 500), [300, 100, 100]);
        assert_eq!(writers(&[(1, of(1200, 12, 500)), second, (3, of(100, 2, 100))], 500), [0; 0]);
        // A new child has had nothing.
        assert_eq!(fitted(&[first, second, (4, of(900, 9, 200))], 500), [100, 100, 200]);
    }

    #[test]
    fn a100_who_cannot_be_measured_in_time_counts_with_what_it_writes() {
        let before = HashMap::from([(1, of(1000, 11, 500)), (2, of(100, 2, 100))]);
        let mut sharing = Sharing::default();
        sharing.measure(&before, NONE, kinds(200), |_| HashMap::new());
        let mut now = HashMap::from([(1, of(1000, 11, 700)), (2, of(100, 2, 100))]);
        sharing.fit(&mut now, NONE, kinds(400));
        assert_eq!([1, 2].map(|number| now[&number].memory >> 20), [500, 100]);
    }

    #[test]
    fn a100_a_child_counts_at_least_with_its_largest_process() {
        let of = |memory, largest| Usage { memory, largest, processes: 9, ..NONE };
        let mut usage = HashMap::from([(1, of(300, 150)), (2, of(5000, 100)), (3, of(200, 20))]);
        let mut sharing = Sharing::default();
        let readable = Part { counted: 200, shared_once: 200 };
        sharing
            .measure(&usage, OWN, Kinds { anonymous: 510, in_files: 0 }, |_| HashMap::from([(3, readable)]));
        sharing.fit(&mut usage, OWN, Kinds { anonymous: 510, in_files: 0 });
        assert_eq!([1, 2, 3].map(|number| usage[&number].memory), [152, 149, 200]);
    }

    #[test]
    fn files_in_memory_that_processes_share_are_made_to_fit_too() {
        let mut usage =
            HashMap::from([(1, Usage { memory: 100, in_files: 80, tasks: 9, processes: 9, ..NONE })]);
        Sharing::default().fit(&mut usage, OWN, Kinds { anonymous: 30, in_files: 10 });
        assert_eq!((usage[&1].memory, usage[&1].in_files), (30, 10));
    }
}
