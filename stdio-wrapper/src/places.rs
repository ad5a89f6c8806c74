//! Counts the sessions of each user, the requests in progress for each user, or similar things. All clients of a user are
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

/// One or more slots of a user. Dropping it frees the slots.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    user: Arc<str>,
    count: usize,
}

impl Places {
    /// Takes another slot for the user of `owner`, who can have `max` of them. Returns `None` if the user
    /// already has that many.
    pub fn take(self: &Arc<Self>, owner: &str, max: usize) -> Option<Place> {
        self.take_several(owner, 1, max)
    }

    /// Takes `count` slots at once for the user of `owner`, who can have `max` of them. Returns `None`, and
    /// takes no slot, if that would be more.
    pub fn take_several(self: &Arc<Self>, owner: &str, count: usize, max: usize) -> Option<Place> {
        let allow = |taken: usize| if taken.saturating_add(count) <= max { Ok(()) } else { Err(()) };
        self.add(owner, count, allow).ok()
    }

    /// Takes another slot for the user of `owner` if `allow` returns `Ok`. `allow` gets the user's number of
    /// slots, which cannot change while it runs.
    pub fn take_if<E>(
        self: &Arc<Self>,
        owner: &str,
        allow: impl FnOnce(usize) -> Result<(), E>,
    ) -> Result<Place, E> {
        self.add(owner, 1, allow)
    }

    fn add<E>(
        self: &Arc<Self>,
        owner: &str,
        count: usize,
        allow: impl FnOnce(usize) -> Result<(), E>,
    ) -> Result<Place, E> {
        let user: Arc<str> = Arc::from(user(owner));
        let mut counts = self.counts();
        allow(counts.get(&user).copied().unwrap_or_default())?;
        *counts.entry(Arc::clone(&user)).or_default() += count;
        drop(counts);
        Ok(Place { places: Arc::clone(self), user, count })
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
            *count -= self.count;
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

    #[test]
    fn several_places_are_taken_and_given_back_together() {
        let places = Arc::<Places>::default();
        let most = places.take_several("ana\none", 3, 4).unwrap();
        assert!(places.take_several("ana\nanother", 2, 4).is_none());
        assert_eq!(places.taken("ana\none"), 3, "a refusal takes none");
        let last = places.take_several("ana\nanother", 1, 4).unwrap();
        drop((most, last, places.take_several("bob\none", 0, 4)));
        assert!(places.counts().is_empty());
    }
}
