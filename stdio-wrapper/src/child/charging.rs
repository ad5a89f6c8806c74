//! Charges memory that belongs to no process to the children that can have it, as far as their mappings and open files
//! show. The kernel does not tell how much of such a file is used, so a part of the memory can be charged to the wrong
//! child, if several children can have it.

use std::collections::HashMap;

use super::keepers::Held;
use super::open_files::Possible;
use super::times::Spent;
use crate::capacity::{Kinds, Usage};

/// The most memory that a child can fill within a unit of processor time ([`super::times::TICK`]), in bytes. A machine from
/// 2026 filled half of it.
const FASTEST: u64 = 64 << 20;
/// A user must have spent this many times the processor time of any other user to be charged because of it.
const CLEARLY: u64 = 2;

/// Charges hidden memory, in bytes. `usage` contains what is known about files in memory. A child can map much more
/// shared memory than it uses, so it is charged with at most the pages that it can have written to. Only if the memory
/// `is_urgent`, it is then charged with all that it maps.
pub(super) fn charge(
    hidden: u64,
    is_urgent: bool,
    kinds: Kinds,
    possible: &HashMap<u64, Possible>,
    usage: &mut HashMap<u64, Usage>,
) {
    let known: u64 = usage.values().map(|usage| usage.in_files).sum();
    let in_files = hidden.min(kinds.in_files.saturating_sub(known));
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(u64::MAX);
    let written = |possible: Possible, usage: &Usage| {
        possible.in_files.saturating_add(possible.without_file.min(usage.faults.saturating_mul(page)))
    };
    let mapped = |possible: Possible, _: &Usage| possible.in_files.saturating_add(possible.without_file);
    let mut charged = charge_files(in_files, possible, usage, written);
    // The pages of one fault can be huge, and the faults of a process that nobody has seen are unknown. But most children
    // with large mappings hardly use them, so this can be the wrong child.
    if is_urgent {
        charged += charge_files(in_files - charged, possible, usage, mapped);
    }
    // The kernel counts secret memory neither as anonymous nor as memory in files.
    let most =
        usage.keys().map(|number| (*number, possible.get(number).map_or(0, |possible| possible.secret)));
    for (number, share) in shares(hidden - charged, most.collect()) {
        if let Some(usage) = usage.get_mut(&number) {
            usage.add_in_kernel(share);
        }
    }
}

/// Charges hidden memory, in bytes, of which nothing shows where it is (for example, it can be in full sockets), to the
/// child that must have filled it: that takes system time. If no user has recently spent enough of it and clearly more
/// than any other, nobody is charged.
pub(super) fn charge_by_time(
    hidden: u64,
    all: &[Held],
    spent: &HashMap<u64, Spent>,
    usage: &mut HashMap<u64, Usage>,
) {
    let recent = |one: &Held| spent.get(&one.child).map_or(0, |spent| spent.recent);
    let mut sums: HashMap<&str, u64> = HashMap::new();
    for one in all {
        *sums.entry(one.user.as_str()).or_default() += recent(one);
    }
    let mut sums: Vec<(u64, &str)> = sums.into_iter().map(|(user, sum)| (sum, user)).collect();
    sums.sort_unstable_by(|one, other| other.cmp(one));
    let Some((most, user)) = sums.first().copied() else { return };
    let next = sums.get(1).map_or(0, |(sum, _)| *sum);
    if most < (hidden / FASTEST).max(1) || most < next.saturating_mul(CLEARLY) {
        return;
    }
    let child = all.iter().filter(|one| one.user == user).max_by_key(|one| recent(one));
    if let Some(usage) = child.and_then(|one| usage.get_mut(&one.child)) {
        usage.add_in_kernel(hidden);
    }
}

/// Charges memory of files to children that can have at most this much of it. Returns how much has been charged.
fn charge_files(
    in_files: u64,
    possible: &HashMap<u64, Possible>,
    usage: &mut HashMap<u64, Usage>,
    at_most: impl Fn(Possible, &Usage) -> u64,
) -> u64 {
    let most = |(number, usage): (&u64, &Usage)| {
        let possible = possible.get(number).copied().unwrap_or_default();
        (*number, at_most(possible, usage).saturating_sub(usage.in_files))
    };
    let shares = shares(in_files, usage.iter().map(most).collect());
    for (number, share) in &shares {
        if let Some(usage) = usage.get_mut(number) {
            usage.add_in_files(*share);
        }
    }
    shares.iter().map(|(_, share)| share).sum()
}

