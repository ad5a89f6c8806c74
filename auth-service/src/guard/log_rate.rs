//! Lines of the log that strangers can cause: so many, and then a count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::keyed_rate::{OneRate, quota};

/// Lines in a row, then one every so often, of what each request of a stranger may cause.
const OF_STRANGERS: (u32, Duration) = (20, Duration::from_secs(10));
/// Of any one place in the program.
const OF_A_PLACE: (u32, Duration) = (100, Duration::from_secs(1));

/// See the module's text. One for each kind of line.
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

    /// For a place in the program of which it is not known who can make it write.
    pub fn of_a_place() -> Self {
        Self::new(OF_A_PLACE)
    }

    /// Whether the line is to be written, and how many were left out since the last one.
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
