//! Limits the number of concurrent operations for one key, such as an address or a host.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::client_address::network;

type Counts<K> = Arc<Mutex<HashMap<K, u32>>>;

/// The number of operations in progress for each key. Keys without operations are removed.
pub struct InFlight<K = Option<IpAddr>> {
    most: u32,
    counts: Counts<K>,
}

/// One operation in progress. Dropping it frees the slot.
#[derive(Debug)]
pub struct Place<K: Eq + Hash = Option<IpAddr>> {
    key: K,
    counts: Counts<K>,
}

/// The key already has the maximum number of operations in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests of this kind from one network at the same time; try again in a moment")]
pub struct NoPlace;

impl InFlight {
    /// Begins an operation for an address.
    pub fn enter(&self, address: Option<IpAddr>) -> Result<Place, NoPlace> {
        self.enter_as(address.map(network))
    }

    /// Begins an operation for an address. The address can have more than `share` in progress only while all
    /// addresses together have fewer than `roomy`.
    pub fn enter_sharing(&self, share: u32, roomy: u32, address: Option<IpAddr>) -> Result<Place, NoPlace> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let most = if counts.values().sum::<u32>() < roomy { self.most } else { share };
        self.enter_below(most, address.map(network), &mut counts)
    }
}

impl<K: Clone + Eq + Hash> InFlight<K> {
    /// Allows each key this number of concurrent operations.
    pub fn new(most: u32) -> Self {
        Self { most, counts: Counts::default() }
    }

    /// Begins an operation for this key.
    pub fn enter_as(&self, key: K) -> Result<Place<K>, NoPlace> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        self.enter_below(self.most, key, &mut counts)
    }

    fn enter_below(&self, most: u32, key: K, counts: &mut HashMap<K, u32>) -> Result<Place<K>, NoPlace> {
        let under_way = counts.get(&key).copied().unwrap_or_default();
        if under_way >= most {
            return Err(NoPlace);
        }
        counts.insert(key.clone(), under_way + 1);
        Ok(Place { key, counts: Arc::clone(&self.counts) })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a100_one_address_takes_its_own_places_only_and_leaves_nothing_behind() {
        let places = InFlight::new(2);
        let (one, other): (IpAddr, IpAddr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8:0:1::1".parse().unwrap());
        let first = places.enter(Some(one)).unwrap();
        let second = places.enter(Some("2001:db8::2".parse().unwrap())).unwrap();
        assert_eq!(places.enter(Some(one)).unwrap_err(), NoPlace);
        let third = places.enter(Some(other)).unwrap();
        drop(first);
        drop(places.enter(Some(one)).unwrap());
        drop((second, third));
        assert!(places.counts.lock().unwrap().is_empty());
    }
}
