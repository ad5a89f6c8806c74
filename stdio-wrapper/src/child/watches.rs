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

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;

pub use count::count_watches;
pub(super) use count::examine;

use super::relief::Held;

/// The memory that the kernel uses for a watch, in bytes (measured: `struct epitem` and `struct eppoll_entry`).
pub(super) const WATCH: u64 = 208;
/// The limit that is assumed if the machine's limit cannot be read.
const USUAL_LIMIT: u64 = 1 << 20;
/// If no watches are left, a user whose children have at least 1/`SUSPICIOUS` of the machine's watches counts
/// as the cause. On a machine with 1 GiB of memory, this is 3600 watches. An ordinary server has fewer, because
/// it needs one for each of its files.
const SUSPICIOUS: u64 = 64;

/// The result of counting the watches of one child, with all its processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Watches {
    /// The number of watches that were found.
    pub(super) found: u64,
    /// The number of places that might have further watches and could not be examined: files in transit over a
    /// socket, and processes that cannot be inspected or have too many files.
    pub(super) unknown: u64,
    /// The number of processes that exited before they were examined.
    pub(super) exited: u64,
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
/// children have the most. If no user has many, the watches are in places that cannot be examined, so a child
/// with such places is chosen. If there is none, no child is chosen, because the watches might belong to
/// another container whose processes have the same user id.
pub(super) fn choose(all: &[Held], watches: &HashMap<u64, Watches>, limit: u64) -> Option<Held> {
    let (found, held) = most(all, watches, |watches| watches.found)?;
    if found.saturating_mul(SUSPICIOUS) >= limit {
        return Some(held.clone());
    }
    let (unknown, held) = most(all, watches, |watches| watches.unknown)?;
    (unknown > 0).then(|| held.clone())
}

/// Finds the user whose children have the most. Returns this number, and the child of this user that has the
/// most.
fn most<'a>(
    all: &'a [Held],
    watches: &HashMap<u64, Watches>,
    of: fn(&Watches) -> u64,
) -> Option<(u64, &'a Held)> {
    let of_child = |one: &Held| watches.get(&one.child).map_or(0, of);
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

    fn chosen(children: &[(&str, u64, u64)]) -> Option<u64> {
        let number = |index: usize| u64::try_from(index).unwrap();
        let held = |(index, (user, ..)): (usize, &(&str, u64, u64))| Held {
            child: number(index),
            user: (*user).to_owned(),
            can_end: !user.is_empty(),
        };
        let all: Vec<Held> = children.iter().enumerate().map(held).collect();
        let watches = children.iter().enumerate().map(|(index, (_, found, unknown))| {
            (number(index), Watches { found: *found, unknown: *unknown, exited: 0 })
        });
        choose(&all, &watches.collect(), 64_000).map(|held| held.child)
    }

    #[test]
    fn a100_who_has_most_watches_loses_the_child_that_has_most_of_them() {
        assert_eq!(chosen(&[("ana", 900, 9), ("mallory", 400, 0), ("mallory", 601, 0)]), Some(2));
        assert_eq!(chosen(&[("mallory", 63_000, 0)]), Some(0), "also the last one");
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn a100_watches_that_nobody_finds_are_those_of_who_hides_something() {
        assert_eq!(chosen(&[("ana", 900, 0), ("mallory", 4, 1), ("bob", 20, 0)]), Some(1));
        assert_eq!(chosen(&[("ana", 900, 0), ("bob", 20, 0)]), None, "they are in another container");
        assert_eq!(chosen(&[("", 64_000, 1), ("bob", 20, 0)]), None, "it serves everybody");
    }

    #[test]
    fn a_kernel_that_has_watches_gives_them_back() {
        let probe = Probe::new().unwrap();
        assert!((0..3).all(|_| !probe.has_too_few_left()));
        assert!(limit() > 1000);
    }
}
