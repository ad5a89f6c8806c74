//! The users of all children that were taken, until the children have exited. A session that has ended no
//! longer keeps its child, but the resources of the child still count towards its user's usage until its last
//! process has exited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::child::exit::Remains;
use crate::child::keepers::{Gone, Held};

/// A child that was taken for a user.
#[derive(Debug)]
struct Taken {
    user: Arc<str>,
    remains: Remains,
}

/// All children that were taken and have not exited, by number.
#[derive(Debug, Default)]
pub(super) struct Roster(Mutex<HashMap<u64, Taken>>);

impl Roster {
    /// Adds a child, and removes children that have exited, so that the map does not grow.
    pub(super) fn enter(&self, number: u64, user: Arc<str>, remains: Remains) {
        let mut all = self.all();
        all.retain(|_, taken| !taken.remains.has_exited());
        all.insert(number, Taken { user, remains });
    }

    /// The children that no keeper keeps: they are about to exit, or are being tested for their era. A child
    /// that serves all users has no owner, so it is included only when it is about to exit.
    pub(super) fn not_kept(&self, kept: &[Held]) -> Vec<Held> {
        let is_kept = |number: u64| kept.iter().any(|held| held.child == number);
        self.all()
            .iter()
            .filter(|(number, taken)| !taken.remains.has_exited() && !is_kept(**number))
            .filter(|(_, taken)| taken.remains.is_ending() || !taken.user.is_empty())
            .map(|(number, taken)| Held { child: *number, user: taken.user.to_string(), can_end: true })
            .collect()
    }

    /// Stops a child immediately. Returns `None` if it is not in this roster.
    pub(super) fn end(&self, number: u64) -> Option<Gone> {
        let remains = self.all().get(&number)?.remains.clone();
        remains.stop_at_once();
        Some(Box::pin(async move {
            remains.exited().await;
        }))
    }

    /// Stops all children that have not exited, and gives them their grace periods.
    pub(super) fn stop_all(&self) {
        for taken in self.all().values() {
            taken.remains.stop();
        }
    }

    /// Kills a child immediately, without giving it time to exit on its own.
    pub(super) fn kill(&self, number: u64) {
        if let Some(taken) = self.all().get(&number) {
            taken.remains.kill();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
