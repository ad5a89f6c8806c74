//! The typical size of a child, learned from children that have run for a while.

use super::{ASSUMED, LEAST_MEMORY, Measure, Usage};

/// The expected size of the next child. `known` is the size learned so far. With two or more children, it is
/// their lower median, separately for each measure. A single child counts only if it is smaller than `known`,
/// so that one large child does not prevent small children from being started.
pub(super) fn typical(known: Usage, settled: &[Usage]) -> Usage {
    let learnt = |measure: Measure| {
        let mut all: Vec<u64> = settled.iter().map(|child| measure.of(child)).collect();
        all.sort_unstable();
        let known = measure.of(&known);
        match all.as_slice() {
            [] => known,
            [only] => known.min(*only),
            [.., _] => all.get((all.len() - 1) / 2).copied().unwrap_or(known),
        }
    };
    // Some kernels do not report the usage of a process, and a process that has exited uses nothing.
    Usage {
        memory: learnt(Measure::Memory).max(LEAST_MEMORY),
        tasks: learnt(Measure::Tasks).max(1),
        ..Usage::default()
    }
}

/// How much each of this number of users can use while there is no room for a user without a child. It is an
/// equal share of the part that children can use, but at least what `few` children of typical size need. Here
/// the typical size is capped at [`ASSUMED`], because a user who fills the container can make most of its
/// children large.
pub(super) fn share(measure: Measure, most: u64, typical: Usage, users: usize, few: usize) -> u64 {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let equal = most.saturating_sub(measure.kept_free(most)) / count(users).max(1);
    let ordinary = measure.of(&typical).min(measure.of(&ASSUMED));
    equal.max(ordinary.saturating_mul(count(few)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn usage(mib: u64, tasks: u64) -> Usage {
        Usage { memory: mib * MIB, tasks, ..Usage::default() }
    }

    #[test]
    fn a100_one_child_that_has_grown_does_not_make_newcomers_look_larger() {
        assert_eq!(typical(ASSUMED, &[usage(900, 240)]), ASSUMED);
        assert_eq!(typical(usage(10, 2), &[usage(900, 240)]), usage(10, 2), "the earlier value is kept");
        assert_eq!(typical(ASSUMED, &[usage(10, 240)]), usage(10, ASSUMED.tasks), "each measure separately");
        assert_eq!(typical(ASSUMED, &[usage(900, 240), usage(10, 2)]), usage(10, 2));
        assert_eq!(typical(ASSUMED, &[usage(9, 2), usage(900, 3), usage(11, 240)]), usage(11, 3));
    }

    #[test]
    fn children_that_are_large_from_the_start_are_learnt_from_two_on_and_remembered() {
        let large = typical(ASSUMED, &[usage(300, 30), usage(310, 31)]);
        assert_eq!(large, usage(300, 30));
        assert_eq!(typical(large, &[]), large);
        assert_eq!(typical(large, &[usage(310, 31)]), large);
        assert_eq!(
            typical(ASSUMED, &[usage(0, 0), usage(0, 0)]),
            usage(4, 1),
            "the use of these children is unknown"
        );
    }

    #[test]
    fn a_user_may_hold_an_equal_part_and_a_few_ordinary_children_in_any_case() {
        let tasks = |typical, users| share(Measure::Tasks, 256, typical, users, 4);
        assert_eq!(tasks(usage(10, 2), 2), 112);
        assert_eq!(tasks(usage(10, 2), 100), 8);
        assert_eq!(tasks(usage(10, 120), 100), 36, "children that have grown do not count");
        assert_eq!(share(Measure::Memory, 1 << 30, usage(10, 2), 2, 4), 448 * MIB);
    }
}
