//! Watches of epoll instances (`epoll(7)`). The kernel counts them per user id on the whole machine, and
//! refuses further ones beyond `fs.epoll.max_user_watches` (by default, watches can use a 25th of the machine's
//! memory). The wrapper needs one for each connection and one for each pipe of a child. A child with the same
//! user id can use up all of them.
//!
//! The limit on a child's open files does not limit its watches: an instance can watch the same file under each
//! number that the file has ever had, as long as the file is open under one of them.

mod count;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;

pub use count::count_watches;
pub(super) use count::examine;

use super::keepers::Held;
use super::times::{Spent, TICK};

/// The memory that the kernel uses for a watch, in bytes (measured: `struct epitem` and `struct eppoll_entry`).
pub(super) const WATCH: u64 = 208;
/// The limit that is assumed if the machine's limit cannot be read.
const USUAL_LIMIT: u64 = 1 << 20;
/// If no watches are left, a user whose children have at least 1/`SUSPICIOUS` of the machine's watches counts
/// as the cause. On a machine with 1 GiB of memory, this is 3600 watches. An ordinary server has fewer, because
/// it needs one for each of its files.
const SUSPICIOUS: u64 = 64;
/// The minimum processor time needed to create a watch. A machine from 2026 needed 0.6 µs, nearly all of it system
/// time. A faster machine might need less.
const COST: Duration = Duration::from_nanos(100);

/// What is known about the children when no watches are left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence<'a> {
    /// The number of watches that were found, by child.
    pub(super) found: &'a HashMap<u64, u64>,
    /// The processor time of each child.
    pub(super) spent: &'a HashMap<u64, Spent>,
    /// The memory of this container that belongs to no process, in bytes, if it is known. It includes the memory of
    /// the watches.
    pub(super) in_kernel: Option<u64>,
    /// The maximum number of watches per user id.
    pub(super) limit: u64,
}

impl Evidence<'_> {
    /// The number of watches that are in use but have not been found.
    fn missing(&self) -> u64 {
        self.limit.saturating_sub(self.found.values().sum())
    }

    /// Whether the watches that were not found can belong to this container. `None` if this is unknown.
    fn can_be_here(&self) -> Option<bool> {
        self.in_kernel.map(|used| used >= self.missing().saturating_mul(WATCH) / 2)
    }

    /// The minimum processor time that was needed to create the watches that have not been found, in units of
    /// [`TICK`].
    fn cost(&self) -> u64 {
        let cost = u128::from(self.missing()) * COST.as_nanos() / TICK.as_nanos();
        u64::try_from(cost).unwrap_or(u64::MAX).max(1)
    }
}

/// A probe takes `SIDE` times `SIDE` watches for a moment. If fewer are free, they count as used up. One start of
/// a child needs several, and a child could otherwise leave just one free, so that nobody would notice.
const SIDE: usize = 8;

/// Tests whether the kernel still grants watches to this user id.
#[derive(Debug)]
pub(super) struct Probe {
    instances: Vec<OwnedFd>,
    files: Vec<OwnedFd>,
}

impl Probe {
    pub(super) fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            instances: (0..SIDE)
                .map(|_| epoll::create(epoll::CreateFlags::CLOEXEC))
                .collect::<Result<_, _>>()?,
            files: (0..SIDE).map(|_| eventfd(0, EventfdFlags::CLOEXEC)).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn has_too_few_left(&self) -> bool {
        let pairs =
            || self.instances.iter().flat_map(|epoll| self.files.iter().map(move |file| (epoll, file)));
        let add =
            |(epoll, file)| epoll::add(epoll, file, epoll::EventData::new_u64(0), epoll::EventFlags::IN);
        let is_refused = pairs().any(|pair| add(pair) == Err(Errno::NOSPC));
        for (epoll, file) in pairs() {
            let _ = epoll::delete(epoll, file);
        }
        is_refused
    }
}

/// The maximum number of watches per user id.
pub(super) fn limit() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/fs/epoll/max_user_watches").ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL_LIMIT)
}

/// Chooses the child to stop when no watches are left: the child with the most watches of the user whose
/// children have the most. If no user has many, the watches are in places where they cannot be counted. For
/// example, a program that waits in a system call keeps its files although it has closed them.
///
/// Creating so many watches takes much processor time, so the user whose children have spent the most is chosen, and
/// of these children the one that has spent the most. The comparison uses recent system time. If no user has spent
/// enough of it, it uses all system time, and then all processor time. If no user has spent enough of that either,
/// a child is chosen only if the memory shows that the watches are in this container. If the memory shows that they
/// are in another container, no child is chosen.
pub(super) fn choose(all: &[Held], evidence: Evidence<'_>) -> Option<Held> {
    let (sum, held) = most(all, |child| evidence.found.get(&child).copied())?;
    if sum.saturating_mul(SUSPICIOUS) >= evidence.limit {
        return Some(held.clone());
    }
    if evidence.can_be_here() == Some(false) {
        return None;
    }
    let by_time = |of: fn(&Spent) -> u64| most(all, |child| evidence.spent.get(&child).map(of));
    let cost = evidence.cost();
    let kinds: [fn(&Spent) -> u64; 3] = [|spent| spent.recent, |spent| spent.system, |spent| spent.total];
    let chosen = kinds.into_iter().filter_map(by_time).find(|(sum, _)| *sum >= cost);
    // The time of processes for which no process waits is not known completely, so the child might have spent more
    // time than is known.
    let chosen =
        chosen.or_else(|| by_time(|spent| spent.total).filter(|_| evidence.can_be_here() == Some(true)));
    chosen.filter(|(sum, _)| *sum > 0).map(|(_, held)| held.clone())
}

