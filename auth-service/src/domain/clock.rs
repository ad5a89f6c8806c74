//! Time and randomness as parameters, so that every expiry and every token can be tested.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Seconds since the Unix epoch (`NumericDate` of RFC 7519 §2, without fractions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// This moment and `duration` more; far beyond any lifetime it stays at the last second there is.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }

    /// How long ago `earlier` was; nothing if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What time it is.
pub trait Clock: Send + Sync {
    /// The present second.
    fn now(&self) -> UnixTime;

    /// How long the machine has been up, asleep or not: a time that nobody sets. Only differences mean something. A clock that
    /// is never set goes with it.
    fn up(&self) -> Duration {
        Duration::from_secs(self.now().0)
    }

    /// Whether it tells the time of day, so that it can be compared with clocks of other machines.
    fn is_time_of_day(&self) -> bool {
        false
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    fn now(&self) -> UnixTime {
        // A clock set before 1970 makes everything expired, which is the safe side.
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixTime(elapsed.as_secs())
    }

    fn up(&self) -> Duration {
        let up = clock_gettime(ClockId::Boottime);
        let part = |number: i64| u64::try_from(number).unwrap_or_default();
        Duration::from_secs(part(up.tv_sec)) + Duration::from_nanos(part(up.tv_nsec))
    }

    fn is_time_of_day(&self) -> bool {
        true
    }
}

/// A source of unpredictable bytes.
pub trait Random: Send + Sync {
    /// 32 bytes nobody can guess.
    ///
    /// # Errors
    /// When the operating system gives none; the request that needs them must fail.
    fn bytes(&self) -> Result<[u8; 32], RandomUnavailable>;
}

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct RandomUnavailable;
