//! A rate for each of many keys that strangers choose, in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// Keys that are told apart. A key takes about a hundred bytes.
pub const MAX_KEYS: usize = 10_000;
/// What is left of the difference between keys while there are more than that.
const BUCKETS: u64 = 4096;

/// See the module's text.
///
/// While more than [`MAX_KEYS`] are remembered, all keys fall into a few thousand buckets, which share the rate of one: a
/// flood of made-up keys slows those whose bucket it exhausts, and takes no more memory.
pub struct KeyedRate<K: Hash + Eq + Clone> {
    exact: Cells<K>,
    crowded: Cells<u64>,
    max_keys: usize,
    hasher: RandomState,
}

/// One that was counted, and may be given back.
#[derive(Debug)]
pub enum Taken<K> {
    /// For the key.
    Exact(K),
    /// For its bucket.
    Crowded(u64),
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
        Self { exact: Cells::new(quota), crowded: Cells::new(quota), max_keys, hasher: RandomState::new() }
    }

    /// Counts one for `key`.
    pub fn check(&self, key: &K) -> Result<(), TooFast> {
        self.take(key).map(drop)
    }

    /// Counts one for `key` that may turn out to count for nothing.
    pub fn take(&self, key: &K) -> Result<Taken<K>, TooFast> {
        if self.exact.len() < self.max_keys {
            self.exact.take(key)?;
            Ok(Taken::Exact(key.clone()))
        } else {
            let bucket = self.hasher.hash_one(key) % BUCKETS;
            self.crowded.take(&bucket)?;
            Ok(Taken::Crowded(bucket))
        }
    }

    /// Counts one less.
    pub fn give_back(&self, taken: Taken<K>) {
        match taken {
            Taken::Exact(key) => self.exact.give_back(&key),
            Taken::Crowded(bucket) => self.crowded.give_back(&bucket),
        }
    }

    /// Forgets whoever is within the rate again; called now and then.
    pub fn forget_idle(&self) {
        self.exact.forget_idle();
        self.crowded.forget_idle();
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.exact.len() + self.crowded.len()
    }
}

/// The generic cell rate algorithm: for each key, when all that was counted for it will be made up for.
struct Cells<K> {
    made_up_at: Mutex<HashMap<K, Instant>>,
    /// For how long one counts.
    every: Duration,
    /// How far ahead of the time a key may be and still have one more.
    ahead: Duration,
}

impl<K: Hash + Eq + Clone> Cells<K> {
    fn new(quota: Quota) -> Self {
        let every = quota.replenish_interval();
        let ahead = every.saturating_mul(quota.burst_size().get() - 1);
        Self { made_up_at: Mutex::default(), every, ahead }
    }

    fn take(&self, key: &K) -> Result<(), TooFast> {
        let now = Instant::now();
        let mut all = self.made_up_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = all.get(key).map_or(now, |at| now.max(*at));
        let wait = begun.duration_since(now).saturating_sub(self.ahead);
        if !wait.is_zero() {
            return Err(TooFast { retry_after_seconds: wait.as_secs() + 1 });
        }
        all.insert(key.clone(), begun + self.every);
        Ok(())
    }

    fn give_back(&self, key: &K) {
        let mut all = self.made_up_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = all.get_mut(key) {
            *at = at.checked_sub(self.every).unwrap_or(*at);
        }
    }

    fn forget_idle(&self) {
        let now = Instant::now();
        let mut all = self.made_up_at.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, at| *at > now);
        all.shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.made_up_at.lock().unwrap_or_else(PoisonError::into_inner).len()
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
pub fn quota((burst, every): (u32, Duration)) -> Quota {
    let burst = std::num::NonZeroU32::new(burst).unwrap_or(std::num::NonZeroU32::MIN);
    Quota::with_period(every).unwrap_or(Quota::per_second(std::num::NonZeroU32::MIN)).allow_burst(burst)
}

#[cfg(test)]
mod tests {
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
