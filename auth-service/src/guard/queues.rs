//! Queues of waiting requests, one for each address.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::client_address::network;

/// The address of a queue: an IPv4 address or an IPv6 /64 network, if it is known.
pub(super) type Key = Option<IpAddr>;

/// The waiting entries, by address. The oldest entry of each address comes first.
#[derive(Debug)]
pub(super) struct Queues<T> {
    by_address: HashMap<Key, BTreeMap<u64, T>>,
    count: usize,
    /// Number of the next entry. Entries are numbered in the order in which they are added.
    next: u64,
}

/// The position of an entry: the queue of its address, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) key: Key,
    pub(super) number: u64,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self { by_address: HashMap::new(), count: 0, next: 0 }
    }
}

impl<T> Queues<T> {
    /// Adds an entry at the end of the queue of its address.
    pub(super) fn add(&mut self, address: Option<IpAddr>, entry: T) -> Position {
        let key = address.map(network);
        let number = self.next;
        self.next += 1;
        self.count += 1;
        self.by_address.entry(key).or_default().insert(number, entry);
        Position { key, number }
    }

    /// Total number of entries.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn count_of(&self, key: Key) -> usize {
        self.by_address.get(&key).map_or(0, BTreeMap::len)
    }

    /// The address that has the most entries. If there are several, it is the one with the oldest entry.
    pub(super) fn fullest(&self) -> Option<Key> {
        let first = |queue: &BTreeMap<u64, _>| queue.keys().next().copied();
        let fullest = self.by_address.iter().max_by_key(|(_, queue)| (queue.len(), Reverse(first(queue))));
        fullest.map(|(key, _)| *key)
    }

    /// The address that has the most entries. If there are several, it is the one with the newest entry.
    pub(super) fn fullest_and_newest(&self) -> Option<Key> {
        let last = |queue: &BTreeMap<u64, _>| queue.keys().next_back().copied();
        let fullest = self.by_address.iter().max_by_key(|(_, queue)| (queue.len(), last(queue)));
        fullest.map(|(key, _)| *key)
    }

    pub(super) fn take_oldest(&mut self, key: Key) -> Option<(u64, T)> {
        self.take(key, BTreeMap::pop_first)
    }

    pub(super) fn take_newest(&mut self, key: Key) -> Option<(u64, T)> {
        self.take(key, BTreeMap::pop_last)
    }

    /// Removes an entry, if it is still waiting.
    pub(super) fn remove(&mut self, position: Position) -> Option<T> {
        let entry = self.take(position.key, |queue| queue.remove_entry(&position.number));
        entry.map(|(_, entry)| entry)
    }

    fn take(
        &mut self,
        key: Key,
        from: impl FnOnce(&mut BTreeMap<u64, T>) -> Option<(u64, T)>,
    ) -> Option<(u64, T)> {
        let queue = self.by_address.get_mut(&key)?;
        let taken = from(queue);
        if queue.is_empty() {
            self.by_address.remove(&key);
        }
        self.count -= usize::from(taken.is_some());
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_leaves_nothing_behind() {
        let mut queues = Queues::default();
        let [ana, eve]: [IpAddr; 2] = ["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let first = queues.add(Some(ana), 'a');
        queues.add(Some(eve), 'b');
        // This address is in the same network.
        let last = queues.add(Some("2001:db8::2".parse().unwrap()), 'c');
        assert_eq!((queues.count(), queues.count_of(last.key), queues.fullest()), (3, 2, Some(last.key)));
        assert_eq!(queues.take_newest(last.key).map(|(_, entry)| entry), Some('c'));
        assert_eq!(queues.remove(last), None);
        assert_eq!(queues.fullest(), Some(first.key));
        assert_eq!(queues.remove(first), Some('a'));
        assert_eq!(queues.take_oldest(last.key).map(|(_, entry)| entry), Some('b'));
        assert_eq!((queues.count(), queues.by_address.len()), (0, 0));
    }
}
