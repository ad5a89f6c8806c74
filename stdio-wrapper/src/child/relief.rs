//! Decides which children are stopped when the memory or the processes of the container are nearly used up, or
//! when there is no room for a user who has no child. Otherwise the kernel would kill the process with the most
//! memory when none is left, no matter which user it serves. If the process limit were reached, the servers of
//! other users could not start any process.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::keepers::{Held, Newcomer};
use crate::capacity::{ASSUMED, Kinds, Load, Measure, Usage};

/// The resource that the container is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) measure: Measure,
    /// How much must be freed.
    pub(super) over: u64,
    /// How much is used that is not attributed to any process. For example, the kernel also counts files in memory
    /// and data that is queued in sockets, and a scan misses processes that exit immediately. All of it might belong
    /// to one user, so a user whose children use no more than this amount loses none. A user who hides memory or
    /// processes must not cause other users to lose their children.
    pub(super) hidden: u64,
}

impl Shortage {
    /// `own` is the usage of the wrapper itself. `ending` is the amount that exiting children will free.
    pub(super) fn new(
        measure: Measure,
        (load, kinds): (Load, Kinds),
        usage: &HashMap<u64, Usage>,
        own: Usage,
        ending: u64,
    ) -> Self {
        let sum = |of: fn(&Usage) -> u64| usage.values().chain([&own]).map(of).sum::<u64>();
        let known = match measure {
            Measure::Memory => {
                // Memory that processes share is counted several times. The excess must not reduce the hidden amount.
                let anonymous = sum(Usage::anonymous).min(kinds.anonymous);
                let in_files = sum(|usage| usage.in_files).min(kinds.in_files);
                anonymous + in_files + sum(|usage| usage.in_kernel)
            }
            Measure::Tasks => sum(|usage| usage.tasks),
        };
        let hidden = load.used.saturating_sub(known).saturating_sub(load.unaccounted);
        Self { measure, over: load.over.saturating_sub(ending), hidden }
    }
}

/// Charges the hidden memory of files, in bytes, to the suspects, in equal parts: the children whose open files and
/// mappings could not all be examined. A suspect that is missing in `all` has already been stopped and is still exiting.
/// Until it has exited, it is charged instead of the others. `hidden` is all memory that belongs to no process.
pub(super) fn charge_suspects(
    hidden: u64,
    kinds: Kinds,
    suspects: &HashSet<u64>,
    all: &[Held],
    usage: &mut HashMap<u64, Usage>,
) {
    let known: u64 = usage.values().map(|usage| usage.in_files).sum();
    let hidden = hidden.min(kinds.in_files.saturating_sub(known));
    let (mut charged, exiting): (Vec<u64>, Vec<u64>) = suspects
        .iter()
        .filter(|child| usage.contains_key(*child))
        .partition(|child| all.iter().any(|one| one.child == **child));
    if !exiting.is_empty() {
        charged = exiting;
    }
    let share = hidden / u64::try_from(charged.len()).unwrap_or(u64::MAX).max(1);
    for child in charged {
        if let Some(usage) = usage.get_mut(&child) {
            usage.add_in_files(share);
        }
    }
}

/// Adds the memory that the wrapper holds for each user, in bytes, to the usage of the user's children, in equal parts.
/// Nobody else can free this memory, and most of it is freed when these children are stopped.
pub(super) fn with_held(
    all: &[Held],
    held: &HashMap<Arc<str>, u64>,
    usage: &HashMap<u64, Usage>,
) -> HashMap<u64, Usage> {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for one in all {
        *counts.entry(one.user.as_str()).or_default() += 1;
    }
    let mut usage = usage.clone();
    for one in all {
        let Some((held, count)) = held.get(one.user.as_str()).zip(counts.get(one.user.as_str())) else {
            continue;
        };
        usage.entry(one.child).or_default().memory += held / count;
    }
    usage
}

