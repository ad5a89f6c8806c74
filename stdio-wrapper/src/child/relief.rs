//! Decides which children are ended when the memory or the processes of the container are nearly used up, or when
//! there is no room for a user who has no child. Without this, the kernel would end the process with the most
//! memory when none is left, whichever user it serves; and if no process were left, the servers of other users
//! could not start any.

use std::collections::{HashMap, HashSet};

use super::keepers::Newcomer;
use crate::capacity::{Excess, Measure, Usage};

/// A child that a keeper keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The number of the child.
    pub child: u64,
    /// The user whom it serves. It is empty if all callers are one principal, and for a child that serves
    /// everybody.
    pub user: String,
    /// Whether it can be ended because of its size. A child that serves everybody cannot.
    pub can_end: bool,
}

/// Chooses children whose end frees this much. It chooses the largest child of the user whose children use the
/// most, and repeats this. The last child is never chosen, because its end would help nobody else. No child is
/// chosen if children are not the cause: if their known usage is at most what must be freed, or less than half of
/// the used memory. The kernel also counts memory that belongs to no process, and a user who has hidden memory
/// there must not make others lose their children.
pub(super) fn choose(
    all: &[Held],
    usage: &HashMap<u64, Usage>,
    measure: Measure,
    Excess { used, over: excess }: Excess,
) -> Vec<Held> {
    let size = |one: &Held| size(one, usage, measure);
    let known: u64 = usage.values().map(|usage| measure.of(usage)).sum();
    let is_hidden = measure == Measure::Memory && known < used / 2;
    if excess == 0 || is_hidden || all.iter().map(size).sum::<u64>() <= excess {
        return Vec::new();
    }
    let mut left: Vec<&Held> = all.iter().collect();
    let (mut chosen, mut freed) = (Vec::new(), 0);
    while freed < excess && left.len() > 1 {
        let Some((_, index)) = largest_of_most(&left, usage, measure) else { break };
        let one = left.swap_remove(index);
        if !one.can_end || size(one) == 0 {
            break;
        }
        freed += size(one);
        chosen.push(one.clone());
    }
    chosen
}

/// Chooses a child to end for a newcomer who has no child, and for whom there is no room: the largest child of the
/// user whose children use the most, if that is more than `share`. This can be the last child.
pub(super) fn choose_for(
    newcomer: Newcomer<'_>,
    all: &[Held],
    usage: &HashMap<u64, Usage>,
    measure: Measure,
    share: u64,
) -> Option<Held> {
    let others: Vec<&Held> = all.iter().filter(|one| one.user != newcomer.user).collect();
    let (sum, index) = largest_of_most(&others, usage, measure)?;
    let one = others.get(index)?;
    (newcomer.has == 0 && one.can_end && sum > share).then(|| (*one).clone())
}

/// The number of users, including the newcomer.
pub(super) fn users(all: &[Held], newcomer: Newcomer<'_>) -> usize {
    all.iter().map(|one| one.user.as_str()).chain([newcomer.user]).collect::<HashSet<&str>>().len()
}

fn size(one: &Held, usage: &HashMap<u64, Usage>, measure: Measure) -> u64 {
    usage.get(&one.child).map_or(0, |usage| measure.of(usage))
}

