//! Limits the log lines that strangers can cause. Dropped lines are counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::keyed_rate::{KeyedRate, MAX_KEYS, OneRate, quota};

/// Limit on lines that any request from a stranger can cause: the size of a burst, and the time after which one
/// more is allowed. The other limits have the same form.
const OF_STRANGERS: (u32, Duration) = (20, Duration::from_secs(10));
/// Limit on lines that a single statement in the program can write.
const OF_A_PLACE: (u32, Duration) = (100, Duration::from_secs(1));

/// The limit for one kind of log line.
pub struct LogRate {
    rate: OneRate,
    left_out: AtomicU64,
}

impl Default for LogRate {
    fn default() -> Self {
        Self::new(OF_STRANGERS)
    }
}

impl LogRate {
    fn new(lines: (u32, Duration)) -> Self {
        Self { rate: OneRate::new(quota(lines)), left_out: AtomicU64::new(0) }
    }

    /// Creates the limit for one statement in the program that writes log lines whose cause is unknown.
    pub fn of_a_place() -> Self {
        Self::new(OF_A_PLACE)
    }

    /// Counts a line. Returns the number of lines dropped since the last one, or `None` if this line must be
    /// dropped as well.
    pub fn admit(&self) -> Option<u64> {
        if self.rate.check().is_ok() {
            Some(self.left_out.swap(0, Ordering::Relaxed))
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// Limit on lines about one account.
const OF_AN_ACCOUNT: (u32, Duration) = (100, Duration::from_secs(10));

/// The limits for log lines about each of many keys.
pub struct LogRates<K: Hash + Eq + Clone> {
    rate: KeyedRate<K>,
    left_out: Mutex<HashMap<K, u64>>,
}

impl<K: Hash + Eq + Clone> LogRates<K> {
    /// Creates the limits for lines about accounts.
    pub fn of_accounts() -> Self {
        Self { rate: KeyedRate::new(quota(OF_AN_ACCOUNT)), left_out: Mutex::default() }
    }

    /// Counts a line about `key`. Returns the number of lines about it dropped since the last one, or `None` if
    /// this line must be dropped as well.
    pub fn admit(&self, key: &K) -> Option<u64> {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        if self.rate.check(key).is_ok() {
            return Some(left_out.remove(key).unwrap_or_default());
        }
        // This many keys are not expected. Lines about further keys are dropped without being counted.
        if left_out.len() < MAX_KEYS || left_out.contains_key(key) {
            *left_out.entry(key.clone()).or_default() += 1;
        }
        None
    }

    /// Removes keys that are no longer limited. Called periodically.
    pub fn forget_idle(&self) {
        self.rate.forget_idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_about_one_account_leaves_out_none_about_another() {
        let rates = LogRates::of_accounts();
        let written = (0..1000).filter(|_| rates.admit(&"eve").is_some()).count();
        assert!((100..=102).contains(&written), "{written}");
        assert_eq!(rates.admit(&"ana"), Some(0));
        let left_out = rates.left_out.lock().unwrap().get("eve").copied().unwrap();
        assert_eq!(left_out + u64::try_from(written).unwrap(), 1000);
    }

    #[test]
    fn a_flood_of_lines_is_told_by_its_number() {
        let rate = LogRate::default();
        let written = (0..1000).filter(|_| rate.admit().is_some()).count();
        assert!((20..=22).contains(&written), "{written}");
        assert_eq!(rate.left_out.load(Ordering::Relaxed) + u64::try_from(written).unwrap(), 1000);
    }
}
