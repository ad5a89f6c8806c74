//! Pauses between starts when one child after the other ends before it has answered.

use std::time::Duration;

use tokio::time::Instant;

/// Number of failures in a row after which there is no pause yet.
const FREE: u32 = 2;
/// Maximum pause.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The number of failures in a row, and the end of the pause.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Records that a child ended before it answered, or could not be started.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures > FREE {
            let pause = Duration::from_secs(1 << (self.failures - FREE - 1).min(6)).min(MAX_PAUSE);
            self.until = Some(now + pause);
        }
    }

    /// Records that a child answered.
    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }

    /// The rest of the pause before the next start. Returns `None` if there is no pause.
    pub(super) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|rest| !rest.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_end_with_the_first_success() {
        let now = Instant::now();
        let mut backoff = Backoff::default();
        backoff.failed(now);
        backoff.failed(now);
        assert_eq!(backoff.remaining(now), None);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            backoff.failed(now);
            assert_eq!(backoff.remaining(now), Some(Duration::from_secs(seconds)));
        }
        backoff.worked();
        assert_eq!(backoff.remaining(now), None);
    }
}
