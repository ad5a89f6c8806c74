//! Which children are ended when the memory of the container is nearly used up. Without this, the kernel would end one when
//! there is none left, and it takes the process with most memory, whoever uses it.

use std::collections::HashMap;

use crate::capacity::Usage;

/// A child that somebody keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The number of the child.
    pub child: u64,
    /// The user whom it serves. It is empty if callers are not told apart, and for a child that serves everybody.
    pub user: String,
    /// Whether it can be ended for memory. A child that serves everybody cannot.
    pub can_end: bool,
}

/// Chooses children whose end gives back this number of bytes: of the user whose children hold most memory, the largest one, and
/// so on. The last child stays, because its end would help nobody else, and none is chosen if children are not what
/// fills the memory.
pub(super) fn choose(all: &[Held], usage: &HashMap<u64, Usage>, bytes: u64) -> Vec<Held> {
    let memory = |one: &Held| usage.get(&one.child).map_or(0, |usage| usage.memory);
    if bytes == 0 || all.iter().map(memory).sum::<u64>() <= bytes {
        return Vec::new();
    }
    let mut left: Vec<&Held> = all.iter().collect();
    let (mut chosen, mut freed) = (Vec::new(), 0);
    while freed < bytes && left.len() > 1 {
        let mut sums: HashMap<&str, u64> = HashMap::new();
        for one in &left {
            *sums.entry(one.user.as_str()).or_default() += memory(one);
        }
        // The name only decides between users with the same sum.
        let Some(most) = sums.into_iter().max_by_key(|(user, sum)| (*sum, *user)).map(|(user, _)| user)
        else {
            break;
        };
        let of_user = left.iter().enumerate().filter(|(_, one)| one.user == most);
        let Some(largest) = of_user.max_by_key(|(_, one)| memory(one)).map(|(index, _)| index) else { break };
        let one = left.swap_remove(largest);
        if !one.can_end || memory(one) == 0 {
            break;
        }
        freed += memory(one);
        chosen.push(one.clone());
    }
    chosen
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

    fn numbers(chosen: &[Held]) -> Vec<u64> {
        chosen.iter().map(|one| one.child).collect()
    }

    #[test]
    fn a100_who_holds_most_memory_loses_the_largest_child_until_somebody_else_holds_more() {
        let all = held(&[(1, "bob"), (2, "mallory"), (3, "mallory"), (4, "mallory"), (5, "ana")]);
        let usage = usage(&[(1, 90), (2, 70), (3, 80), (4, 60), (5, 30)]);
        assert_eq!(numbers(&choose(&all, &usage, 0)), [0_u64; 0]);
        assert_eq!(numbers(&choose(&all, &usage, 10)), [3]);
        assert_eq!(numbers(&choose(&all, &usage, 81)), [3, 2]);
        // Bob has the largest child now, and what he holds is most.
        assert_eq!(numbers(&choose(&all, &usage, 151)), [3, 2, 1]);
    }

    #[test]
    fn nobody_loses_a_child_that_is_the_last_or_serves_everybody_or_if_children_are_not_what_is_large() {
        let usage = usage(&[(1, 90), (2, 40)]);
        assert_eq!(choose(&held(&[(1, "ana")]), &usage, 10), []);
        assert_eq!(choose(&held(&[(1, "ana"), (2, "bob")]), &usage, 130), []);
        assert_eq!(numbers(&choose(&held(&[(1, "ana"), (2, "bob")]), &usage, 129)), [1]);
        let mut all = held(&[(1, ""), (2, "bob")]);
        all[0].can_end = false;
        assert_eq!(choose(&all, &usage, 10), []);
        assert_eq!(choose(&held(&[(7, "ana"), (8, "bob")]), &usage, 10), [], "nothing is known of them");
    }
}
