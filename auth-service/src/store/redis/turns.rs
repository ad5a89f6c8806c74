//! Serializes the calls in this process that change the lists of one account.
//!
//! A list and its rows are in different slots, so a new row, its entry, and the removal of the rows that exceed
//! the limits are several steps. Within one replica, only one call at a time performs these steps for an account.
//! While these steps run, an account can exceed a ceiling by one row for each replica. It can also exceed it by
//! rows that could not be removed. Those stay in the list, and the next call removes them.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

use crate::domain::account::Subject;

/// The number of queues. Calls for accounts in the same queue wait for each other, which takes milliseconds. Users
/// cannot choose their queue.
const QUEUES: usize = 64;

/// The queues in which calls wait.
pub(super) struct Turns {
    queues: [Mutex<()>; QUEUES],
    hasher: RandomState,
}

/// The exclusive right to change the lists of an account, until this value is dropped.
pub(super) struct Turn<'a> {
    _guard: Option<MutexGuard<'a, ()>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { queues: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl Turns {
    /// Waits until no other call in this process changes the lists of this account.
    pub(super) async fn next(&self, account: &Subject) -> Turn<'_> {
        let hash = self.hasher.hash_one(account.as_str());
        let place = usize::try_from(hash % QUEUES as u64).unwrap_or_default();
        let guard = match self.queues.get(place) {
            Some(queue) => Some(queue.lock().await),
            None => None,
        };
        Turn { _guard: guard }
    }
}