/// The usage of the children of the user who uses the most, and the index of the largest of these children.
fn largest_of_most(all: &[&Held], usage: &HashMap<u64, Usage>, measure: Measure) -> Option<(u64, usize)> {
    let mut sums: HashMap<&str, u64> = HashMap::new();
    for one in all {
        *sums.entry(one.user.as_str()).or_default() += size(one, usage, measure);
    }
    // The name only decides between users with the same sum.
    let (most, sum) = sums.into_iter().max_by_key(|(user, sum)| (*sum, *user))?;
    let of_user = all.iter().enumerate().filter(|(_, one)| one.user == most);
    of_user.max_by_key(|(_, one)| size(one, usage, measure)).map(|(index, _)| (sum, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(children: &[(u64, &str)]) -> Vec<Held> {
        children
            .iter()
            .map(|(child, user)| Held { child: *child, user: (*user).to_owned(), can_end: true })
            .collect()
    }

    fn usage(children: &[(u64, u64)]) -> HashMap<u64, Usage> {
        children.iter().map(|(child, memory)| (*child, Usage { memory: *memory, tasks: 1 })).collect()
    }

    /// An excess of this amount, where the children use everything.
    fn over(over: u64) -> Excess {
        Excess { used: over, over }
    }

    fn numbers(chosen: &[Held]) -> Vec<u64> {
        chosen.iter().map(|one| one.child).collect()
    }

    #[test]
    fn a100_who_holds_most_memory_loses_the_largest_child_until_somebody_else_holds_more() {
        let all = held(&[(1, "bob"), (2, "mallory"), (3, "mallory"), (4, "mallory"), (5, "ana")]);
        let usage = usage(&[(1, 90), (2, 70), (3, 80), (4, 60), (5, 30)]);
        assert_eq!(numbers(&choose(&all, &usage, Measure::Memory, over(0))), [0_u64; 0]);
        assert_eq!(numbers(&choose(&all, &usage, Measure::Memory, over(10))), [3]);
        assert_eq!(numbers(&choose(&all, &usage, Measure::Memory, over(81))), [3, 2]);
        // Bob has the largest child now, and what he holds is most.
        assert_eq!(numbers(&choose(&all, &usage, Measure::Memory, over(151))), [3, 2, 1]);
    }

    #[test]
    fn nobody_loses_a_child_that_is_the_last_or_serves_everybody_or_if_children_are_not_what_is_large() {
        let usage = usage(&[(1, 90), (2, 40)]);
        assert_eq!(choose(&held(&[(1, "ana")]), &usage, Measure::Memory, over(10)), []);
        assert_eq!(choose(&held(&[(1, "ana"), (2, "bob")]), &usage, Measure::Memory, over(130)), []);
        assert_eq!(
            numbers(&choose(&held(&[(1, "ana"), (2, "bob")]), &usage, Measure::Memory, over(129))),
            [1]
        );
        let mut all = held(&[(1, ""), (2, "bob")]);
        all[0].can_end = false;
        assert_eq!(choose(&all, &usage, Measure::Memory, over(10)), []);
        assert_eq!(
            choose(&held(&[(7, "ana"), (8, "bob")]), &usage, Measure::Memory, over(10)),
            [],
            "nothing is known of them"
        );
    }

    #[test]
    fn a100_memory_that_no_child_is_known_to_hold_costs_nobody_a_session() {
        let all = held(&[(1, "bob"), (2, "ana"), (3, "mallory")]);
        let usage = usage(&[(1, 70), (2, 15), (3, 5)]);
        let excess = |used| Excess { used, over: 10 };
        assert_eq!(choose(&all, &usage, Measure::Memory, excess(900)), []);
        assert_eq!(choose(&all, &usage, Measure::Memory, excess(182)), []);
        assert_eq!(numbers(&choose(&all, &usage, Measure::Memory, excess(180))), [1]);
    }

    #[test]
    fn a100_what_is_short_is_what_counts() {
        let all = held(&[(1, "ana"), (2, "mallory"), (3, "bob")]);
        let of = |memory, tasks| Usage { memory, tasks };
        let usage = HashMap::from([(1, of(900, 2)), (2, of(10, 230)), (3, of(20, 3))]);
        assert_eq!(numbers(&choose(&all, &usage, Measure::Tasks, over(16))), [2]);
        assert_eq!(numbers(&choose(&all, &usage, Measure::Memory, over(16))), [1]);
    }

    #[test]
    fn a100_who_has_nothing_gets_the_room_of_who_holds_more_than_a_share_also_that_of_the_last_child() {
        let usage = usage(&[(1, 60), (2, 50), (3, 100), (4, 5)]);
        let new = Newcomer { user: "new", has: 0 };
        let chosen = |all: &[(u64, &str)], newcomer, share| {
            choose_for(newcomer, &held(all), &usage, Measure::Memory, share).map(|one| one.child)
        };
        let all = [(1, "mallory"), (2, "mallory"), (3, "ana"), (4, "bob")];
        assert_eq!(chosen(&all, new, 109), Some(1));
        assert_eq!(chosen(&all, new, 110), None, "nobody holds more");
        assert_eq!(chosen(&[(3, "ana")], new, 50), Some(3));
        assert_eq!(chosen(&[(3, "ana")], Newcomer { user: "ana", has: 0 }, 50), None, "one's own");
        assert_eq!(chosen(&[(3, "ana")], Newcomer { user: "new", has: 1 }, 50), None, "has one already");
        assert_eq!(chosen(&[(3, "ana")], Newcomer::ANYBODY, 50), Some(3), "for a child for everybody");
        let mut shared = held(&[(3, ""), (4, "bob")]);
        shared[0].can_end = false;
        assert_eq!(choose_for(new, &shared, &usage, Measure::Memory, 50), None, "it serves everybody");
        assert_eq!((users(&held(&all), new), users(&held(&all), Newcomer { user: "ana", has: 0 })), (4, 3));
    }
}