/// Chooses children to stop until enough is freed. It repeatedly chooses the largest child of the user whose
/// children use the most. It never chooses the last child, because stopping it would help no other user. It
/// chooses none if children are not the cause: if their known usage is at most the amount that must be freed,
/// or if no user's children use more than the hidden amount. If the container is short of processes, it chooses no
/// children of users whose children have at most `share` processes and threads, and not more than the same number of
/// ordinary children.
pub(super) fn choose(all: &[Held], usage: &HashMap<u64, Usage>, short: Shortage, share: u64) -> Vec<Held> {
    let Shortage { measure, over: excess, hidden } = short;
    let size = |one: &Held| size(one, usage, measure);
    if excess == 0 || all.iter().map(size).sum::<u64>() <= excess {
        return Vec::new();
    }
    let mut left: Vec<&Held> = all.iter().collect();
    let (mut chosen, mut freed) = (Vec::new(), 0);
    while freed < excess && left.len() > 1 {
        let large = if measure == Measure::Tasks { not_ordinary(&left, usage, share) } else { left.clone() };
        let Some((sum, index)) = largest_of_most(&large, usage, measure) else { break };
        let Some(one) = large.get(index).copied() else { break };
        if !one.can_end || size(one) == 0 || sum <= hidden {
            break;
        }
        left.retain(|other| other.child != one.child);
        freed += size(one);
        chosen.push(one.clone());
    }
    chosen
}

/// The children of users whose children have more processes and threads than the same number of ordinary children, or
/// more than `share`. Ordinary children protect a user only up to a share, because a user can have many of them.
fn not_ordinary<'a>(all: &[&'a Held], usage: &HashMap<u64, Usage>, share: u64) -> Vec<&'a Held> {
    let mut excess: HashMap<&str, (u64, u64)> = HashMap::new();
    for one in all {
        let (tasks, ordinary) = excess.entry(one.user.as_str()).or_default();
        *tasks += size(one, usage, Measure::Tasks);
        *ordinary += ASSUMED.tasks;
    }
    let is_large = |one: &&&Held| {
        excess.get(one.user.as_str()).is_some_and(|(tasks, ordinary)| tasks > ordinary || *tasks > share)
    };
    all.iter().filter(is_large).copied().collect()
}

/// Chooses a child to stop for a newcomer who has no child and for whom there is no room: the largest child of
/// the user whose children use the most, if that is more than `share` and more than the hidden amount. This can
/// be the last child.
pub(super) fn choose_for(
    newcomer: Newcomer<'_>,
    all: &[Held],
    usage: &HashMap<u64, Usage>,
    short: Shortage,
    share: u64,
) -> Option<Held> {
    let others: Vec<&Held> = all.iter().filter(|one| one.user != newcomer.user).collect();
    let (sum, index) = largest_of_most(&others, usage, short.measure)?;
    let one = others.get(index)?;
    let is_too_much = sum > share && sum > short.hidden;
    (newcomer.has == 0 && one.can_end && is_too_much).then(|| (*one).clone())
}

/// The number of users who have children.
pub(super) fn users(all: &[Held]) -> usize {
    all.iter().map(|one| one.user.as_str()).collect::<HashSet<&str>>().len()
}

/// The number of users, including the newcomer.
pub(super) fn users_with(all: &[Held], newcomer: Newcomer<'_>) -> usize {
    let is_new = all.iter().all(|one| one.user != newcomer.user);
    users(all) + usize::from(is_new)
}

fn size(one: &Held, usage: &HashMap<u64, Usage>, measure: Measure) -> u64 {
    usage.get(&one.child).map_or(0, |usage| measure.of(usage))
}

/// The usage of the children of the user who uses the most, and the index of the largest of these children.
fn largest_of_most(all: &[&Held], usage: &HashMap<u64, Usage>, measure: Measure) -> Option<(u64, usize)> {
    let (user, sum) = most(all, usage, measure)?;
    let of_user = all.iter().enumerate().filter(|(_, one)| one.user == user);
    of_user.max_by_key(|(_, one)| size(one, usage, measure)).map(|(index, _)| (sum, index))
}

