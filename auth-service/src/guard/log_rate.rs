//! Limits the log lines that strangers can cause. What is left out is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::keyed_rate::{OneRate, quota};

/// Lines that any request of a stranger can cause: the number in a row, and the time after which one more is
/// allowed.
const OF_STRANGERS: (u32, Duration) = (20, Duration::from_secs(10));
/// Lines of any single place in the program.
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

    /// Creates the limit for a place in the program, when it is not known who can make it write lines.
    pub fn of_a_place() -> Self {
        Self::new(OF_A_PLACE)
    }

    /// Counts a line. Returns the number of lines that were left out since the last one, or `None` if this
    /// line is to be left out too.
    pub fn admit(&self) -> Option<u64> {
        if self.rate.check().is_ok() {
            Some(self.left_out.swap(0, Ordering::Relaxed))
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_told_by_its_number() {
        let rate = LogRate::default();
        let written = (0..1000).filter(|_| rate.admit().is_some()).count();
        assert!((20..=22).contains(&written), "{written}");
        assert_eq!(rate.left_out.load(Ordering::Relaxed) + u64::try_from(written).unwrap(), 1000);
    }
}
