//! Decides which child is stopped when there is no room for another one. Sessions and stateless servers each
//! keep their own children. The child that has been unused for the longest time is stopped first, no matter
//! which of them keeps it.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::capacity::Measure;

/// A child that was used more recently than this is not stopped for another child, unless its user has many
/// children.
const EVICTABLE_AFTER: Duration = Duration::from_secs(30);
/// A child that was used more recently than this is not stopped for a user who already has many children, if
/// its own user has few.
const ABANDONED_AFTER: Duration = Duration::from_secs(300);
/// A user with at most this number of sessions loses no session that is in use.
pub const FEW: usize = 4;
/// Maximum time for which a start waits for the exit of the child that makes room for it. A child can exit
/// slowly, and keeps its memory until it has exited.
pub const EXIT_PATIENCE: Duration = Duration::from_secs(8);

/// The user who needs room for a child.
#[derive(Debug, Clone, Copy)]
pub struct Newcomer<'a> {
    /// Empty for a child that serves all users, and if all callers are one principal.
    pub user: &'a str,
    /// The number of sessions that the user has, including those that are ending.
    pub has: usize,
}

impl Newcomer<'_> {
    /// A user without any session.
    pub const ANYBODY: Self = Self { user: "", has: 0 };

    /// How long a child of `user`, who has `count` children, must have been unused before it can be stopped for
    /// the newcomer. A user with few sessions loses them to a user with many only after a long time.
    pub fn patience(&self, user: &str, count: usize) -> Duration {
        let is_modest = self.has < FEW || user == self.user || count > self.has;
        if is_modest { EVICTABLE_AFTER } else { ABANDONED_AFTER }
    }
}

/// Why a child can be stopped for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The child has been unused for long enough.
    Unused,
    /// The user of the child has more children than other users.
    TooMany,
}

/// The scarce resource that is the reason to stop a child immediately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// The memory of the container.
    Memory,
    /// The processes and threads of the container.
    Tasks,
    /// The epoll watches that the machine has for this user id.
    Watches,
}

impl From<Measure> for Scarce {
    fn from(measure: Measure) -> Self {
        match measure {
            Measure::Memory => Self::Memory,
            Measure::Tasks => Self::Tasks,
        }
    }
}

/// A child that belongs to a keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The number of the child.
    pub child: u64,
    /// The user whom the child serves. Empty if all callers are one principal, and for a child that serves all
    /// users.
    pub user: String,
    /// Whether the child can be stopped because of its size. A child that serves all users cannot.
    pub can_end: bool,
}

/// Completes when the child has exited.
pub type Gone = BoxFuture<'static, ()>;

