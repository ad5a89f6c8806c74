//! Limits how many lines are logged.

use std::time::Duration;

use tokio::time::Instant;

/// Whether a line can be logged.
#[derive(Debug, PartialEq, Eq)]
pub enum Pass {
    /// The line can be logged.
    Yes {
        /// The number of earlier lines that were not logged.
        suppressed: u64,
    },
    /// The line must not be logged.
    No,
}

/// The length of the window in which lines are counted.
pub(super) const WINDOW: Duration = Duration::from_secs(1);

/// Allows at most `rate` lines in each window of one second.
#[derive(Debug)]
pub struct RateLimit {
    rate: u32,
    window: Instant,
    used: u32,
    suppressed: u64,
}

impl RateLimit {
    /// Creates a limit whose first window starts now.
    pub fn new(rate: u32, now: Instant) -> Self {
        Self { rate, window: now, used: 0, suppressed: 0 }
    }

    /// Counts a line, and returns whether it can be logged.
    pub fn take(&mut self, now: Instant) -> Pass {
        if now.duration_since(self.window) >= WINDOW {
            self.window = now;
            self.used = 0;
        }
        if self.used >= self.rate {
            self.suppressed += 1;
            return Pass::No;
        }
        self.used += 1;
        Pass::Yes { suppressed: std::mem::take(&mut self.suppressed) }
    }

    /// The number of suppressed lines that have not been reported yet, if the window in which they were
    /// suppressed is over.
    pub fn left_out(&mut self, now: Instant) -> u64 {
        let is_over = now.duration_since(self.window) >= WINDOW;
        if is_over { std::mem::take(&mut self.suppressed) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_rate_are_counted_and_reported_later() {
        let start = Instant::now();
        let mut log = RateLimit::new(2, start);
        assert_eq!(log.take(start), Pass::Yes { suppressed: 0 });
        assert_eq!(log.take(start), Pass::Yes { suppressed: 0 });
        assert_eq!(log.take(start), Pass::No);
        assert_eq!(log.take(start), Pass::No);
        assert_eq!(log.left_out(start), 0);
        assert_eq!(log.take(start + Duration::from_secs(1)), Pass::Yes { suppressed: 2 });
        let later = start + Duration::from_secs(1);
        assert_eq!((log.take(later), log.take(later)), (Pass::Yes { suppressed: 0 }, Pass::No));
        let end = start + Duration::from_secs(2);
        assert_eq!((log.left_out(end), log.left_out(end)), (1, 0), "even if no line follows");
    }
}