/// Divides an amount equally among children, each of which can have at most this much. Therefore a child with a large
/// mapping that it hardly uses is charged with no more than a child that hides memory.
fn shares(mut amount: u64, mut most: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    most.retain(|(_, most)| *most > 0);
    most.sort_unstable_by_key(|(number, most)| (*most, *number));
    let mut left = u64::try_from(most.len()).unwrap_or(u64::MAX);
    for (_, most) in &mut most {
        *most = (amount / left.max(1)).min(*most);
        amount -= *most;
        left -= 1;
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(in_files: &[(u64, u64)]) -> HashMap<u64, Usage> {
        let of = |in_files| Usage { memory: in_files + 10, in_files, ..Usage::default() };
        in_files.iter().map(|(number, in_files)| (*number, of(*in_files))).collect()
    }

    fn possible(all: &[(u64, u64, u64)]) -> HashMap<u64, Possible> {
        all.iter()
            .map(|(number, in_files, secret)| {
                let (in_files, secret) = (*in_files, *secret);
                (*number, Possible { in_files, secret, ..Possible::default() })
            })
            .collect()
    }

    fn charged(hidden: u64, possible: &HashMap<u64, Possible>) -> [(u64, u64, u64); 3] {
        let mut usage = usage(&[(1, 30), (2, 0), (3, 20)]);
        charge(hidden, false, Kinds { in_files: 850, ..Kinds::UNKNOWN }, possible, &mut usage);
        [1, 2, 3].map(|number| (usage[&number].memory, usage[&number].in_files, usage[&number].in_kernel))
    }

    #[test]
    fn a100_who_maps_hidden_memory_is_charged_with_it() {
        let possible = possible(&[(1, 35, 0), (2, 900, 0), (8, 900, 0)]);
        // The first child can have only 5 more than is known.
        assert_eq!(charged(805, &possible), [(45, 35, 0), (805, 795, 0), (30, 20, 0)]);
        assert_eq!(charged(0, &possible), [(40, 30, 0), (10, 0, 0), (30, 20, 0)]);
        assert_eq!(charged(805, &HashMap::new()), charged(0, &possible));
        // At most 800 of the hidden memory is in files.
        assert_eq!(charged(9000, &possible), charged(800, &possible));
    }

    #[test]
    fn a100_who_maps_more_than_it_uses_is_charged_with_no_more_than_another_one() {
        let possible = possible(&[(1, u64::MAX, 0), (2, 900, 0), (3, 40, 0)]);
        assert_eq!(charged(800, &possible), [(430, 420, 0), (400, 390, 0), (50, 40, 0)]);
    }

    #[test]
    fn a100_who_hardly_writes_to_its_shared_memory_is_not_charged_with_what_another_child_hides() {
        let page = rustix::param::page_size() as u64;
        let without_file = |bytes| Possible { without_file: bytes, ..Possible::default() };
        let in_file = |bytes| Possible { in_files: bytes, ..Possible::default() };
        let charged_if = |is_urgent, hidden, hides: Possible, faults: u64| {
            let of = |faults| Usage { memory: page, faults, ..Usage::default() };
            let mut usage = HashMap::from([(1, of(30)), (2, of(faults))]);
            let possible = HashMap::from([(1, without_file(9000 * page)), (2, hides)]);
            charge(hidden * page, is_urgent, Kinds::UNKNOWN, &possible, &mut usage);
            [1, 2].map(|number| usage[&number].in_files / page)
        };
        let charged = |hidden, hides, faults| charged_if(false, hidden, hides, faults);
        assert_eq!(charged(400, without_file(500 * page), 600), [30, 370]);
        // A file can be filled without any page fault.
        assert_eq!(charged(400, in_file(500 * page), 0), [30, 370]);
        // Somebody has written to these pages, but the faults do not show who.
        assert_eq!(charged(400, without_file(500 * page), 10), [30, 10]);
        assert_eq!(charged_if(true, 400, without_file(500 * page), 10), [210, 190]);
        assert_eq!(charged(20, without_file(500 * page), 600), [10, 10]);
    }

    #[test]
    fn a100_secret_memory_is_charged_as_memory_that_is_in_no_file() {
        assert_eq!(charged(400, &possible(&[(2, 0, 300)])), [(40, 30, 0), (310, 0, 300), (30, 20, 0)]);
        assert_eq!(charged(900, &possible(&[(2, 900, 300)])), [(40, 30, 0), (910, 800, 100), (30, 20, 0)]);
    }

    #[test]
    fn a100_memory_that_nothing_shows_is_charged_to_who_has_clearly_spent_the_time_to_fill_it() {
        let all: Vec<Held> = [(1, "bob"), (2, "mallory"), (3, "mallory")]
            .map(|(child, user)| Held { child, user: user.to_owned(), can_end: true })
            .to_vec();
        let charged = |recent: [u64; 3], hidden| {
            let mut usage = usage(&[(1, 0), (2, 0), (3, 0)]);
            let spent =
                (1..).zip(recent).map(|(child, recent)| (child, Spent { recent, ..Spent::default() }));
            charge_by_time(hidden, &all, &spent.collect(), &mut usage);
            [1, 2, 3].map(|number| usage[&number].in_kernel / FASTEST)
        };
        assert_eq!(charged([10, 5, 15], 20 * FASTEST), [0, 0, 20]);
        assert_eq!(charged([11, 6, 15], 20 * FASTEST), [0, 0, 0], "bob has been busy as well");
        assert_eq!(
            charged([10, 5, 15], 21 * FASTEST),
            [0, 0, 0],
            "nobody can have filled so much in this time"
        );
        assert_eq!(charged([0, 0, 0], FASTEST), [0, 0, 0]);
    }
}
