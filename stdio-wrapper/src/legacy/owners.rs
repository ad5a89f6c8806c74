//! How many sessions each user has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The number of sessions of each user. A session counts until nothing of its child is left, so that nobody
/// fills a container with children that are slow to end.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// It is locked while a session is opened or has ended, but not while one is used.
    counts: Mutex<HashMap<String, usize>>,
    /// Told whenever a session no longer counts.
    pub(super) freed: Notify,
}

impl Owners {
    /// The counts, by user.
    pub(super) fn counts(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place among those of its user.
#[derive(Debug)]
pub(super) struct Place {
    owners: Arc<Owners>,
    user: String,
}

impl Place {
    /// A place that was counted for this user.
    pub(super) fn of(owners: &Arc<Owners>, user: &str) -> Self {
        Self { owners: Arc::clone(owners), user: user.to_owned() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.owners.counts();
        if let Some(count) = counts.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.user);
            }
        }
        drop(counts);
        self.owners.freed.notify_waiters();
    }
}