/// Finds the user whose children have the most. Returns this number, and the child of this user that has the
/// most.
fn most(all: &[Held], of: impl Fn(u64) -> Option<u64>) -> Option<(u64, &Held)> {
    let of_child = |one: &Held| of(one.child).unwrap_or_default();
    let mut sums: HashMap<&str, u64> = HashMap::new();
    for one in all.iter().filter(|one| one.can_end) {
        *sums.entry(one.user.as_str()).or_default() += of_child(one);
    }
    // The name is only a tie-breaker between users with the same sum.
    let (user, sum) = sums.into_iter().max_by_key(|(user, sum)| (*sum, *user))?;
    let of_user = all.iter().filter(|one| one.can_end && one.user == user);
    Some((sum, of_user.max_by_key(|one| of_child(one))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 64_000;

    /// The number of the chosen child. Each child has a user, a number of watches that were found, and the time that it
    /// has spent.
    fn chosen(children: &[(&str, u64, Spent)], in_kernel: Option<u64>) -> Option<u64> {
        let mut all = Vec::new();
        let (mut found, mut spent) = (HashMap::new(), HashMap::new());
        for ((user, watches, time), child) in children.iter().zip(0..) {
            all.push(Held { child, user: (*user).to_owned(), can_end: !user.is_empty() });
            found.insert(child, *watches);
            spent.insert(child, *time);
        }
        choose(&all, Evidence { found: &found, spent: &spent, in_kernel, limit: LIMIT })
            .map(|held| held.child)
    }

    fn spent(recent: u64, system: u64, total: u64) -> Spent {
        Spent { recent, system, total, faults: 0 }
    }

    #[test]
    fn a100_who_has_most_watches_loses_the_child_that_has_most_of_them() {
        let (busy, none) = (spent(9, 9, 9), spent(0, 0, 0));
        let all = [("ana", 900, busy), ("mallory", 400, none), ("mallory", 601, none)];
        assert_eq!(chosen(&all, Some(0)), Some(2));
        assert_eq!(chosen(&[("mallory", 63_000, none)], None), Some(0), "also the last one");
        assert_eq!(chosen(&[], None), None);
    }

    #[test]
    fn a100_who_has_spent_the_time_that_hidden_watches_cost_loses_the_child() {
        let ana = ("ana", 900, spent(2, 300, 900));
        let none = spent(0, 0, 0);
        assert_eq!(chosen(&[ana, ("mallory", 4, spent(3, 3, 3))], None), Some(1), "most system time of late");
        assert_eq!(chosen(&[("bob", 900, none), ("mallory", 4, spent(0, 3, 3))], None), Some(1), "long ago");
        assert_eq!(chosen(&[("bob", 900, none), ("mallory", 4, spent(0, 0, 3))], None), Some(1), "unnoticed");
        assert_eq!(chosen(&[("bob", 900, none)], None), None, "nobody has spent the time");
        assert_eq!(
            chosen(&[("", 64_000, spent(9, 9, 9)), ("bob", 20, none)], None),
            None,
            "it serves everybody"
        );
    }

    #[test]
    fn nobody_is_stopped_for_watches_whose_memory_is_in_another_container() {
        let all = [("ana", 0, spent(9, 9, 9))];
        let memory = LIMIT * WATCH / 2;
        assert_eq!((chosen(&all, Some(memory - 1)), chosen(&all, Some(memory))), (None, Some(0)));
    }

    #[test]
    fn a100_if_the_memory_is_here_and_nobody_seems_to_have_spent_the_time_who_has_spent_most_is_stopped() {
        let evidence = |limit, in_kernel| {
            let all = [Held { child: 1, user: "mallory".to_owned(), can_end: true }];
            let spent = HashMap::from([(1, spent(1, 1, 1))]);
            let evidence = Evidence { found: &HashMap::new(), spent: &spent, in_kernel, limit };
            choose(&all, evidence).is_some()
        };
        assert!(evidence(1_000_000, Some(1 << 30)) && !evidence(1_000_000, None));
    }

    #[test]
    fn a_kernel_that_has_watches_gives_them_back() {
        let probe = Probe::new().unwrap();
        assert!((0..3).all(|_| !probe.has_too_few_left()));
        assert!(limit() > 1000);
    }
}
