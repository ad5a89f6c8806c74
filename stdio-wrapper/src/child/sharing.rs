//! Memory that the processes of a child share. After a fork, both processes have the same pages until one of
//! them writes to a page, but the kernel counts the pages for both. Without a correction, a server that forks
//! workers would count as several times its real size.

mod growth;
mod shrink;

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use self::growth::{Growth, Measured};
use self::shrink::{fit_page_tables, scaled, shrink, sum};
use super::parts::Part;
use super::procfs::Sizes;
use crate::capacity::{Kinds, Usage};

/// The time between two measurements is at least `PAUSE`, and at least `PAUSE_FACTOR` times the duration of the
/// last one. Therefore at most a quarter of the time is spent on measurements.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_FACTOR: u32 = 3;
/// A child with at most this number of processes (its supervisor and one more) shares no memory.
const UNSHARED: u64 = 2;
/// A new measurement is due when children have used 1/`PART` of the memory that was left.
const PART: u64 = 4;

/// The last measurement of each child's memory use. A child keeps it until it has been measured again.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    children: HashMap<u64, Measured>,
    /// The amount of anonymous memory that the control group reported when the last measurement of all children began.
    anonymous: Option<u64>,
    /// When the running measurement began.
    began: Option<Instant>,
    next: Option<Instant>,
}

