//! Memory that the processes of a child share. After a fork, both processes have the same pages until one of
//! them writes to a page, but the kernel counts the pages for both. Without a correction, a server that forks
//! workers would count as several times its real size.

use std::collections::HashMap;
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
/// If more memory than this, in bytes, was added since the last measurement and was not allocated by any child, processes
/// have written to pages that they shared. Less than that can come from values that were not read at the same moment.
const WRITTEN: u64 = 16 << 20;

/// The last measurement of each child's memory use.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    parts: HashMap<u64, Part>,
    /// The amount of anonymous memory that the control group reported at that time.
    anonymous: u64,
    /// The usage at that time, as the kernel reports it.
    usage: HashMap<u64, Usage>,
    own: Usage,
    next: Option<Instant>,
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
        if sum(usage, own, Usage::anonymous) > kinds.anonymous {
            self.parts = parts(now + MEASURE);
        }
        self.anonymous = kinds.anonymous;
        self.usage.clone_from(usage);
        self.own = own;
        self.next = Some(Instant::now() + PAUSE.max(now.elapsed() * PAUSE_FACTOR));
    }

    /// Reduces the usage of children with several processes to the measured amount. Then reduces it further
    /// until all children together have no more than the control group reports. Memory that was added since the
    /// measurement is attributed to these children, because each write to a shared page creates a private copy
    /// (attack 100). If processes have just written to shared pages, all that share can do so much faster than
    /// this can be measured. They then count with everything that they share.
    pub(super) fn fit(&self, usage: &mut HashMap<u64, Usage>, own: Usage, kinds: Kinds) {
        if !self.is_written(usage, own, kinds) && sum(usage, own, Usage::anonymous) > kinds.anonymous {
            let added = kinds.anonymous.saturating_sub(self.anonymous);
            for (number, usage) in usage.iter_mut().filter(|(_, usage)| usage.processes > UNSHARED) {
                if let Some(part) = self.parts.get(number) {
                    let fitted = scaled(usage.anonymous(), part.shared_once, part.counted);
                    let fitted = fitted.saturating_add(added).min(usage.anonymous());
                    usage.memory = usage.in_files + fitted;
                }
            }
            let floor = |number: &u64, usage: &Usage| match self.parts.get(number) {
                Some(_) => usage.anonymous(),
                None => usage.largest.min(usage.anonymous()),
            };
            shrink(usage, own, kinds.anonymous, Usage::anonymous, floor, |usage, fitted| {
                usage.memory = usage.in_files + fitted;
            });
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

    /// Whether processes have written to many pages that they shared. Such a write adds to the memory of the control group,
    /// but not to what the kernel reports for a process.
    pub(super) fn is_written(&self, usage: &HashMap<u64, Usage>, own: Usage, kinds: Kinds) -> bool {
        let added = kinds.anonymous.saturating_sub(self.anonymous);
        let allocated = |(number, now): (&u64, &Usage)| {
            let before = self.usage.get(number).copied().unwrap_or_default();
            // A new process seems to have allocated everything that it shares.
            let has_forked = now.processes > before.processes.max(UNSHARED);
            if has_forked { 0 } else { now.anonymous().saturating_sub(before.anonymous()) }
        };
        let by_children: u64 = usage.iter().map(allocated).sum();
        let by_wrapper = own.anonymous().saturating_sub(self.own.anonymous());
        self.next.is_some() && added.saturating_sub(by_children + by_wrapper) >= WRITTEN
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

    const OWN: Usage = Usage { memory: 10, in_files: 0, tasks: 1, processes: 1, in_kernel: 0, largest: 0 };

    fn all() -> HashMap<u64, Usage> {
        let of = |memory, in_files, processes| Usage {
            memory,
            in_files,
            tasks: processes,
            processes,
            in_kernel: 0,
            largest: 0,
        };
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
        // After the measurement, the workers of the first child have written to the pages that they shared.
        assert_eq!(memory(&sharing, Kinds { anonymous: 750, in_files: 20 }), [360, 300, 100]);
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

    /// The first child has forked nine workers that write to what they share.
    #[test]
    fn a100_who_may_write_to_shared_pages_counts_with_all_of_them_while_somebody_does() {
        let mib = |count: u64| count << 20;
        let of = |memory, processes| Usage { memory: mib(memory), processes, ..Usage::default() };
        let kinds = |anonymous| Kinds { anonymous: mib(anonymous), in_files: 0 };
        let mut sharing = Sharing::default();
        let before = HashMap::from([(1, of(1000, 11)), (2, of(300, 2))]);
        let measured = Part { counted: mib(1000), shared_once: mib(100) };
        sharing.measure(&before, OWN, kinds(410), |_| HashMap::from([(1, measured)]));
        let fitted = |now: &HashMap<u64, Usage>, anonymous| {
            let mut usage = now.clone();
            sharing.fit(&mut usage, OWN, kinds(anonymous));
            [1, 2].map(|number| usage[&number].memory >> 20)
        };
        assert_eq!(fitted(&before, 425), [115, 300]);
        assert_eq!(fitted(&before, 427), [1000, 300]);
        // The second child has allocated it.
        let allocated = HashMap::from([(1, of(1000, 11)), (2, of(500, 2))]);
        assert_eq!(fitted(&allocated, 612), [302, 500]);
        // A fork allocates nothing.
        let forked = HashMap::from([(1, of(1100, 12)), (2, of(300, 2))]);
        assert_eq!(fitted(&forked, 427), [1100, 300]);
    }

    #[test]
    fn a100_a_child_counts_at_least_with_its_largest_process() {
        let of = |memory, largest| Usage { memory, largest, processes: 9, ..Usage::default() };
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
        let mut usage = HashMap::from([(
            1,
            Usage { memory: 100, in_files: 80, tasks: 9, processes: 9, in_kernel: 0, largest: 0 },
        )]);
        Sharing::default().fit(&mut usage, OWN, Kinds { anonymous: 30, in_files: 10 });
        assert_eq!((usage[&1].memory, usage[&1].in_files), (30, 10));
    }
}
