//! Decides which session is closed to make room for another one.

use std::collections::HashMap;
use std::time::Duration;

use crate::child::{EndReason, FEW, Newcomer};

/// If a user has many sessions, one without a message for this time is closed first.
const QUIET: Duration = Duration::from_secs(5);

/// How a session is used.
#[derive(Debug, Clone)]
pub(super) struct Use {
    /// The user who opened the session.
    pub(super) user: String,
    /// How long the session has been unused. `None` while it is in use.
    pub(super) unused: Option<Duration>,
    /// The number of requests in progress.
    pub(super) running: usize,
    /// The time since the last message.
    pub(super) last: Duration,
    /// Whether closing the session would make room for the newcomer.
    pub(super) makes_room: bool,
}

/// Chooses a session to close. Returns its index.
pub(super) fn choose(all: &[Use], newcomer: Newcomer<'_>, reason: EndReason) -> Option<usize> {
    match reason {
        EndReason::Unused => unused(all, newcomer),
        EndReason::TooMany => too_many(all, newcomer),
    }
}

/// The session that has been unused for the longest time, if that is long enough.
fn unused(all: &[Use], newcomer: Newcomer<'_>) -> Option<usize> {
    let counts = counts(all);
    let count = |user: &str| counts.get(user).copied().unwrap_or_default();
    all.iter()
        .enumerate()
        .filter(|(_, one)| one.makes_room)
        .filter_map(|(index, one)| Some((one.unused?, index, one)))
        .filter(|(unused, _, one)| *unused >= newcomer.patience(&one.user, count(&one.user)))
        .max_by_key(|(unused, ..)| *unused)
        .map(|(_, index, _)| index)
}

/// A session of the user with the most sessions, if that user has more than [`FEW`] and would still have at
/// least as many as the newcomer. The session must be quiet. If the newcomer has no session, the least busy
/// session is chosen instead, because otherwise a few users could keep all others out with sessions that only
/// send occasional pings.
fn too_many(all: &[Use], newcomer: Newcomer<'_>) -> Option<usize> {
    let counts = counts(all);
    // All callers without an identity count as one user.
    let known = counts.iter().filter(|(user, _)| !user.trim().is_empty());
    let (_, most) = known.clone().max_by_key(|(_, count)| **count)?;
    if *most <= FEW.max(newcomer.has + 1) {
        return None;
    }
    let have_most: Vec<&str> = known.filter(|(_, count)| *count == most).map(|(user, _)| *user).collect();
    let least_busy = |(_, one): &(usize, &Use)| (one.running, std::cmp::Reverse(one.last));
    all.iter()
        .enumerate()
        .filter(|(_, one)| one.makes_room && have_most.contains(&one.user.as_str()))
        .filter(|(_, one)| newcomer.has == 0 || (one.running == 0 && one.last >= QUIET))
        .min_by_key(least_busy)
        .map(|(index, _)| index)
}

/// For each user, the number of sessions that would make room for the newcomer if they were closed.
fn counts(all: &[Use]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for one in all.iter().filter(|one| one.makes_room) {
        *counts.entry(one.user.as_str()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(user: &str, running: usize, last: u64) -> Use {
        let last = Duration::from_secs(last);
        Use { user: user.to_owned(), unused: None, running, last, makes_room: true }
    }

    fn idle(user: &str, last: u64) -> Use {
        let one = used(user, 0, last);
        Use { unused: Some(one.last), ..one }
    }

    fn newcomer(user: &str, has: usize) -> Newcomer<'_> {
        Newcomer { user, has }
    }

    #[test]
    fn a100_users_without_a_session_get_one_from_those_who_have_most_whatever_the_sessions_do() {
        let mut all: Vec<Use> =
            ["mallory", "eve"].iter().flat_map(|user| vec![used(user, 1, 0); 13]).collect();
        all.extend([used("ana", 3, 0), idle("bob", 20), used("bob", 0, 1)]);
        let mut given = 0;
        while let Some(index) = too_many(&all, newcomer("new", 0)) {
            let lost = all.remove(index).user;
            let left = counts(&all);
            assert!(["mallory", "eve"].contains(&lost.as_str()), "{lost} has few");
            assert!(
                left["mallory"].abs_diff(left["eve"]) <= 1,
                "{left:?}: the user with the most sessions must lose"
            );
            given += 1;
            all.push(used(&format!("new-{given}"), 1, 0));
        }
        assert_eq!(given, 2 * (13 - FEW));
        assert_eq!(counts(&all)["mallory"], FEW);
        assert_eq!(unused(&all, newcomer("new", 0)), None);
    }

    #[test]
    fn the_least_busy_session_goes_first_and_of_those_the_one_used_the_longest_ago() {
        let mut all = vec![used("eve", 2, 60), used("eve", 1, 3), used("eve", 1, 9), used("eve", 0, 1)];
        all.extend([used("eve", 0, 2), used("eve", 3, 0), used("eve", 0, 0), used("eve", 0, 1)]);
        assert_eq!(too_many(&all, newcomer("new", 0)), Some(4));
        all[4].makes_room = false;
        all.truncate(6);
        assert_eq!(too_many(&all, newcomer("new", 0)), Some(3));
        assert_eq!(too_many(&all[..4], newcomer("new", 0)), None, "four must be kept");
    }

    #[test]
    fn who_has_a_session_gets_another_ones_only_if_it_is_quiet_and_only_from_who_has_more() {
        let mut all = vec![used("eve", 1, 0); 6];
        assert_eq!(too_many(&all, newcomer("ana", 1)), None);
        all[2] = used("eve", 0, 6);
        assert_eq!(too_many(&all, newcomer("ana", 1)), Some(2));
        assert_eq!(too_many(&all, newcomer("ana", 5)), None);
        assert_eq!(too_many(&all, newcomer("eve", 6)), None);
        let nobody = vec![used("", 0, 6); 9];
        assert_eq!(too_many(&nobody, newcomer("", 0)), None, "callers without an identity");
    }

    #[test]
    fn a100_who_has_many_does_not_get_the_only_session_of_somebody_who_pauses() {
        let mut all = vec![used("eve", 1, 0); 9];
        all.extend([idle("ana", 45), idle("bob", 290)]);
        assert_eq!(unused(&all, newcomer("eve", 9)), None);
        assert_eq!(unused(&all, newcomer("new", 0)), Some(10));
        all[10] = idle("bob", 301);
        assert_eq!(unused(&all, newcomer("eve", 9)), Some(10), "unused for five minutes");
        all[3] = idle("eve", 31);
        all[10] = idle("bob", 29);
        assert_eq!(unused(&all, newcomer("eve", 9)), Some(3), "one's own");
    }
}
