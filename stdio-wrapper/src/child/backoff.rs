//! Back-off when children keep dying at start.

use std::time::Duration;

use tokio::time::Instant;

/// So many failures in a row cost nothing.
const FREE: u32 = 2;
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Failures in a row, and until when no child is started.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// A child ended before it answered, or could not be started.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures > FREE {
            let pause = Duration::from_secs(1 << (self.failures - FREE - 1).min(6)).min(MAX_PAUSE);
            self.until = Some(now + pause);
        }
    }

    /// A child answered.
    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }

    /// How long to wait before the next start; `None`: not at all.
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
