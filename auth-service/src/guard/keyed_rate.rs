//! A rate for each of many keys that strangers choose, in bounded memory.

use std::hash::{BuildHasher, Hash, RandomState};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Keys that are told apart. A key takes about a hundred bytes.
pub const MAX_KEYS: usize = 10_000;
/// What is left of the difference between keys while there are more than that.
const BUCKETS: u64 = 4096;

/// See the module's text.
///
/// While more than [`MAX_KEYS`] are remembered, all keys fall into a few thousand buckets, which share the rate of one: a
/// flood of made-up keys slows those whose bucket it exhausts, and takes no more memory.
pub struct KeyedRate<K: Hash + Eq + Clone> {
    exact: DefaultKeyedRateLimiter<K>,
    crowded: DefaultKeyedRateLimiter<u64>,
    max_keys: usize,
    hasher: RandomState,
    clock: DefaultClock,
}

/// There were too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts; try again in {retry_after_seconds} seconds")]
pub struct TooFast {
    /// When it is worth trying again.
    pub retry_after_seconds: u64,
}

impl<K: Hash + Eq + Clone> KeyedRate<K> {
    /// With this rate for each key.
    pub fn new(quota: Quota) -> Self {
        Self::with_max_keys(quota, MAX_KEYS)
    }

    fn with_max_keys(quota: Quota, max_keys: usize) -> Self {
        Self {
            exact: RateLimiter::keyed(quota),
            crowded: RateLimiter::keyed(quota),
            max_keys,
            hasher: RandomState::new(),
            clock: DefaultClock::default(),
        }
    }

    /// Counts one for `key`.
    pub fn check(&self, key: &K) -> Result<(), TooFast> {
        let checked = if self.exact.len() < self.max_keys {
            self.exact.check_key(key)
        } else {
            self.crowded.check_key(&(self.hasher.hash_one(key) % BUCKETS))
        };
        checked.map_err(|wait| TooFast {
            retry_after_seconds: wait.wait_time_from(self.clock.now()).as_secs() + 1,
        })
    }

    /// Forgets whoever is within the rate again; called now and then.
    pub fn forget_idle(&self) {
        self.exact.retain_recent();
        self.exact.shrink_to_fit();
        self.crowded.retain_recent();
    }

    #[cfg(test)]
    fn remembered(&self) -> usize {
        self.exact.len() + self.crowded.len()
    }
}

/// One limit for all, with the same answer.
pub struct OneRate {
    rate: governor::DefaultDirectRateLimiter,
    clock: DefaultClock,
}

impl OneRate {
    /// With this rate.
    pub fn new(quota: Quota) -> Self {
        Self { rate: RateLimiter::direct(quota), clock: DefaultClock::default() }
    }

    /// Counts one.
    pub fn check(&self) -> Result<(), TooFast> {
        self.rate.check().map_err(|wait| TooFast {
            retry_after_seconds: wait.wait_time_from(self.clock.now()).as_secs() + 1,
        })
    }
}

/// So many in a row, then one every so often.
pub fn quota((burst, every): (u32, std::time::Duration)) -> Quota {
    let burst = std::num::NonZeroU32::new(burst).unwrap_or(std::num::NonZeroU32::MIN);
    Quota::with_period(every).unwrap_or(Quota::per_second(std::num::NonZeroU32::MIN)).allow_burst(burst)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a100_a_flood_of_made_up_keys_takes_no_more_memory_and_leaves_room_for_others() {
        let rate = KeyedRate::with_max_keys(quota((3, Duration::from_secs(3600))), 100);
        assert_eq!((0..10).filter(|_| rate.check(&"known".to_owned()).is_ok()).count(), 3);
        let admitted = (0..20_000).filter(|n| rate.check(&n.to_string()).is_ok()).count();
        let most = 100 + usize::try_from(BUCKETS).unwrap();
        assert!(rate.remembered() <= most, "{}", rate.remembered());
        assert!(admitted <= 3 * most, "{admitted}");
        rate.forget_idle();
        assert!(rate.remembered() <= most);
    }
}
