//! Charges memory that belongs to no process to the children that can have it, as far as their mappings and open files
//! show. The kernel does not tell how much of such a file is used, so a part of the memory can be charged to the wrong
//! child, if several children can have it.

use std::collections::HashMap;

use super::open_files::Possible;
use crate::capacity::{Kinds, Usage};

/// Charges hidden memory, in bytes. `usage` contains what is known about files in memory.
pub(super) fn charge(
    hidden: u64,
    kinds: Kinds,
    possible: &HashMap<u64, Possible>,
    usage: &mut HashMap<u64, Usage>,
) {
    let known: u64 = usage.values().map(|usage| usage.in_files).sum();
    let in_files = hidden.min(kinds.in_files.saturating_sub(known));
    let most = |(number, usage): (&u64, &Usage)| {
        let possible = possible.get(number).copied().unwrap_or_default();
        (*number, possible.in_files.saturating_sub(usage.in_files))
    };
    let shares = shares(in_files, usage.iter().map(most).collect());
    let charged: u64 = shares.iter().map(|(_, share)| share).sum();
    for (number, share) in shares {
        if let Some(usage) = usage.get_mut(&number) {
            usage.memory = usage.memory.saturating_add(share);
            usage.in_files = usage.in_files.saturating_add(share);
        }
    }
    // The kernel counts secret memory neither as anonymous nor as memory in files.
    let most =
        usage.keys().map(|number| (*number, possible.get(number).map_or(0, |possible| possible.secret)));
    for (number, share) in self::shares(hidden - charged, most.collect()) {
        if let Some(usage) = usage.get_mut(&number) {
            usage.add_in_kernel(share);
        }
    }
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
            .map(|(number, in_files, secret)| (*number, Possible { in_files: *in_files, secret: *secret }))
            .collect()
    }

    fn charged(hidden: u64, possible: &HashMap<u64, Possible>) -> [(u64, u64, u64); 3] {
        let mut usage = usage(&[(1, 30), (2, 0), (3, 20)]);
        charge(hidden, Kinds { in_files: 850, ..Kinds::UNKNOWN }, possible, &mut usage);
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
    fn a100_secret_memory_is_charged_as_memory_that_is_in_no_file() {
        assert_eq!(charged(400, &possible(&[(2, 0, 300)])), [(40, 30, 0), (310, 0, 300), (30, 20, 0)]);
        assert_eq!(charged(900, &possible(&[(2, 900, 300)])), [(40, 30, 0), (910, 800, 100), (30, 20, 0)]);
    }
}
