//! Time and randomness as parameters, so that tests can control every expiry and every token.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds since the Unix epoch (`NumericDate` of RFC 7519 §2, without fractions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// Adds `duration` to this time, saturating at the largest value. Fractions of a second are dropped.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }

    /// The time that has passed since `earlier`; zero if `earlier` is later than this time.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }

    /// The absolute difference between this time and `other`.
    pub fn distance(self, other: Self) -> Duration {
        Duration::from_secs(self.0.abs_diff(other.0))
    }
}

impl UnixTime {
    /// The time in RFC 3339 format (UTC), or the number of seconds if the calendar cannot represent it.
    pub fn readable(self) -> String {
        let moment = i64::try_from(self.0).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
        moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| self.to_string())
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A source of the current time.
pub trait Clock: Send + Sync {
    /// The current time of day, in whole seconds.
    fn now(&self) -> UnixTime;

    /// The time since the machine started, including sleep. It cannot be set, so differences are reliable, but the
    /// absolute value has no meaning. The default implementation is for test clocks. They are never set, so the
    /// time of day serves the same purpose.
    fn up(&self) -> Duration {
        Duration::from_secs(self.now().0)
    }

    /// Identifies the start of the machine from which [`Self::up`] is measured. The uptimes of two processes can be
    /// compared if this identifier is the same. The default implementation is for test clocks.
    fn boot(&self) -> Option<u64> {
        None
    }

    /// Whether [`Self::now`] is the real time of day, so that it can be compared with the clocks of other
    /// machines.
    fn is_time_of_day(&self) -> bool {
        false
    }
}

/// The clock of this machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    fn now(&self) -> UnixTime {
        // If the clock is before 1970, the time is 0.
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixTime(elapsed.as_secs())
    }

    fn up(&self) -> Duration {
        let up = clock_gettime(ClockId::Boottime);
        let part = |number: i64| u64::try_from(number).unwrap_or_default();
        Duration::from_secs(part(up.tv_sec)) + Duration::from_nanos(part(up.tv_nsec))
    }

    fn boot(&self) -> Option<u64> {
        *BOOT
    }

    fn is_time_of_day(&self) -> bool {
        true
    }
}

/// The kernel's identifier of this start of the machine, together with the time namespace (`time_namespaces(7)`),
/// because a container can have an uptime of its own. `None` if they cannot be read.
static BOOT: LazyLock<Option<u64>> = LazyLock::new(|| {
    let start = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    let hash = digest(&SHA256, &[&start, namespace.as_os_str().as_bytes()].concat());
    hash.as_ref().first_chunk().map(|first| u64::from_be_bytes(*first))
});

/// A source of unpredictable bytes.
pub trait Random: Send + Sync {
    /// Returns 32 unpredictable bytes.
    ///
    /// # Errors
    /// Fails if the operating system provides none. The request that needs them must fail.
    fn bytes(&self) -> Result<[u8; 32], RandomUnavailable>;
}

/// The operating system provided no random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the operating system provided no random bytes")]
pub struct RandomUnavailable;
