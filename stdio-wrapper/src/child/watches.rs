//! Watches of epoll instances (`epoll(7)`). The kernel counts them for each user id on the whole machine, and refuses further
//! ones beyond `fs.epoll.max_user_watches` (a 25th of the memory of the machine). The wrapper needs one for each connection,
//! and for each pipe of a child. A child, which has the same user id, can use them all up.
//!
//! The number of open files of a child is no limit for its watches: an instance can watch the same file under each number
//! that the file ever had, as long as it is open under one of them.

mod count;

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;

pub use count::count_watches;
pub(super) use count::examine;

use super::relief::Held;

/// The memory that the kernel takes for a watch, in bytes, as measured (`struct epitem` and `struct eppoll_entry`).
pub(super) const WATCH: u64 = 208;
/// The number of watches of the machine. It is only used if it cannot be read.
const USUAL_LIMIT: u64 = 1 << 20;
/// A user whose children have this part of the watches of the machine is taken for the cause if there are none left. A server
/// needs one for each of its files, so this is more than it has, also on a machine with 1 GiB of memory (3600).
const SUSPICIOUS: u64 = 64;

/// What is known about the watches of one child, with all its processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Watches {
    /// The number of those that were found.
    pub(super) found: u64,
    /// The number of places where further ones might be and that could not be looked at: files on their way over a socket, and
    /// processes that do not let others look at them or have too many files.
    pub(super) unknown: u64,
}

/// Finds out whether the kernel still gives watches to this user id.
#[derive(Debug)]
pub(super) struct Probe {
    epoll: OwnedFd,
    file: OwnedFd,
}

impl Probe {
    pub(super) fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            file: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }

    pub(super) fn has_none_left(&self) -> bool {
        let added = epoll::add(&self.epoll, &self.file, epoll::EventData::new_u64(0), epoll::EventFlags::IN);
        if added.is_ok() {
            let _ = epoll::delete(&self.epoll, &self.file);
        }
        added == Err(Errno::NOSPC)
    }
}

/// The maximum number of watches of one user id.
pub(super) fn limit() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/fs/epoll/max_user_watches").ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL_LIMIT)
}

/// Chooses the child that is ended if there are no watches left: the one with most of them, of the user whose children have
/// most. If no user has many, they are where nobody can look, so it is a child that has hidden something, or none if nobody
/// has: they can also be in another container whose processes have the same user id.
pub(super) fn choose(all: &[Held], watches: &HashMap<u64, Watches>, limit: u64) -> Option<Held> {
    let (found, held) = most(all, watches, |watches| watches.found)?;
    if found.saturating_mul(SUSPICIOUS) >= limit {
        return Some(held.clone());
    }
    let (unknown, held) = most(all, watches, |watches| watches.unknown)?;
    (unknown > 0).then(|| held.clone())
}

/// The user whose children have most, how many these are, and the child of this user that has most.
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
    // The name only decides between users with the same sum.
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
            (number(index), Watches { found: *found, unknown: *unknown })
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
        assert!((0..3).all(|_| !probe.has_none_left()));
        assert!(limit() > 1000);
    }
}
