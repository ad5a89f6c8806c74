//! The resources that a session's child watches for stateless listeners.

use std::collections::{BTreeMap, BTreeSet};

use crate::budget::Kept;

/// The watched resources of one session. Each resource is requested from the child once, however many listeners
/// want it.
#[derive(Debug, Default)]
pub(super) struct Watched(BTreeMap<Kept, Watch>);

#[derive(Debug, Default)]
struct Watch {
    /// The numbers of the listeners that want the resource.
    listeners: BTreeSet<u64>,
    /// Whether the child has confirmed that it watches the resource.
    is_confirmed: bool,
}

impl Watched {
    /// Adds a listener to a resource. Returns whether the child must be asked to watch it. Until the child has
    /// confirmed a request, every listener sends its own, so that each of them learns of a refusal.
    pub(super) fn add(&mut self, uri: &Kept, listener: u64) -> bool {
        let watch = self.0.entry(uri.clone()).or_default();
        watch.listeners.insert(listener);
        !watch.is_confirmed
    }

    /// Records that the child has confirmed the request of a listener. If the listener has been removed, the
    /// child might have stopped watching the resource since.
    pub(super) fn confirm(&mut self, uri: &str, listener: u64) {
        if let Some(watch) = self.0.get_mut(uri).filter(|watch| watch.listeners.contains(&listener)) {
            watch.is_confirmed = true;
        }
    }

    /// Removes a listener from a resource. Returns whether it was the last one, so that the child must stop
    /// watching the resource.
    pub(super) fn remove(&mut self, uri: &str, listener: u64) -> bool {
        let Some(watch) = self.0.get_mut(uri) else { return false };
        let is_last = watch.listeners.remove(&listener) && watch.listeners.is_empty();
        if is_last {
            self.0.remove(uri);
        }
        is_last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Reservation;

    #[test]
    fn a100_only_the_first_and_the_last_listener_of_a_resource_cost_the_child_a_request() {
        let uri = Reservation::unlimited().keep("file:///a").unwrap();
        let mut watched = Watched::default();
        assert!(watched.add(&uri, 1));
        watched.confirm(&uri, 1);
        assert!(!watched.add(&uri, 2));
        assert!(!watched.remove(&uri, 1));
        assert!(!watched.remove(&uri, 1), "a listener counts once");
        assert!(watched.remove(&uri, 2));
        assert!(watched.0.is_empty());
        assert!(watched.add(&uri, 3), "the child no longer watches it");
    }

    #[test]
    fn a_listener_relies_only_on_a_request_that_the_child_has_confirmed() {
        let uri = Reservation::unlimited().keep("file:///a").unwrap();
        let mut watched = Watched::default();
        assert!(watched.add(&uri, 1));
        assert!(watched.add(&uri, 2), "the first request might be refused");
        assert!(!watched.remove(&uri, 1));
        watched.confirm(&uri, 1);
        assert!(watched.add(&uri, 3), "the confirmation is for a listener that has gone");
        watched.confirm(&uri, 2);
        assert!(!watched.add(&uri, 4));
    }
}
