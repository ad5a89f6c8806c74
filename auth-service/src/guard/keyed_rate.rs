//! Rate limits for keys that strangers choose, in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// Maximum number of keys with separate limits. A key uses about a hundred bytes.
pub const MAX_KEYS: usize = 10_000;
/// Number of buckets that keys share while there are more keys than [`MAX_KEYS`].
const BUCKETS: u64 = 4096;

/// A rate limit for each of many keys.
///
/// When [`MAX_KEYS`] keys are stored, all keys are assigned to a few thousand buckets, and the keys in a bucket
/// share the rate of one key. A flood of made-up keys slows down only the keys in the buckets that it exhausts,
/// and needs no additional memory.
pub struct KeyedRate<K: Hash + Eq + Clone> {
    exact: Cells<K>,
    crowded: Cells<u64>,
    max_keys: usize,
    hasher: RandomState,
}

/// A counted event that [`KeyedRate::give_back`] can undo.
#[derive(Debug)]
pub enum Taken<K> {
    /// The event was counted under this key.
    Exact(K),
    /// The event was counted in this bucket.
    Crowded(u64),
}

/// A rate limit was exceeded, and the attempt was not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts; try again in {retry_after_seconds} seconds")]
pub struct TooFast {
    /// Seconds until the next attempt can succeed.
    pub retry_after_seconds: u64,
}

impl<K: Hash + Eq + Clone> KeyedRate<K> {
    /// Creates a limiter with this rate for each key.
    pub fn new(quota: Quota) -> Self {
        Self::with_max_keys(quota, MAX_KEYS)
    }

    fn with_max_keys(quota: Quota, max_keys: usize) -> Self {
        Self { exact: Cells::new(quota), crowded: Cells::new(quota), max_keys, hasher: RandomState::new() }
    }

    /// Counts one event for `key`, unless its limit is exceeded.
    pub fn check(&self, key: &K) -> Result<(), TooFast> {
        self.take(key).map(drop)
    }

    /// Counts one event for `key`, which [`Self::give_back`] can undo.
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

    /// Undoes the counting of one event.
    pub fn give_back(&self, taken: Taken<K>) {
        match taken {
            Taken::Exact(key) => self.exact.give_back(&key),
            Taken::Crowded(bucket) => self.crowded.give_back(&bucket),
        }
    }

    /// Removes keys that are within the rate again. Called periodically.
    pub fn forget_idle(&self) {
        self.exact.forget_idle();
        self.crowded.forget_idle();
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.exact.len() + self.crowded.len()
    }
}

/// The generic cell rate algorithm. For each key, it stores the time at which the key's limit will have recovered
/// completely.
struct Cells<K> {
    made_up_at: Mutex<HashMap<K, Instant>>,
    /// The time after which one more event is allowed.
    every: Duration,
    /// One more event is allowed if the stored time is at most this far in the future.
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

/// A single rate limit that all callers share. Like [`KeyedRate`], it fails with [`TooFast`].
pub struct OneRate {
    rate: governor::DefaultDirectRateLimiter,
    clock: DefaultClock,
}

impl OneRate {
    /// Creates a limiter with this rate.
    pub fn new(quota: Quota) -> Self {
        Self { rate: RateLimiter::direct(quota), clock: DefaultClock::default() }
    }

    /// Counts one event, unless the limit is exceeded.
    pub fn check(&self) -> Result<(), TooFast> {
        self.rate.check().map_err(|wait| TooFast {
            retry_after_seconds: wait.wait_time_from(self.clock.now()).as_secs() + 1,
        })
    }
}

/// Makes a quota from the size of a burst, and the time after which one more event is allowed.
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
