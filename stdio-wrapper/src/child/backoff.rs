//! Pauses between starts while children keep exiting before their first response, or do not respond.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::starts::SPARES;

/// Number of consecutive failures that cause no pause.
const FREE: u32 = 2;
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The first pause after a child that did not answer `initialize`. There is a pause even after the first silent
/// child, because its client has already waited for a whole start timeout.
const SILENCE_PAUSE: Duration = Duration::from_secs(5);
/// Number of consecutive children that did not answer `initialize` after which the server counts as broken.
const SILENCES: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
    /// The time limit that the last child exceeded. `None` if that child exited instead.
    silence: Option<Duration>,
    /// The time until which the server counts as broken.
    broken_until: Option<Instant>,
}

impl Backoff {
    /// Records that a child exited before it answered, or could not be started.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures > FREE {
            let pause = Duration::from_secs(1 << (self.failures - FREE - 1).min(6)).min(MAX_PAUSE);
            self.until = Some(now + pause);
        }
        (self.silence, self.broken_until) = (None, self.until);
    }

    /// Records that a child did not answer `initialize` within this time. Several children that were started
    /// together count once.
    pub(super) fn was_silent(&mut self, within: Duration, now: Instant) {
        if self.remaining(now).is_some() {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let pause = (SILENCE_PAUSE * (1 << (self.failures - 1).min(6))).min(MAX_PAUSE);
        (self.silence, self.until) = (Some(within), Some(now + pause));
        // It takes this long to find out whether the next child answers.
        self.broken_until = self.until.filter(|_| self.failures >= SILENCES).map(|until| until + within);
    }

    /// Records that a child answered.
    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }

    /// The rest of the pause before the next start, or `None` if there is no pause.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        rest(self.until, now)
    }

    /// How the server is broken, or `None` if it does not count as broken.
    fn broken(&self, now: Instant) -> Option<Broken> {
        rest(self.broken_until, now)?;
        Some(if self.silence.is_some() { Broken::Silent } else { Broken::Ends })
    }
}

/// The time left until `until`. `None` if that time has passed or is not set.
fn rest(until: Option<Instant>, now: Instant) -> Option<Duration> {
    until.and_then(|until| until.checked_duration_since(now)).filter(|rest| !rest.is_zero())
}

/// Why the server counts as broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The server's children exit before they answer.
    Ends,
    /// The server's children do not answer `initialize`.
    Silent,
}

/// A period during which no child is started for a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) rest: Duration,
    /// The time limit that the last child exceeded. `None` if that child exited instead.
    pub(super) silence: Option<Duration>,
}

/// If the children of this number of principals fail in a row, the server counts as broken for all principals.
const SEVERAL: usize = 3;
/// Maximum number of principals whose failures are remembered.
const MAX_KEPT: usize = 1024;
/// Minimum time between starts for principals without a failure while the server counts as broken.
const TRIAL: Duration = Duration::from_secs(1);

/// The pauses of all principals. One caller can cause a server to exit during its start, so failures count only
/// for the principal of the child (attack 100). For principals without a failure, children are still started,
/// but at a lower rate while the children of several principals fail.
#[derive(Debug, Default)]
pub(super) struct Backoffs {
    each: HashMap<Arc<str>, Backoff>,
    /// Up to [`SEVERAL`] principals that have failed since a child answered.
    failing: HashSet<Arc<str>>,
    /// The pause in which the server counts as broken.
    all: Backoff,
    next_trial: Option<Instant>,
}

impl Backoffs {
    /// Records that a child of a principal exited before it answered, or could not be started.
    pub(super) fn failed(&mut self, owner: &Arc<str>, now: Instant) {
        self.note(owner, &|backoff| backoff.failed(now));
    }

    /// Records that a child of a principal did not answer `initialize` within this time.
    pub(super) fn was_silent(&mut self, owner: &Arc<str>, within: Duration, now: Instant) {
        self.note(owner, &|backoff| backoff.was_silent(within, now));
    }

    fn note(&mut self, owner: &Arc<str>, note: &dyn Fn(&mut Backoff)) {
        if self.each.len() >= MAX_KEPT && !self.each.contains_key(owner) {
            let first = self.each.iter().min_by_key(|(_, backoff)| backoff.until);
            if let Some(first) = first.map(|(owner, _)| Arc::clone(owner)) {
                self.each.remove(&first);
            }
        }
        note(self.each.entry(Arc::clone(owner)).or_default());
        if self.failing.len() < SEVERAL {
            self.failing.insert(Arc::clone(owner));
        }
        if self.failing.len() >= SEVERAL {
            note(&mut self.all);
        }
    }

    /// Records that a child of a principal answered.
    pub(super) fn worked(&mut self, owner: &str) {
        self.each.remove(owner);
        self.failing.clear();
        self.all.worked();
        self.next_trial = None;
    }

    /// The time until a child can be started for a principal. Returns `None` if it can be started now.
    pub(super) fn remaining(&self, owner: &str, now: Instant) -> Option<Duration> {
        match self.each.get(owner) {
            Some(own) => own.remaining(now),
            None => rest(self.next_trial, now),
        }
    }

