//! Heartbeats: each process regularly writes that it is alive, so that it can later recognize data from before its
//! last heartbeats. Otherwise, older data would be accepted if no right has been taken away since then, and refresh
//! tokens and codes that have been used since then would be valid again.
//!
//! Heartbeats have ascending numbers. A process only looks for its own last heartbeat, which no other process can
//! replace. A failover loses the last writes if the new master has not received them. This must not stop the service,
//! so a heartbeat counts only after this process has found it in Redis a minute later, over the same connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Number of later heartbeats after which Redis forgets the last one of a process.
pub(super) const REMEMBERED: u64 = 100_000;
/// Maximum number of heartbeats of this process that do not count yet.
const RECENT: usize = 16;

/// The timing of heartbeats, and the periods that are used to draw conclusions from them.
#[derive(Debug, Clone, Copy)]
pub struct HeartbeatPace {
    /// The interval between two heartbeats of a process.
    pub every: Duration,
    /// How long a heartbeat must have been in Redis before it counts. More recent ones can be lost in a failover.
    pub settled: Duration,
    /// How long after the creation of another store this process must have used its own store to show that both exist
    /// independently. There is a margin because the clocks of two Redis servers can differ.
    pub margin: Duration,
    /// How long Redis must have had another, independent store before a process uses it.
    pub follow: Duration,
    /// If a store gets no heartbeat for longer than this, it counts as unused during that time.
    pub gap: Duration,
}

impl Default for HeartbeatPace {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(20),
            settled: Duration::from_secs(60),
            margin: Duration::from_secs(300),
            follow: Duration::from_secs(600),
            gap: Duration::from_secs(120),
        }
    }
}

/// Identifies a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heartbeat {
    /// The random number of the process.
    pub(super) process: u64,
    /// The number of the heartbeat, which ascends across all processes.
    pub(super) number: u64,
}

/// What Redis returns for a heartbeat that was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) number: u64,
    /// The time of the server, in seconds.
    pub(super) at: Option<u64>,
}

/// What Redis reports about heartbeats.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HeartbeatReport {
    /// The number of the last heartbeat of the process that asks.
    pub(super) own: Option<u64>,
    /// The number of the last heartbeat of the process that left the claim.
    pub(super) of_claim: Option<u64>,
    /// The highest number of any heartbeat.
    pub(super) latest: Option<u64>,
}

impl HeartbeatReport {
    /// Whether the heartbeat `expected` is missing although it should be there. `found` is the number of the last
    /// heartbeat of its process.
    pub(super) fn lacks(&self, expected: Option<Heartbeat>, found: Option<u64>) -> bool {
        let Some(Heartbeat { number, .. }) = expected else { return false };
        let is_forgotten =
            found.is_none() && self.latest.is_some_and(|latest| latest.saturating_sub(number) >= REMEMBERED);
        found.is_none_or(|found| found < number) && !is_forgotten
    }
}

/// The heartbeats of this process.
#[derive(Debug, Default)]
pub(super) struct OwnHeartbeats {
    process: u64,
    pace: HeartbeatPace,
    /// Heartbeats that could still be lost in a failover.
    recent: VecDeque<Recent>,
    /// The number of the latest heartbeat that can no longer be lost.
    settled: Option<u64>,
    last_tried: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Recent {
    number: u64,
    at: Instant,
    connection: u64,
}

impl OwnHeartbeats {
    pub(super) fn of_process(process: u64) -> Self {
        // The first heartbeat is delayed, because a short-lived process, such as an operator's command, needs none.
        Self { process, last_tried: Some(Instant::now()), ..Self::default() }
    }

    pub(super) fn pace(&self) -> HeartbeatPace {
        self.pace
    }

    pub(super) fn set_pace(&mut self, pace: HeartbeatPace) {
        self.pace = pace;
    }

    /// The random number of this process.
    pub(super) fn process(&self) -> u64 {
        self.process
    }

    /// The latest heartbeat that must exist.
    pub(super) fn settled(&self) -> Option<Heartbeat> {
        self.settled.map(|number| Heartbeat { process: self.process, number })
    }

    /// Whether the next heartbeat is due. If so, the caller must write it now.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let is_due = self.last_tried.is_none_or(|last| now.duration_since(last) >= self.pace.every);
        if is_due {
            self.last_tried = Some(now);
        }
        is_due
    }

