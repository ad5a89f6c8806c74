//! Counts the sessions of each user, or the requests in progress for each user. All clients of a user are
//! counted together, because a user can have any number of clients.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::budget::user;

/// The slots that users have taken.
#[derive(Debug, Default)]
pub struct Places {
    counts: Mutex<HashMap<Arc<str>, usize>>,
    /// Notified whenever a slot becomes free.
    freed: Notify,
}

/// A slot of a user. Dropping it frees the slot.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    user: Arc<str>,
}

impl Places {
    /// Takes another slot for the user of `owner`, who can have `max` of them. Returns `None` if the user
    /// already has that many.
    pub fn take(self: &Arc<Self>, owner: &str, max: usize) -> Option<Place> {
        self.take_if(owner, |taken| if taken < max { Ok(()) } else { Err(()) }).ok()
    }

    /// Takes another slot for the user of `owner` if `allow` returns `Ok`. `allow` gets the user's number of
    /// slots, which cannot change while it runs.
    pub fn take_if<E>(
        self: &Arc<Self>,
        owner: &str,
        allow: impl FnOnce(usize) -> Result<(), E>,
    ) -> Result<Place, E> {
        let user: Arc<str> = Arc::from(user(owner));
        let mut counts = self.counts();
        allow(counts.get(&user).copied().unwrap_or_default())?;
        *counts.entry(Arc::clone(&user)).or_default() += 1;
        drop(counts);
        Ok(Place { places: Arc::clone(self), user })
    }

    /// The number of slots of the user of `owner`.
    pub fn taken(&self, owner: &str) -> usize {
        self.counts().get(user(owner)).copied().unwrap_or_default()
    }

    /// Completes when the next slot becomes free.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.places.counts();
        if let Some(count) = counts.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.user);
            }
        }
        drop(counts);
        self.places.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_of_a_user_share_places_and_nothing_is_left_of_those_that_were_given_back() {
        let places = Arc::<Places>::default();
        let first = places.take("ana\none", 2).unwrap();
        let second = places.take("ana\nanother", 2).unwrap();
        assert!(places.take("ana\na third", 2).is_none());
        let other = places.take("bob\none", 2).unwrap();
        drop(first);
        assert_eq!(places.taken("ana\none"), 1);
        assert!(places.take("ana\none", 2).is_some());
        drop((second, other));
        assert!(places.counts().is_empty());
    }
}
