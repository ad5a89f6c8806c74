//! The number of processes and threads that each child has had recently. A scan can miss short-lived processes, but
//! they keep the container full. They are charged to their child for as long as they are remembered.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Time for which a number is remembered.
const RECENT: Duration = Duration::from_secs(1);

/// The numbers that the last scans found, by child.
#[derive(Debug, Default)]
pub(super) struct RecentTasks {
    /// The times and the numbers, in the order of the scans. A number that is not larger than a later one is not kept.
    children: HashMap<u64, Vec<(Instant, u64)>>,
}

impl RecentTasks {
    /// Forgets the children that no longer exist.
    pub(super) fn retain(&mut self, exists: impl Fn(u64) -> bool) {
        self.children.retain(|number, _| exists(*number));
    }

    /// Records what a scan has found, and returns the largest recent number.
    pub(super) fn record(&mut self, child: u64, tasks: u64, now: Instant) -> u64 {
        let looks = self.children.entry(child).or_default();
        looks.retain(|(at, found)| now.duration_since(*at) < RECENT && *found > tasks);
        looks.push((now, tasks));
        looks.first().map_or(tasks, |(_, most)| *most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a100_the_largest_number_of_the_last_second_counts() {
        let (mut recent, start) = (RecentTasks::default(), Instant::now());
        let mut record = |after, tasks| recent.record(1, tasks, start + Duration::from_millis(after));
        let looks = [(0, 9), (100, 140), (200, 7), (900, 60), (1099, 8), (1100, 5), (1899, 6), (1900, 4)];
        assert_eq!(looks.map(|(after, tasks)| record(after, tasks)), [9, 140, 140, 140, 140, 60, 60, 8]);
        assert_eq!(recent.record(2, 3, start), 3, "each child has numbers of its own");
        recent.retain(|child| child == 2);
        assert_eq!((recent.record(1, 2, start), recent.record(2, 1, start)), (2, 3));
    }
}