    /// Records that the heartbeat with this number was written.
    pub(super) fn note_written(&mut self, number: u64, at: Instant, connection: u64) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent { number, at, connection });
    }

    /// Records the number of the last heartbeat in Redis. The request was sent at `asked_at`, and `connection`
    /// is the number of connections made by then.
    pub(super) fn note_found(&mut self, found: Option<u64>, asked_at: Instant, connection: u64) {
        // A server that hung after the heartbeat might not have sent it to its Redis replicas. In that case, the
        // connection has been replaced.
        self.recent.retain(|recent| recent.connection == connection);
        let settled = self.pace.settled;
        while let Some(first) = self.recent.front()
            && asked_at.saturating_duration_since(first.at) >= settled
            && found.is_some_and(|found| found >= first.number)
        {
            self.settled = Some(first.number);
            self.recent.pop_front();
        }
        if found.is_none() {
            // Redis has forgotten this process, because it has written no heartbeat for a long time.
            self.settled = None;
        }
    }

    /// Forgets all heartbeats, because they belong to another store.
    pub(super) fn forget(&mut self) {
        self.recent.clear();
        (self.settled, self.last_tried) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn settled(own: &OwnHeartbeats) -> Option<u64> {
        own.settled().map(|heartbeat| heartbeat.number)
    }

    #[test]
    fn a_heartbeat_counts_when_it_was_found_a_minute_later() {
        let (mut own, start) = (OwnHeartbeats::of_process(7), Instant::now());
        own.note_written(10, start, 0);
        own.note_found(Some(10), start + Duration::from_secs(59), 0);
        assert_eq!(settled(&own), None);
        own.note_written(14, start + Duration::from_secs(20), 0);
        own.note_found(Some(14), start + MINUTE, 0);
        assert_eq!(settled(&own), Some(10));
        own.note_found(Some(14), start + MINUTE * 2, 0);
        assert_eq!(settled(&own), Some(14));
    }

    #[test]
    fn a_heartbeat_that_a_failover_can_have_lost_never_counts() {
        let (mut own, start) = (OwnHeartbeats::of_process(7), Instant::now());
        own.note_written(10, start, 0);
        own.note_found(Some(10), start + MINUTE, 0);
        own.note_written(11, start + MINUTE, 0);
        // Redis does not respond for some minutes, and the new master has only the first one.
        own.note_found(Some(10), start + MINUTE * 5, 1);
        assert_eq!(settled(&own), Some(10));
        let report = HeartbeatReport { own: Some(10), of_claim: None, latest: Some(10) };
        assert!(!report.lacks(own.settled(), report.own));
        // The connection was lost and made again without a failover.
        own.note_written(12, start + MINUTE * 6, 1);
        own.note_found(Some(12), start + MINUTE * 8, 2);
        assert_eq!(settled(&own), Some(10));
    }

    #[test]
    fn a_missing_heartbeat_shows_older_data_unless_redis_has_forgotten_the_process() {
        let expected = Some(Heartbeat { process: 7, number: 10 });
        let lacks = |own, latest| HeartbeatReport { own, of_claim: None, latest }.lacks(expected, own);
        assert!(!lacks(Some(10), Some(12)) && !lacks(Some(11), Some(12)));
        assert!(lacks(Some(9), Some(12)) && lacks(None, Some(12)) && lacks(None, None));
        assert!(lacks(None, Some(9 + REMEMBERED)) && !lacks(None, Some(10 + REMEMBERED)));
        assert!(lacks(Some(9), Some(10 + REMEMBERED)), "the data of others has grown");
        assert!(!HeartbeatReport::default().lacks(None, None));
        let mut own = OwnHeartbeats::of_process(7);
        own.settled = Some(10);
        own.note_found(None, Instant::now(), 0);
        assert_eq!(settled(&own), None, "the process can write again");
    }

    #[test]
    fn a100_few_heartbeats_are_kept_although_none_counts() {
        let (mut own, now) = (OwnHeartbeats::of_process(7), Instant::now());
        for number in 0..100 {
            own.note_written(number, now, 0);
        }
        assert_eq!(own.recent.len(), RECENT);
        let later = now + MINUTE;
        assert!(own.take_due(later) && !own.take_due(later) && own.take_due(later + MINUTE));
    }
}