/// The user whose children use the most, and how much they use.
fn most<'a>(all: &[&'a Held], usage: &HashMap<u64, Usage>, measure: Measure) -> Option<(&'a str, u64)> {
    let mut sums: HashMap<&str, u64> = HashMap::new();
    for one in all {
        *sums.entry(one.user.as_str()).or_default() += size(one, usage, measure);
    }
    // The name is only a tie-breaker between users with the same sum.
    sums.into_iter().max_by_key(|(user, sum)| (*sum, *user))
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
        children
            .iter()
            .map(|(child, memory)| (*child, Usage { memory: *memory, tasks: 1, ..Usage::default() }))
            .collect()
    }

    /// What [`super::choose`] chooses in a container with 256 processes and two users.
    fn choose(all: &[Held], usage: &HashMap<u64, Usage>, short: Shortage) -> Vec<Held> {
        super::choose(all, usage, short, 112)
    }

    /// A shortage of this many bytes of memory, without any hidden memory.
    fn over(over: u64) -> Shortage {
        Shortage { measure: Measure::Memory, over, hidden: 0 }
    }

    fn numbers(chosen: &[Held]) -> Vec<u64> {
        chosen.iter().map(|one| one.child).collect()
    }

    #[test]
    fn a100_who_holds_most_memory_loses_the_largest_child_until_somebody_else_holds_more() {
        let all = held(&[(1, "bob"), (2, "mallory"), (3, "mallory"), (4, "mallory"), (5, "ana")]);
        let usage = usage(&[(1, 90), (2, 70), (3, 80), (4, 60), (5, 30)]);
        assert_eq!(numbers(&choose(&all, &usage, over(0))), [0_u64; 0]);
        assert_eq!(numbers(&choose(&all, &usage, over(10))), [3]);
        assert_eq!(numbers(&choose(&all, &usage, over(81))), [3, 2]);
        // Bob now has the largest child, and his children use the most.
        assert_eq!(numbers(&choose(&all, &usage, over(151))), [3, 2, 1]);
    }

    #[test]
    fn nobody_loses_a_child_that_is_the_last_or_serves_everybody_or_if_children_are_not_what_is_large() {
        let usage = usage(&[(1, 90), (2, 40)]);
        assert_eq!(choose(&held(&[(1, "ana")]), &usage, over(10)), []);
        assert_eq!(choose(&held(&[(1, "ana"), (2, "bob")]), &usage, over(130)), []);
        assert_eq!(numbers(&choose(&held(&[(1, "ana"), (2, "bob")]), &usage, over(129))), [1]);
        let mut all = held(&[(1, ""), (2, "bob")]);
        all[0].can_end = false;
        assert_eq!(choose(&all, &usage, over(10)), []);
        assert_eq!(
            choose(&held(&[(7, "ana"), (8, "bob")]), &usage, over(10)),
            [],
            "the use of these children is unknown"
        );
    }

    #[test]
    fn a100_memory_that_no_child_is_known_to_hold_costs_nobody_a_session() {
        let all = held(&[(1, "bob"), (2, "ana"), (3, "mallory")]);
        let usage = usage(&[(1, 70), (2, 15), (3, 5)]);
        let own = Usage { memory: 20, tasks: 1, ..Usage::default() };
        let short = |used, measure, given_back| {
            let kinds = Kinds::UNKNOWN;
            Shortage::new(measure, (Load { used, over: 10, unaccounted: 5 }, kinds), &usage, own, given_back)
        };
        let memory = |used| short(used, Measure::Memory, 0);
        assert_eq!(memory(900).hidden, 785);
        assert_eq!(choose(&all, &usage, memory(900)), []);
        assert_eq!(choose(&all, &usage, memory(185)), [], "bob uses as much memory as is hidden");
        assert_eq!(numbers(&choose(&all, &usage, memory(184))), [1]);
        assert_eq!(memory(50).hidden, 0);
        assert_eq!((short(900, Measure::Tasks, 3).hidden, short(900, Measure::Tasks, 3).over), (891, 7));
        let new = Newcomer { user: "new", has: 0 };
        assert_eq!(choose_for(new, &all, &usage, memory(185), 60), None);
        assert_eq!(choose_for(new, &all, &usage, memory(184), 60).map(|one| one.child), Some(1));
    }

    #[test]
    fn a100_what_processes_share_does_not_make_up_for_what_is_hidden() {
        let all = held(&[(1, "bob"), (2, "mallory")]);
        let of = |memory, in_files| Usage { memory, in_files, tasks: 1, processes: 9, ..Usage::default() };
        // The kernel counts memory that the processes of a child share only once (`Kinds`). More memory is hidden
        // than bob uses.
        let usage = HashMap::from([(1, of(300, 0)), (2, of(290, 140))]);
        let short = |anonymous, in_files| {
            let load = (
                Load { used: 700, over: 10, unaccounted: 5 },
                Kinds { anonymous, in_files, ..Kinds::UNKNOWN },
            );
            Shortage::new(Measure::Memory, load, &usage, Usage::default(), 0)
        };
        assert_eq!(short(u64::MAX, u64::MAX).hidden, 105);
        assert_eq!(short(310, 10).hidden, 375);
        // The hidden memory can itself be a file in memory.
        assert_eq!(short(310, 385).hidden, 245);
        assert_eq!(choose(&all, &usage, short(310, 10)), []);
    }

    #[test]
    fn a100_what_is_short_is_what_counts() {
        let all = held(&[(1, "ana"), (2, "mallory"), (3, "bob")]);
        let of = |memory, tasks| Usage { memory, tasks, ..Usage::default() };
        let usage = HashMap::from([(1, of(900, 2)), (2, of(10, 230)), (3, of(20, 3))]);
        let tasks = Shortage { measure: Measure::Tasks, ..over(16) };
        assert_eq!(numbers(&choose(&all, &usage, tasks)), [2]);
        assert_eq!(numbers(&choose(&all, &usage, over(16))), [1]);
    }

    #[test]
    fn a100_processes_that_escape_every_look_cost_nobody_a_session() {
        let all = held(&[(1, "ana"), (2, "mallory"), (3, "bob")]);
        let usage = |tasks: [u64; 3]| {
            (1..).zip(tasks).map(|(child, tasks)| (child, Usage { tasks, ..Usage::default() })).collect()
        };
        let chosen = |tasks, used| {
            let usage: HashMap<u64, Usage> = usage(tasks);
            let kinds = Kinds::UNKNOWN;
            let own = Usage { tasks: 5, ..Usage::default() };
            let load = Load { used, over: 16, unaccounted: 16 };
            numbers(&choose(&all, &usage, Shortage::new(Measure::Tasks, (load, kinds), &usage, own, 0)))
        };
        assert_eq!(chosen([2, 7, 60], 256), [0; 0], "bob has a busy server, and 166 processes are hidden");
        assert_eq!(chosen([2, 141, 60], 256), [2], "32 processes are hidden");
        assert_eq!(chosen([2, 9, 8], 40), [0; 0], "these servers are ordinary");
        assert_eq!(chosen([2, 10, 8], 41), [2]);
    }

    #[test]
    fn a100_a_user_with_many_ordinary_servers_does_not_protect_one_with_a_large_server() {
        let all = held(&[(1, "ana"), (2, "ana"), (3, "ana"), (4, "ana"), (5, "mallory")]);
        let usage = [9, 9, 9, 9, 30].map(|tasks| Usage { tasks, ..Usage::default() });
        let usage = (1..).zip(usage).collect();
        let tasks = Shortage { measure: Measure::Tasks, ..over(16) };
        assert_eq!(numbers(&choose(&all, &usage, tasks)), [5]);
    }

    /// 25 ordinary servers of one user take the processes that another user's only server needs.
    #[test]
    fn a100_ordinary_servers_protect_their_user_only_up_to_an_equal_share() {
        let of_mallory: Vec<(u64, &str)> = (10..35).map(|child| (child, "mallory")).collect();
        let all = held(&[&[(1, "bob"), (2, "ana")], &of_mallory[..]].concat());
        let tasks = |child| if child == 1 { 11 } else { ASSUMED.tasks };
        let usage: HashMap<u64, Usage> = all
            .iter()
            .map(|one| (one.child, Usage { tasks: tasks(one.child), ..Usage::default() }))
            .collect();
        let short = |over| Shortage { measure: Measure::Tasks, ..self::over(over) };
        let users = |chosen: Vec<Held>| chosen.into_iter().map(|one| one.user).collect::<Vec<_>>();
        assert_eq!(users(super::choose(&all, &usage, short(10), 74)), ["mallory", "mallory"]);
        // Within a share, ordinary servers are still protected.
        assert_eq!(users(super::choose(&all, &usage, short(10), 225)), ["bob"]);
    }

    #[test]
    fn a100_memory_that_the_wrapper_holds_for_a_user_counts_for_the_user_and_nobody_else() {
        let all = held(&[(1, "bob"), (2, "mallory"), (3, "mallory"), (4, "ana")]);
        let usage = usage(&[(1, 60), (2, 9), (3, 7), (4, 10)]);
        let of = |user: &str, bytes| HashMap::from([(Arc::from(user), bytes)]);
        let charged = with_held(&all, &of("mallory", 50), &usage);
        assert_eq!([1, 2, 3, 4].map(|child| charged[&child].memory), [60, 34, 32, 10]);
        assert_eq!(numbers(&choose(&all, &usage, over(10))), [1]);
        assert_eq!(numbers(&choose(&all, &charged, over(10))), [2]);
        assert_eq!(with_held(&all, &of("a user without children", 50), &usage), usage);
    }

    #[test]
    fn a100_hidden_memory_is_charged_to_who_does_not_let_others_look() {
        let all = held(&[(1, "bob"), (2, "mallory"), (3, "mallory"), (4, "ana")]);
        let charged = |suspects: &[u64], all: &[Held]| {
            let mut usage = usage(&[(1, 60), (2, 9), (3, 7), (4, 10)]);
            let kinds = Kinds { in_files: 400, ..Kinds::UNKNOWN };
            charge_suspects(500, kinds, &suspects.iter().copied().collect(), all, &mut usage);
            [1, 2, 3, 4].map(|child| usage[&child].in_files)
        };
        assert_eq!(charged(&[], &all), [0; 4]);
        assert_eq!(charged(&[3], &all), [0, 0, 400, 0]);
        assert_eq!(charged(&[2, 3], &all), [0, 200, 200, 0]);
        assert_eq!(
            charged(&[1, 2, 3, 4], &all),
            [100; 4],
            "the size of a suspect does not show that it hides memory"
        );
        assert_eq!(charged(&[3, 4], &all[1..2]), [0, 0, 200, 200], "these children are still exiting");
        assert_eq!(charged(&[2, 4], &all[..2]), [0, 0, 0, 400], "one of them is still exiting");
        assert_eq!(charged(&[8], &all), [0; 4], "this child has exited");
        // With its part of the memory, the child is the largest.
        let mut usage = usage(&[(1, 60), (2, 9), (3, 7), (4, 10)]);
        let kinds = Kinds::UNKNOWN;
        charge_suspects(400, kinds, &HashSet::from([3]), &all, &mut usage);
        let load = Load { used: 486, over: 10, unaccounted: 0 };
        let short = Shortage::new(Measure::Memory, (load, kinds), &usage, Usage::default(), 0);
        assert_eq!((short.hidden, numbers(&choose(&all, &usage, short))), (0, vec![3]));
    }

    #[test]
    fn a100_who_has_nothing_gets_the_room_of_who_holds_more_than_a_share_also_that_of_the_last_child() {
        let usage = usage(&[(1, 60), (2, 50), (3, 100), (4, 5)]);
        let new = Newcomer { user: "new", has: 0 };
        let chosen = |all: &[(u64, &str)], newcomer, share| {
            choose_for(newcomer, &held(all), &usage, over(1), share).map(|one| one.child)
        };
        let all = [(1, "mallory"), (2, "mallory"), (3, "ana"), (4, "bob")];
        assert_eq!(chosen(&all, new, 109), Some(1));
        assert_eq!(chosen(&all, new, 110), None, "no user has more");
        assert_eq!(chosen(&[(3, "ana")], new, 50), Some(3));
        assert_eq!(chosen(&[(3, "ana")], Newcomer { user: "ana", has: 0 }, 50), None, "one's own");
        assert_eq!(
            chosen(&[(3, "ana")], Newcomer { user: "new", has: 1 }, 50),
            None,
            "the user already has a session"
        );
        assert_eq!(chosen(&[(3, "ana")], Newcomer::ANYBODY, 50), Some(3), "for a child that all users share");
        let mut shared = held(&[(3, ""), (4, "bob")]);
        shared[0].can_end = false;
        assert_eq!(choose_for(new, &shared, &usage, over(1), 50), None, "the child serves all users");
        let ana = Newcomer { user: "ana", has: 0 };
        assert_eq!((users_with(&held(&all), new), users_with(&held(&all), ana)), (4, 3));
    }
}
