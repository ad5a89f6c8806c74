//! Pauses between starts when one child after the other ends before it has answered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::starts::SPARES;

/// Number of failures in a row after which there is no pause yet.
const FREE: u32 = 2;
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The number of failures in a row, and the end of the pause.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Records that a child ended before it answered, or could not be started.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures > FREE {
            let pause = Duration::from_secs(1 << (self.failures - FREE - 1).min(6)).min(MAX_PAUSE);
            self.until = Some(now + pause);
        }
    }

    /// Records that a child answered.
    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }

    /// The rest of the pause before the next start. Returns `None` if there is no pause.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|rest| !rest.is_zero())
    }
}

/// If the children of this number of principals fail one after the other, the server counts as broken for
/// all.
const SEVERAL: usize = 3;
/// Maximum number of principals whose failures are remembered.
const MAX_KEPT: usize = 1024;
/// Minimum time between starts for principals without a failure while the server counts as broken.
const TRIAL: Duration = Duration::from_secs(1);

/// The pauses of all principals. One caller can make a server end at its start, so failures count for the
/// principal whose child it was (attack 100). For principals without a failure, children are still started,
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
    /// Records that a child of a principal ended before it answered, or could not be started.
    pub(super) fn failed(&mut self, owner: &Arc<str>, now: Instant) {
        if self.each.len() >= MAX_KEPT && !self.each.contains_key(owner) {
            let first = self.each.iter().min_by_key(|(_, backoff)| backoff.until);
            if let Some(first) = first.map(|(owner, _)| Arc::clone(owner)) {
                self.each.remove(&first);
            }
        }
        self.each.entry(Arc::clone(owner)).or_default().failed(now);
        if self.failing.len() < SEVERAL {
            self.failing.insert(Arc::clone(owner));
        }
        if self.failing.len() >= SEVERAL {
            self.all.failed(now);
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
            None => self
                .next_trial
                .and_then(|next| next.checked_duration_since(now))
                .filter(|rest| !rest.is_zero()),
        }
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
    pub(super) fn is_broken(&self, now: Instant) -> bool {
        let nobody = self.each.get("").and_then(|backoff| backoff.remaining(now));
        nobody.or_else(|| self.all.remaining(now)).is_some()
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
    fn a100_one_principal_whose_children_fail_pauses_nobody_else() {
        let (now, mut all) = (Instant::now(), Backoffs::default());
        let (mallory, ana) = (Arc::from("mallory"), Arc::from("ana"));
        for _ in 0..9 {
            all.failed(&mallory, now);
        }
        assert!(all.remaining("mallory", now).is_some());
        assert_eq!((all.remaining("ana", now), all.is_broken(now)), (None, false));
        all.worked("ana");
        assert!(all.remaining("mallory", now).is_some(), "it is her own");
        all.failed(&ana, now);
        assert_eq!(all.remaining("ana", now), None);
        let nobody = Arc::from("");
        for _ in 0..3 {
            all.failed(&nobody, now);
        }
        assert!(all.is_broken(now));
    }

    #[test]
    fn a100_while_several_fail_others_are_let_in_slowly_and_what_is_kept_has_a_bound() {
        let (now, mut all) = (Instant::now(), Backoffs::default());
        for number in 0..2 * MAX_KEPT {
            all.failed(&Arc::from(format!("user-{number}")), now);
        }
        assert_eq!((all.each.len(), all.failing.len()), (MAX_KEPT, SEVERAL));
        assert!(all.is_broken(now));
        assert_eq!(all.remaining("ana", now), None);
        all.started(SPARES, now);
        assert_eq!(all.remaining("ana", now), None, "a spare is nobody's turn");
        all.started("ana", now);
        assert_eq!(all.remaining("bob", now), Some(TRIAL));
        assert_eq!(all.remaining("bob", now + TRIAL), None);
        all.worked("ana");
        assert_eq!((all.remaining("bob", now), all.is_broken(now)), (None, false));
    }
}