    /// The pause before a child can be started for a principal.
    pub(super) fn pause(&self, owner: &str, now: Instant) -> Option<Pause> {
        let rest = self.remaining(owner, now)?;
        let silence = self.each.get(owner).map_or(self.all.silence, |own| own.silence);
        Some(Pause { rest, silence })
    }

    /// Records that a child is started for a principal. A spare does not belong to a principal yet, so it
    /// does not count here.
    pub(super) fn started(&mut self, owner: &str, now: Instant) {
        if self.failing.len() >= SEVERAL && owner != SPARES && !self.each.contains_key(owner) {
            self.next_trial = Some(now + TRIAL);
        }
    }

    /// Whether the server counts as broken, because the children of several principals fail, or because all
    /// callers are one principal.
    pub(super) fn broken(&self, now: Instant) -> Option<Broken> {
        self.each.get("").and_then(|nobody| nobody.broken(now)).or_else(|| self.all.broken(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_end_with_the_first_success() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.failed(now);
        backoff.failed(now);
        assert_eq!(backoff.remaining(now), None);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            backoff.failed(now);
            assert_eq!(backoff.remaining(now), Some(Duration::from_secs(seconds)));
        }
        backoff.worked();
        assert_eq!(backoff.remaining(now), None);
    }

    #[test]
    fn a_server_that_does_not_answer_has_pauses_from_the_first_time_on_and_one_pause_for_what_came_together()
    {
        let (mut now, mut backoff, within) = (Instant::now(), Backoff::default(), Duration::from_secs(45));
        for (seconds, is_broken) in [(5, false), (10, true), (20, true), (30, true), (30, true)] {
            backoff.was_silent(within, now);
            backoff.was_silent(within, now);
            let pause = Duration::from_secs(seconds);
            assert_eq!(backoff.remaining(now), Some(pause));
            assert_eq!(backoff.broken(now).is_some(), is_broken);
            now += pause;
            assert_eq!(backoff.remaining(now), None);
            // The next child is started now, and its outcome is not known yet.
            assert_eq!(backoff.broken(now).is_some(), is_broken);
            now += within;
            assert_eq!(backoff.broken(now), None, "the next attempt must be possible");
        }
        backoff.worked();
        assert_eq!((backoff.remaining(now), backoff.broken(now)), (None, None));
    }

    #[test]
    fn a100_one_principal_whose_children_do_not_answer_pauses_nobody_else() {
        let (mut now, mut all, within) = (Instant::now(), Backoffs::default(), Duration::from_secs(45));
        let names = ["mallory", "ana", "bob"].map(Arc::<str>::from);
        for _ in 0..9 {
            all.was_silent(&names[0], within, now);
            now += within;
        }
        all.was_silent(&names[0], within, now);
        let pause = Pause { rest: MAX_PAUSE, silence: Some(within) };
        assert_eq!(all.pause("mallory", now), Some(pause));
        assert_eq!((all.pause("ana", now), all.broken(now)), (None, None));
        for _ in 0..2 {
            now += within;
            for name in &names {
                all.was_silent(name, within, now);
            }
        }
        assert_eq!(all.broken(now), Some(Broken::Silent));
        all.worked("carol");
        assert_eq!(all.broken(now), None);
    }

    #[test]
    fn a100_one_principal_whose_children_fail_pauses_nobody_else() {
        let (now, mut all) = (Instant::now(), Backoffs::default());
        let (mallory, ana) = (Arc::from("mallory"), Arc::from("ana"));
        for _ in 0..9 {
            all.failed(&mallory, now);
        }
        assert!(all.remaining("mallory", now).is_some());
        assert_eq!((all.remaining("ana", now), all.broken(now)), (None, None));
        all.worked("ana");
        assert!(all.remaining("mallory", now).is_some(), "the delay is mallory's own");
        all.failed(&ana, now);
        assert_eq!(all.remaining("ana", now), None);
        let nobody = Arc::from("");
        for _ in 0..3 {
            all.failed(&nobody, now);
        }
        assert_eq!(all.broken(now), Some(Broken::Ends));
    }

    #[test]
    fn a100_while_several_fail_others_are_let_in_slowly_and_what_is_kept_has_a_bound() {
        let (now, mut all) = (Instant::now(), Backoffs::default());
        for number in 0..2 * MAX_KEPT {
            all.failed(&Arc::from(format!("user-{number}")), now);
        }
        assert_eq!((all.each.len(), all.failing.len()), (MAX_KEPT, SEVERAL));
        assert_eq!(all.broken(now), Some(Broken::Ends));
        assert_eq!(all.remaining("ana", now), None);
        all.started(SPARES, now);
        assert_eq!(all.remaining("ana", now), None, "the start of a spare delays no user");
        all.started("ana", now);
        assert_eq!(all.remaining("bob", now), Some(TRIAL));
        assert_eq!(all.remaining("bob", now + TRIAL), None);
        all.worked("ana");
        assert_eq!((all.remaining("bob", now), all.broken(now)), (None, None));
    }
}
