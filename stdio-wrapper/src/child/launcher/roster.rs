//! The users of all children that were taken, until the children have ended. A session that has ended keeps its child no
//! more, but what the child takes until no process of it is left still counts for its user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::child::keepers::Gone;
use crate::child::process::Remains;
use crate::child::relief::Held;

/// A child that was taken for a user.
#[derive(Debug)]
struct Taken {
    user: Arc<str>,
    remains: Remains,
}

/// All children that were taken and have not ended, by number.
#[derive(Debug, Default)]
pub(super) struct Roster(Mutex<HashMap<u64, Taken>>);

impl Roster {
    /// Adds a child. Those that have ended are removed, so that there are never more than run.
    pub(super) fn enter(&self, number: u64, user: Arc<str>, remains: Remains) {
        let mut all = self.all();
        all.retain(|_, taken| !taken.remains.has_exited());
        all.insert(number, Taken { user, remains });
    }

    /// The children that are not among those that somebody keeps: they are about to end, or are asked for their era. A child
    /// that serves everybody is nobody's, and is not among them before it is about to end.
    pub(super) fn not_kept(&self, kept: &[Held]) -> Vec<Held> {
        let is_kept = |number: u64| kept.iter().any(|held| held.child == number);
        self.all()
            .iter()
            .filter(|(number, taken)| !taken.remains.has_exited() && !is_kept(**number))
            .filter(|(_, taken)| taken.remains.is_ending() || !taken.user.is_empty())
            .map(|(number, taken)| Held { child: *number, user: taken.user.to_string(), can_end: true })
            .collect()
    }

    /// Ends a child at once.
    pub(super) fn end(&self, number: u64) -> Option<Gone> {
        let remains = self.all().get(&number)?.remains.clone();
        remains.stop_at_once();
        Some(Box::pin(async move {
            remains.exited().await;
        }))
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