/// The anonymous memory of a child with several processes, in bytes.
struct Fitted<'a> {
    usage: &'a mut Usage,
    /// What the kernel reports.
    reported: u64,
    /// What the child counts with.
    counted: u64,
    growth: Growth,
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
        self.anonymous.is_none_or(|before| kinds.anonymous.saturating_sub(before) > left / PART)
    }

    /// Whether processes seem to have more memory than the control group reports, because they share some of it. Files in
    /// memory can be shared even if the sum is smaller: files that belong to no process can make up for it.
    pub(super) fn is_shared(usage: &HashMap<u64, Usage>, own: Usage, kinds: Kinds) -> bool {
        sum(usage, own, Usage::anonymous) > kinds.anonymous
            || usage.values().any(|usage| usage.processes > UNSHARED && usage.in_files > 0)
    }

    /// Records what a child has. `faults` and `kinds` are from the beginning of the measurement.
    pub(super) fn record(&mut self, number: u64, part: Part, faults: u64, kinds: Kinds) {
        self.children.insert(number, Measured { part, faults, container: kinds.anonymous });
    }

    /// Ends a measurement. `usage` and `kinds` are from its beginning.
    pub(super) fn end(&mut self, usage: &HashMap<u64, Usage>, kinds: Kinds) {
        self.children.retain(|number, _| usage.contains_key(number));
        self.anonymous = Some(kinds.anonymous);
        let now = Instant::now();
        let duration = self.began.take().map_or(Duration::ZERO, |began| now.duration_since(began));
        self.next = Some(now + PAUSE.max(duration * PAUSE_FACTOR));
    }

    /// Reduces the usage of children with several processes to the measured amount, plus what each of them can have
    /// added since then (attack 100). `sizes` are the sizes of their processes.
    pub(super) fn fit(
        &self,
        usage: &mut HashMap<u64, Usage>,
        sizes: &HashMap<u64, Sizes>,
        own: Usage,
        kinds: Kinds,
    ) {
        if sum(usage, own, Usage::anonymous) > kinds.anonymous {
            self.fit_anonymous(usage, sizes, own, kinds);
        }
        self.fit_files(usage, own, kinds);
        fit_page_tables(usage, own, kinds);
    }

    /// Every page of anonymous memory belongs to a process. Therefore what the container has, beyond what the wrapper
    /// and the children certainly have, belongs to children with several processes. It is divided among them once, by
    /// what each can have added, the most likely part of it first. Page faults alone do not show how much that is: a
    /// server that allocates and frees memory again and again has very many.
    fn fit_anonymous(
        &self,
        usage: &mut HashMap<u64, Usage>,
        sizes: &HashMap<u64, Sizes>,
        own: Usage,
        kinds: Kinds,
    ) {
        let (mut certain, mut several) = (own.anonymous(), Vec::new());
        let (no_sizes, not_measured) = (Sizes::new(), Measured::default());
        for (number, usage) in usage {
            let reported = usage.anonymous();
            let mut counted = reported;
            if usage.processes > UNSHARED {
                let sizes = sizes.get(number).unwrap_or(&no_sizes);
                let before = self.children.get(number).unwrap_or(&not_measured);
                let growth = Growth::between(before, usage, sizes, kinds.anonymous);
                let of_supervisor = reported.saturating_sub(sizes.values().sum());
                counted = reported.min(before.part.anonymous + of_supervisor + growth.allocated);
                several.push(Fitted { usage, reported, counted, growth });
            }
            certain += counted;
        }
        let mut rest = kinds.anonymous.saturating_sub(certain);
        let possible: [fn(&Growth) -> u64; 3] =
            [|growth| growth.written, |growth| growth.explained, |growth| growth.reported];
        for possible in possible {
            let most = |one: &Fitted<'_>| possible(&one.growth).min(one.reported - one.counted);
            let whole: u64 = several.iter().map(most).sum();
            for one in &mut several {
                one.counted += scaled(most(one), rest, whole);
            }
            rest = rest.saturating_sub(whole);
        }
        for Fitted { usage, reported, counted, .. } in several {
            usage.memory = usage.memory - reported + counted;
        }
    }

    /// The same for files in memory. The kernel counts the pages of such a file for each process that has used them, and
    /// reports all that a child adds. A measured child counts with what was measured even if the control group reports
    /// more than the sum, because somebody else can have hidden the rest. Then children are reduced in proportion, if
    /// the sum is still too large.
    fn fit_files(&self, usage: &mut HashMap<u64, Usage>, own: Usage, kinds: Kinds) {
        let set = |usage: &mut Usage, fitted: u64| {
            usage.memory = usage.memory - usage.in_files + fitted;
            usage.in_files = fitted;
        };
        for (number, usage) in usage.iter_mut().filter(|(_, usage)| usage.processes > UNSHARED) {
            if let Some(Measured { part, .. }) = self.children.get(number) {
                let growth = usage.in_files.saturating_sub(part.reported_in_files);
                let fitted = part.in_files.saturating_add(growth).min(usage.in_files);
                set(usage, fitted);
            }
        }
        shrink(usage, own, kinds.in_files, |usage| usage.in_files, set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::procfs::Process;

    const OWN: Usage = Usage { memory: 10, tasks: 1, processes: 1, ..NONE };
    const NONE: Usage = Usage { memory: 0, in_files: 0, in_kernel: 0, tasks: 0, processes: 0, faults: 0 };

    /// A child of the tests below, with the sizes of its processes and the memory for which it has caused page faults, in
    /// MiB. Processes are known by their places in the list.
    type Child<'a> = (u64, &'a [u64], u64);

    fn usage(children: &[Child<'_>]) -> (HashMap<u64, Usage>, HashMap<u64, Sizes>) {
        let page = u64::try_from(rustix::param::page_size()).unwrap();
        let (mut usage, mut all) = (HashMap::new(), HashMap::new());
        for (number, sizes, faulted) in children {
            let (memory, processes) = (sizes.iter().sum::<u64>() << 20, sizes.len() as u64 + 1);
            let faults = (faulted << 20) / page;
            usage.insert(*number, Usage { memory, processes, faults, ..NONE });
            let sizes = (0..).zip(*sizes).map(|(pid, size)| (Process { pid, started: 0 }, size << 20));
            all.insert(*number, sizes.collect());
        }
        (usage, all)
    }

    fn kinds(anonymous: u64) -> Kinds {
        Kinds { anonymous: anonymous << 20, in_files: 0, ..Kinds::UNKNOWN }
    }

    /// Records that these children have this much memory, in MiB, with each shared page counted once.
    fn record(sharing: &mut Sharing, children: &[(Child<'_>, u64)], anonymous: u64) {
        for (child, once) in children {
            let (usage, mut sizes) = usage(&[*child]);
            let sizes = sizes.remove(&child.0).unwrap();
            let part = Part { sizes, anonymous: once << 20, ..Part::default() };
            sharing.record(child.0, part, usage[&child.0].faults, kinds(anonymous));
        }
    }

    /// A server with nine workers, which share nearly all its memory.
    const WORKERS: &[u64] = &[100; 10];
    const FIRST: Child<'_> = (1, WORKERS, 500);
    const SECOND: Child<'_> = (2, WORKERS, 500);
    const THIRD: Child<'_> = (3, &[100], 100);

    /// Two servers with workers, and one without.
    fn measured() -> Sharing {
        let mut sharing = Sharing::default();
        record(&mut sharing, &[(FIRST, 100), (SECOND, 100), (THIRD, 100)], 300);
        sharing
    }

    /// What these children count with, in MiB, in a container with this much anonymous memory.
    fn fitted_in(sharing: &Sharing, now: &[Child<'_>], own: u64, anonymous: u64) -> Vec<u64> {
        let (mut usage, sizes) = usage(now);
        let own = Usage { memory: own << 20, processes: 1, ..NONE };
        sharing.fit(&mut usage, &sizes, own, kinds(anonymous));
        now.iter().map(|(number, ..)| usage[number].memory >> 20).collect()
    }

    fn fitted(now: &[Child<'_>], anonymous: u64) -> Vec<u64> {
        fitted_in(&measured(), now, 0, anonymous)
    }

    /// The sizes of [`WORKERS`], with some of them changed and others added.
    fn workers(changed: &[u64], added: &[u64]) -> Vec<u64> {
        [changed, &WORKERS[changed.len()..], added].concat()
    }

    #[test]
    fn a_server_that_has_forked_counts_with_what_it_takes() {
        assert_eq!(fitted(&[FIRST, SECOND, THIRD], 300), [100, 100, 100]);
        assert_eq!(fitted(&[FIRST, SECOND, THIRD], 700), [100, 100, 100], "something else has added 400");
        let (usage, sizes) = usage(&[FIRST, THIRD]);
        assert!(
            Sharing::is_shared(&usage, NONE, kinds(1099)) && !Sharing::is_shared(&usage, NONE, kinds(1100))
        );
        // The supervisor has memory as well.
        let mut usage = usage;
        usage.get_mut(&1).unwrap().memory += 7 << 20;
        measured().fit(&mut usage, &sizes, NONE, kinds(207));
        assert_eq!(usage[&1].memory >> 20, 107);
    }

    #[test]
    fn one_measurement_is_made_at_a_time() {
        let mut sharing = Sharing::default();
        assert!(sharing.begin() && !sharing.begin());
        sharing.end(&HashMap::new(), kinds(1));
        assert!(!sharing.begin(), "the last one has just ended");
    }

    #[test]
    fn without_a_measurement_children_with_several_processes_are_made_to_fit_together() {
        let all: [Child<'_>; 3] = [(1, &[40; 10], 0), (2, &[300], 0), (3, &[50; 2], 0)];
        let fitted = |anonymous| fitted_in(&Sharing::default(), &all, 10, anonymous);
        // Each has at least what its largest process has.
        assert_eq!(fitted(400), [40, 300, 50]);
        assert_eq!(fitted(482), [112, 300, 60]);
        assert_eq!(fitted(810), [400, 300, 100]);
        assert_eq!(fitted(1), [1, 300, 1], "no child has more than the container");
        let (mut usage, sizes) = usage(&all);
        Sharing::default().fit(&mut usage, &sizes, OWN, Kinds::UNKNOWN);
        assert_eq!([1, 2, 3].map(|number| usage[&number].memory >> 20), [400, 300, 100]);
    }

    #[test]
    fn a100_who_writes_to_shared_pages_counts_with_them_and_nobody_else_does() {
        let now = [(1, WORKERS, 650), (2, WORKERS, 501), THIRD];
        assert_eq!(fitted(&now, 450), [249, 100, 100]);
        // At most the growth of the control group counts, because memory can have been freed in the meantime.
        assert_eq!(fitted(&now, 310), [109, 100, 100]);
        let both = [(1, WORKERS, 650), (2, WORKERS, 530), THIRD];
        assert_eq!(fitted(&both, 480), [250, 130, 100]);
        assert_eq!(fitted(&[(1, WORKERS, 9999), SECOND, THIRD], 2000), [1000, 100, 100]);
        // What one child allocates without a fork causes page faults as well.
        let allocates = workers(&[250], &[]);
        assert_eq!(fitted(&[(1, WORKERS, 650), (2, &allocates, 650), THIRD], 600), [250, 250, 100]);
    }

    #[test]
    fn a100_memory_that_nobody_certainly_allocated_is_divided_once() {
        let all = [(1, WORKERS, 9999), (2, WORKERS, 9999), (4, WORKERS, 9999)];
        let mut sharing = measured();
        record(&mut sharing, &[((4, WORKERS, 9999), 100)], 300);
        assert_eq!(fitted_in(&sharing, &all, 0, 500), [200, 200, 100]);
        // New processes that have allocated huge pages have caused few page faults, but the kernel reports more.
        let forked = workers(&[], &[150; 4]);
        assert_eq!(fitted(&[(1, &forked, 501), (2, WORKERS, 520), THIRD], 500), [280, 120, 100]);
    }

    #[test]
    fn a100_a_server_with_workers_does_not_count_with_what_another_one_allocates() {
        assert_eq!(fitted(&[FIRST, SECOND, (3, &[300], 300)], 500), [100, 100, 300]);
        // The third child allocates in a process that it has forked, which seems to share all of it.
        assert_eq!(fitted(&[FIRST, SECOND, (3, &[100, 300], 300)], 500), [100, 100, 300]);
        // A huge page causes one page fault.
        let huge = workers(&[300], &[]);
        assert_eq!(fitted(&[(1, &huge, 500), SECOND, THIRD], 500), [300, 100, 100]);
        // A fork allocates nothing, although the kernel reports more.
        let forked = workers(&[], &[100; 10]);
        assert_eq!(fitted(&[(1, &forked, 501), SECOND, (3, &[300], 300)], 500), [100, 100, 300]);
        // A child that did not exist at the last measurement had no memory then.
        assert_eq!(fitted(&[FIRST, SECOND, (4, &[112; 8], 200)], 400), [100, 100, 200]);
    }

    #[test]
    fn a100_each_process_that_allocates_huge_pages_counts_beside_a_fork() {
        for forked in [100, 140] {
            let sizes = workers(&[140; 5], &[forked; 10]);
            let all = [(1, &sizes[..], 501), (2, WORKERS, 9999), (3, &[300], 300)];
            assert_eq!(fitted(&all, 700), [300, 100, 300]);
        }
        let sizes = workers(&[], &[220]);
        assert_eq!(fitted(&[(1, &sizes, 501), SECOND, THIRD], 420), [220, 100, 100]);
        let sizes = workers(&[999], &[]);
        assert_eq!(fitted(&[(1, &sizes, 501), SECOND, THIRD], 500), [300, 100, 100], "200 were added");
    }

    #[test]
    fn a100_a_server_that_allocates_and_frees_again_and_again_does_not_count_with_what_others_allocate() {
        // The first server has caused page faults for much more memory than the container has added.
        let first = (1, WORKERS, 9999);
        assert_eq!(fitted(&[first, SECOND, (3, &[300], 300)], 500), [100, 100, 300]);
        assert_eq!(
            fitted(&[first, SECOND, (3, &[300], 300)], 540),
            [140, 100, 300],
            "nobody else has added 40"
        );
        // The second server allocates without a fork. The kernel reports this memory.
        let grown = workers(&[300], &[]);
        assert_eq!(fitted(&[first, (2, &grown, 700), THIRD], 500), [100, 300, 100]);
        // A new child, and the wrapper itself.
        assert_eq!(fitted(&[first, SECOND, THIRD, (4, &[200], 200)], 500), [100, 100, 100, 200]);
        assert_eq!(fitted_in(&measured(), &[first, SECOND, THIRD], 200, 500), [100, 100, 100]);
        // Memory that another child has freed is no growth of the rest.
        assert_eq!(fitted(&[first, SECOND], 200), [100, 100]);
    }

    #[test]
    fn a_measurement_is_due_when_a_part_of_the_memory_that_was_left_is_used() {
        let mut sharing = Sharing::default();
        assert!(sharing.is_outdated(kinds(1), 1000 << 20), "nothing has been measured");
        assert!(sharing.begin() && sharing.is_measuring());
        sharing.end(&HashMap::new(), kinds(500));
        let is_outdated = |anonymous, left: u64| sharing.is_outdated(kinds(anonymous), left << 20);
        assert!(!sharing.is_measuring());
        assert_eq!(
            [(500, 1), (400, 0), (550, 200), (551, 200)].map(|(all, left)| is_outdated(all, left)),
            [false, false, false, true]
        );
    }

    #[test]
    fn a100_who_cannot_be_measured_in_time_keeps_the_last_measurement_and_counts_with_what_it_writes() {
        let mut sharing = measured();
        let (now, _) = usage(&[(1, WORKERS, 650), SECOND, THIRD]);
        record(&mut sharing, &[(SECOND, 100), (THIRD, 100)], 450);
        sharing.end(&now, kinds(450));
        assert_eq!(fitted_in(&sharing, &[(1, WORKERS, 700), SECOND, THIRD], 0, 500), [300, 100, 100]);
        // A child that has exited is forgotten.
        sharing.end(&HashMap::new(), kinds(450));
        assert!(sharing.children.is_empty());
    }

    #[test]
    fn a100_files_in_memory_that_workers_share_count_once() {
        let of = |in_files, processes| Usage { memory: in_files + 10, in_files, processes, ..NONE };
        let mut sharing = Sharing::default();
        let before = Kinds { anonymous: 20, in_files: 360, ..Kinds::UNKNOWN };
        for (number, reported_in_files, in_files) in [(1, 1200, 60), (2, 300, 300)] {
            sharing.record(number, Part { reported_in_files, in_files, ..Part::default() }, 0, before);
        }
        let mut now = HashMap::from([(1, of(1200, 22)), (2, of(840, 3))]);
        let kinds = Kinds { anonymous: 20, in_files: 900, ..Kinds::UNKNOWN };
        sharing.fit(&mut now, &HashMap::new(), NONE, kinds);
        assert_eq!([1, 2].map(|number| (now[&number].in_files, now[&number].memory)), [(60, 70), (840, 850)]);
    }

    #[test]
    fn a100_files_that_somebody_hides_do_not_make_workers_count_with_the_same_memory_again() {
        let of = |in_files, processes| Usage { memory: in_files + 10, in_files, processes, ..NONE };
        // Three processes share 55, and 120 belong to no process.
        let kinds = Kinds { anonymous: 20, in_files: 175, ..Kinds::UNKNOWN };
        let is_shared = |usage| Sharing::is_shared(&HashMap::from([(1, usage)]), NONE, kinds);
        assert_eq!([of(165, 4), of(165, 2), of(0, 4)].map(is_shared), [true, false, false]);
        let mut sharing = Sharing::default();
        let part = Part { reported_in_files: 165, in_files: 55, ..Part::default() };
        sharing.record(1, part, 0, kinds);
        let fitted = |in_files| {
            let mut usage = HashMap::from([(1, of(in_files, 4)), (2, of(0, 2))]);
            sharing.fit(&mut usage, &HashMap::new(), NONE, kinds);
            (usage[&1].in_files, usage[&1].memory)
        };
        assert_eq!([165, 170, 40].map(fitted), [(55, 65), (60, 70), (40, 50)]);
    }

    #[test]
    fn a100_page_tables_count_for_each_process_but_not_more_than_the_container_has() {
        let of = |in_kernel, processes| Usage { memory: in_kernel + 10, in_kernel, processes, ..NONE };
        let fitted = |page_tables| {
            let mut usage = HashMap::from([(1, of(300, 2)), (2, of(100, 11)), (3, of(500, 4))]);
            Sharing::default().fit(&mut usage, &HashMap::new(), OWN, Kinds { page_tables, ..Kinds::UNKNOWN });
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
        Sharing::default().fit(
            &mut usage,
            &HashMap::new(),
            OWN,
            Kinds { anonymous: 30, in_files: 10, ..Kinds::UNKNOWN },
        );
        assert_eq!((usage[&1].memory, usage[&1].in_files), (30, 10));
    }
}