/// A part of the wrapper that keeps children.
pub trait Keeper: Send + Sync {
    /// If a child can be stopped for this reason, returns how long it has been unused.
    fn candidate(&self, newcomer: Newcomer<'_>, reason: EndReason) -> Option<Duration>;
    /// Stops the child for which [`Keeper::candidate`] returned the time.
    fn give_up(&self, newcomer: Newcomer<'_>, reason: EndReason) -> Option<Gone>;
    /// The children that this keeper keeps.
    fn held(&self) -> Vec<Held>;
    /// Stops this child immediately, because it uses a lot of a scarce resource.
    fn end_large(&self, child: u64, scarce: Scarce) -> Option<Gone>;
}

/// All keepers of the children of one launcher.
#[derive(Default)]
pub(super) struct Keepers(Mutex<Vec<Weak<dyn Keeper>>>);

impl Keepers {
    pub(super) fn add(&self, keeper: Weak<dyn Keeper>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(keeper);
    }

    /// Stops the child that has been unused for the longest time or, if all are in use, a child of the user
    /// with the most children.
    pub(super) fn give_up(&self, newcomer: Newcomer<'_>) -> Option<Gone> {
        let (keeper, reason) = self.choose(newcomer)?;
        keeper.give_up(newcomer, reason)
    }

    /// Whether a child can be stopped for another one.
    pub(super) fn can_give_up(&self, newcomer: Newcomer<'_>) -> bool {
        self.choose(newcomer).is_some()
    }

    pub(super) fn held(&self) -> Vec<Held> {
        self.all().iter().flat_map(|keeper| keeper.held()).collect()
    }

    /// Stops a child immediately, because it uses a lot of a scarce resource.
    pub(super) fn end_large(&self, child: u64, scarce: Scarce) -> Option<Gone> {
        self.all().iter().find_map(|keeper| keeper.end_large(child, scarce))
    }

    fn all(&self) -> Vec<Arc<dyn Keeper>> {
        let keepers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keepers.iter().filter_map(Weak::upgrade).collect()
    }

    fn choose(&self, newcomer: Newcomer<'_>) -> Option<(Arc<dyn Keeper>, EndReason)> {
        let all = self.all();
        [EndReason::Unused, EndReason::TooMany].into_iter().find_map(|reason| {
            let able = all.iter().filter_map(|keeper| Some((keeper.candidate(newcomer, reason)?, keeper)));
            able.max_by_key(|(unused, _)| *unused).map(|(_, keeper)| (Arc::clone(keeper), reason))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Keeps {
        unused: Option<u64>,
        too_many: Option<u64>,
        given_up: Mutex<Vec<EndReason>>,
    }

    fn keeps(unused: Option<u64>, too_many: Option<u64>) -> Arc<Keeps> {
        Arc::new(Keeps { unused, too_many, given_up: Mutex::default() })
    }

    impl Keeper for Keeps {
        fn candidate(&self, _: Newcomer<'_>, reason: EndReason) -> Option<Duration> {
            let seconds = if reason == EndReason::Unused { self.unused } else { self.too_many };
            seconds.map(Duration::from_secs)
        }

        fn give_up(&self, _: Newcomer<'_>, reason: EndReason) -> Option<Gone> {
            self.given_up.lock().unwrap().push(reason);
            Some(Box::pin(async {}))
        }

        fn held(&self) -> Vec<Held> {
            Vec::new()
        }

        fn end_large(&self, _: u64, _: Scarce) -> Option<Gone> {
            None
        }
    }

    #[test]
    fn the_child_that_was_unused_for_longest_goes_first_whoever_keeps_it_and_one_in_use_goes_last() {
        let all = [keeps(Some(40), Some(9)), keeps(Some(50), None), keeps(None, Some(3))];
        let keepers = Keepers::default();
        assert!(!keepers.can_give_up(Newcomer::ANYBODY));
        for keeper in &all {
            let keeper: Arc<dyn Keeper> = Arc::<Keeps>::clone(keeper);
            keepers.add(Arc::downgrade(&keeper));
        }
        let counts = |all: &[Arc<Keeps>]| -> Vec<Vec<EndReason>> {
            all.iter().map(|keeper| keeper.given_up.lock().unwrap().clone()).collect()
        };
        assert!(keepers.give_up(Newcomer::ANYBODY).is_some());
        assert_eq!(counts(&all), [vec![], vec![EndReason::Unused], vec![]]);
        let busy = Keepers::default();
        let keeper: Arc<dyn Keeper> = keeps(None, Some(1));
        busy.add(Arc::downgrade(&keeper));
        assert!(busy.can_give_up(Newcomer::ANYBODY) && busy.give_up(Newcomer::ANYBODY).is_some());
        drop(keeper);
        assert!(!busy.can_give_up(Newcomer::ANYBODY), "a client that has gone keeps no session");
    }

    #[test]
    fn who_has_many_takes_only_what_others_have_forgotten() {
        let (ana, rich) = (Newcomer { user: "ana", has: 1 }, Newcomer { user: "rich", has: 9 });
        assert_eq!(ana.patience("bob", 1), EVICTABLE_AFTER);
        assert_eq!(rich.patience("bob", 1), ABANDONED_AFTER);
        assert_eq!(rich.patience("bob", 9), ABANDONED_AFTER);
        assert_eq!(rich.patience("bob", 10), EVICTABLE_AFTER);
        assert_eq!(rich.patience("rich", 9), EVICTABLE_AFTER, "one's own");
    }
}
