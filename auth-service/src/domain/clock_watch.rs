//! Decides whether the clock is reliable enough to delete expired data permanently. A clock that is wrong for a
//! few seconds must not destroy data that cannot be restored.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::UnixTime;

/// How far the clock can differ from the expected time, since small corrections are normal.
pub const TOLERANCE: Duration = Duration::from_secs(300);
/// A larger difference between this clock and the store's clock is reported to operators. If two replicas report
/// no such difference, their clocks differ by at most twice this value plus one second.
const NOTABLE: Duration = Duration::from_secs(2);
/// How long the clock must keep showing an unexpected time before it is trusted.
pub const HOLD: Duration = Duration::from_secs(3600);
/// How far the clock can be ahead of the last recorded time at startup. The service might have been stopped for
/// that long; a larger difference counts as a jump. After a longer stop, expired data is deleted an hour late,
/// which does no harm.
const AWAY: Duration = Duration::from_secs(3600);

/// The state of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockState {
    /// The clock shows the expected time.
    Steady,
    /// The store has no record of its last use, because it is new or was restored from a backup.
    Unknown {
        /// How much longer the clock must run steadily before it is trusted.
        left: Duration,
    },
    /// The clock was changed to a different time.
    Jumped {
        /// The time that the clock should show.
        expected: UnixTime,
        /// The time that the clock shows.
        found: UnixTime,
        /// How much longer the clock must keep showing the new time before it is trusted.
        left: Duration,
    },
    /// The clock of the store shows a different time.
    Disagrees {
        /// The time that the store's clock shows.
        store: UnixTime,
        /// The time that this machine's clock shows.
        found: UnixTime,
    },
}

impl ClockState {
    /// Whether expired data can be deleted.
    pub fn is_steady(self) -> bool {
        self == Self::Steady
    }
}

impl fmt::Display for ClockState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steady => f.write_str("ok"),
            Self::Unknown { left } => write!(
                f,
                "not compared yet: the store has no record of its last use. No expired data is deleted and no \
                 signing key is replaced for another {} minutes",
                left.as_secs().div_ceil(60)
            ),
            Self::Jumped { expected, found, left } => write!(
                f,
                "jumped {} ({}; {} was expected): correct it if it is wrong. No expired data is \
                 deleted and no signing key is replaced until it has been steady for {} minutes",
                Apart(*expected, *found),
                found.readable(),
                expected.readable(),
                left.as_secs().div_ceil(60)
            ),
            Self::Disagrees { store, found } => write!(
                f,
                "{} compared with that of Redis ({} here, {} there): set both by NTP",
                Apart(*store, *found),
                found.readable(),
                store.readable()
            ),
        }
    }
}

/// Displays by how many seconds the second time is ahead of or behind the first.
struct Apart(UnixTime, UnixTime);

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(from, to) = self;
        match to.since(*from).as_secs() {
            0 => write!(f, "{} s behind", from.since(*to).as_secs()),
            ahead => write!(f, "{ahead} s ahead"),
        }
    }
}

/// How far this clock differs from the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference(UnixTime, UnixTime);

/// Compares the clock with the time that the store reported. `asked` and `answered` are this machine's times
/// before and after the query, which can take a long time.
pub fn difference((asked, answered): (UnixTime, UnixTime), store: UnixTime) -> Difference {
    // If the clock was set back during the query, `answered` is the earlier of the two.
    Difference(store, store.min(answered).max(asked.min(answered)))
}

impl Difference {
    /// Whether the difference is larger than between synchronized clocks.
    pub fn is_notable(self) -> bool {
        self.distance() > NOTABLE
    }

    /// The seconds by which the clock is ahead. They are negative if it is behind.
    pub fn seconds(self) -> f64 {
        let Self(store, here) = self;
        here.since(store).as_secs_f64() - store.since(here).as_secs_f64()
    }

    /// How far the clock is behind.
    pub fn behind(self) -> Duration {
        self.0.since(self.1)
    }

    fn distance(self) -> Duration {
        let Self(store, here) = self;
        here.distance(store)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Apart(self.0, self.1).fmt(f)
    }
}

/// Bounds of the correct time. They are almost equal unless the clock is or was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeBounds {
    /// The earlier of the clock's time and the time that it should show.
    pub earliest: UnixTime,
    /// The later of two times: the clock's, and the one extrapolated from the latest time that was ever trusted.
    pub latest: UnixTime,
    /// Whether the clock shows the expected time. If so, `latest` advances with the uptime of the machine, and the
    /// difference between two values of `latest` is correct even if both are wrong.
    pub is_steady: bool,
    /// How long the machine has been up. It cannot be set.
    pub up: Duration,
}

impl TimeBounds {
    /// The bounds if the correct time is `now`.
    pub fn exactly(now: UnixTime) -> Self {
        Self { earliest: now, latest: now, is_steady: true, up: Duration::from_secs(now.0) }
    }

    /// Whether `at` is in the future, which means that the clock is wrong or was wrong when `at` was recorded.
    /// Small differences between the clocks of replicas do not count.
    pub fn is_before(self, at: UnixTime) -> bool {
        at.since(self.latest) > TOLERANCE
    }
}

/// The times that the store records while the clock is reliable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockMark {
    /// The time at which the store was last in use.
    pub last: UnixTime,
    /// The latest time that was ever trusted. It does not go back when the clock does. Only an operator's command
    /// can set it back.
    pub latest: UnixTime,
    /// How many times operators have set `latest` back. A process that has seen a lower number adopts `latest`.
    pub corrections: u64,
}

/// A time of day, and how long the machine had been up at that time.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: UnixTime,
    up: Duration,
}

impl Seen {
    /// The time that the clock should show when the machine has been up for `up`.
    fn later(self, up: Duration) -> UnixTime {
        self.at.plus(up.saturating_sub(self.up))
    }

    fn fits(self, other: Self, ahead: Duration) -> bool {
        let expected = self.later(other.up);
        other.at.since(expected) <= ahead && expected.since(other.at) <= TOLERANCE
    }
}

/// Compares the clock with the uptime of the machine, which cannot be set, and with the time of the last use that
/// the store recorded.
#[derive(Debug)]
pub struct ClockWatch {
    trusted: Option<Seen>,
    /// The latest time that was ever trusted.
    latest: Option<Seen>,
    /// How far the clock can be ahead of the trusted time. The limit is larger at startup, because it is unknown
    /// how long the service was stopped.
    ahead: Duration,
    /// The first reading of an unexpected time.
    candidate: Option<Seen>,
    /// Whether the first time is trusted without a comparison, because the store is new.
    is_new: bool,
    /// The number of operator corrections that this process has adopted.
    corrections: u64,
}

impl ClockWatch {
    /// Starts with a new store, which contains nothing that a wrong clock could destroy.
    pub fn of_new_store() -> Self {
        Self { trusted: None, latest: None, ahead: AWAY, candidate: None, is_new: true, corrections: 0 }
    }

    /// Starts at the uptime `up`. `mark` is the last record in the store, if there is one.
    pub fn new(mark: Option<ClockMark>, up: Duration) -> Self {
        let seen = |at| Seen { at, up };
        Self {
            trusted: mark.map(|mark| seen(mark.last)),
            latest: mark.map(|mark| seen(mark.latest)),
            ahead: AWAY,
            candidate: None,
            is_new: false,
            corrections: mark.map_or(0, |mark| mark.corrections),
        }
    }

    /// The bounds of the correct time while the clock shows `now`.
    pub fn bounds(&self, now: UnixTime, up: Duration) -> TimeBounds {
        let later = |seen: Option<Seen>| seen.map_or(now, |seen| seen.later(up));
        let seen = Seen { at: now, up };
        TimeBounds {
            earliest: later(self.trusted).min(now),
            latest: later(self.latest).max(now),
            is_steady: self.trusted.is_some_and(|trusted| trusted.fits(seen, TOLERANCE)),
            up,
        }
    }

    /// Adopts an operator's correction, if the store has one that this process has not adopted yet. The caller has
    /// just found `now` to be reliable.
    pub fn follow(&mut self, mark: Option<ClockMark>, now: UnixTime, up: Duration) {
        if let Some(mark) = mark.filter(|mark| mark.corrections > self.corrections) {
            (self.latest, self.corrections) = (Some(Seen { at: mark.latest.max(now), up }), mark.corrections);
        }
    }

    /// The times to record at `now`, which the caller has just found to be reliable.
    pub fn mark(&self, now: UnixTime, up: Duration) -> ClockMark {
        ClockMark { last: now, latest: self.bounds(now, up).latest, corrections: self.corrections }
    }

    /// Checks the clock, and returns its state. `store` is the time of the store's own clock, if it has one.
    pub fn look(&mut self, now: UnixTime, up: Duration, store: Option<UnixTime>) -> ClockState {
        if let Some(store) = store
            && now.distance(store) > TOLERANCE
        {
            return ClockState::Disagrees { store, found: now };
        }
        let seen = Seen { at: now, up };
        if self.trusted.map_or(self.is_new, |trusted| trusted.fits(seen, self.ahead)) {
            return self.trust(seen);
        }
        let candidate = *self.candidate.get_or_insert(seen);
        if !candidate.fits(seen, TOLERANCE) {
            self.candidate = Some(seen);
        } else if up.saturating_sub(candidate.up) >= HOLD {
            return self.trust(seen);
        }
        let held = self.candidate.map_or(Duration::ZERO, |candidate| up.saturating_sub(candidate.up));
        let left = HOLD.saturating_sub(held);
        match self.trusted {
            Some(trusted) => ClockState::Jumped { expected: trusted.later(up), found: now, left },
            None => ClockState::Unknown { left },
        }
    }

    fn trust(&mut self, seen: Seen) -> ClockState {
        (self.trusted, self.ahead, self.candidate) = (Some(seen), TOLERANCE, None);
        if self.latest.is_none_or(|latest| seen.at >= latest.later(seen.up)) {
            self.latest = Some(seen);
        }
        ClockState::Steady
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const START: u64 = 1_000_000_000;

    fn watch(mark: Option<u64>) -> ClockWatch {
        match mark {
            Some(at) => {
                let mark = ClockMark { last: UnixTime(at), latest: UnixTime(at), corrections: 0 };
                ClockWatch::new(Some(mark), Duration::from_secs(50))
            }
            None => ClockWatch::of_new_store(),
        }
    }

    fn look(watch: &mut ClockWatch, now: u64, up: u64) -> ClockState {
        watch.look(UnixTime(now), Duration::from_secs(50 + up), None)
    }

    #[test]
    fn a_clock_that_goes_with_the_machine_is_steady_however_long_nobody_looks() {
        let mut watch = watch(None);
        assert_eq!(look(&mut watch, START, 0), ClockState::Steady);
        assert_eq!(look(&mut watch, START + 7 * DAY, 7 * DAY), ClockState::Steady);
        assert_eq!(
            look(&mut watch, START + 7 * DAY - 200, 7 * DAY + 1),
            ClockState::Steady,
            "a small adjustment"
        );
    }

    #[test]
    fn a_jump_counts_when_it_has_held_for_an_hour_and_not_a_second_before() {
        for jump in [200 * DAY, 301] {
            for is_ahead in [true, false] {
                let mut watch = watch(None);
                look(&mut watch, START, 0);
                let jumped = |up| if is_ahead { START + jump + up } else { START - jump + up };
                for up in [1, 1800, 3600] {
                    let clock = look(&mut watch, jumped(up), up);
                    assert!(matches!(clock, ClockState::Jumped { .. }), "{clock:?}");
                }
                assert_eq!(look(&mut watch, jumped(3601), 3601), ClockState::Steady);
                assert_eq!(look(&mut watch, jumped(3602), 3602), ClockState::Steady);
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_right_again_is_steady_at_once() {
        let mut watch = watch(None);
        look(&mut watch, START, 0);
        assert!(!look(&mut watch, START + 200 * DAY, 5).is_steady());
        assert_eq!(look(&mut watch, START + 10, 10), ClockState::Steady);
        assert!(!look(&mut watch, START + 200 * DAY, 3700).is_steady(), "each jump restarts the hour");
    }

    #[test]
    fn a_clock_that_jumps_on_and_on_never_counts() {
        let mut watch = watch(None);
        look(&mut watch, START, 0);
        for hour in 1..50 {
            assert!(!look(&mut watch, START + hour * DAY, hour * 3000).is_steady());
        }
    }

    #[test]
    fn at_a_start_the_clock_is_compared_with_what_the_store_remembers() {
        assert!(
            look(&mut watch(Some(START)), START + 1800, 0).is_steady(),
            "the service was stopped for half an hour"
        );
        assert!(!look(&mut watch(Some(START)), START + 200 * DAY, 0).is_steady());
        assert!(!look(&mut watch(Some(START)), START - DAY, 0).is_steady());
        let mut away = watch(Some(START));
        assert!(!look(&mut away, START + 3 * DAY, 0).is_steady());
        assert!(
            look(&mut away, START + 3 * DAY + 3600, 3600).is_steady(),
            "the service was stopped for three days"
        );
    }

    #[test]
    fn a_store_that_does_not_remember_a_time_believes_the_first_one_after_an_hour() {
        let mut watch = ClockWatch::new(None, Duration::from_secs(50));
        assert!(matches!(look(&mut watch, START + 200 * DAY, 0), ClockState::Unknown { .. }));
        assert!(!look(&mut watch, START + 5, 5).is_steady(), "a corrected clock must also stay steady");
        assert!(!look(&mut watch, START + 3604, 3604).is_steady());
        assert!(look(&mut watch, START + 3605, 3605).is_steady());
    }

    #[test]
    fn the_latest_time_follows_the_machine_and_never_goes_back() {
        let mut watch = watch(Some(START));
        let latest = |watch: &ClockWatch, now: u64, up: u64| {
            watch.bounds(UnixTime(now), Duration::from_secs(50 + up)).latest.0
        };
        assert_eq!(latest(&watch, START - DAY, 7), START + 7, "the clock is behind");
        assert_eq!(
            latest(&watch, START + DAY, 7),
            START + DAY,
            "the service was stopped, or its clock is ahead"
        );
        look(&mut watch, START + 200 * DAY, 10);
        assert_eq!(latest(&watch, START + 10, 10), START + 10, "a time that was never trusted is forgotten");
        look(&mut watch, START - 400 * DAY, 20);
        look(&mut watch, START - 400 * DAY + 3600, 3620);
        assert_eq!(
            latest(&watch, START - 400 * DAY + 3600, 3620),
            START + 3620,
            "the trusted time is earlier"
        );
        let mark = watch.mark(UnixTime(START - 400 * DAY + 3600), Duration::from_secs(50 + 3620));
        assert_eq!(
            mark,
            ClockMark {
                last: UnixTime(START - 400 * DAY + 3600),
                latest: UnixTime(START + 3620),
                corrections: 0
            }
        );
    }

    #[test]
    fn a_correction_counts_once_and_not_again_after_a_restart() {
        let up = |seconds: u64| Duration::from_secs(50 + seconds);
        let mark = ClockMark { last: UnixTime(START), latest: UnixTime(START), corrections: 1 };
        let mut watch = ClockWatch::new(Some(mark), up(0));
        assert!(look(&mut watch, START, 0).is_steady());
        // The clock is ahead for an hour, and then correct again.
        look(&mut watch, START + 200 * DAY, 1);
        assert!(look(&mut watch, START + 200 * DAY + 3600, 3601).is_steady());
        let latest = |watch: &ClockWatch| watch.bounds(UnixTime(START + 3601), up(3601)).latest.0;
        watch.follow(Some(mark), UnixTime(START + 3601), up(3601));
        assert!(latest(&watch) >= START + 200 * DAY, "the earlier correction still applies");
        let another = ClockMark { latest: UnixTime(START + 3601), corrections: 2, ..mark };
        watch.follow(Some(another), UnixTime(START + 3601), up(3601));
        assert_eq!(latest(&watch), START + 3601);
    }

    #[test]
    fn a_clock_that_is_not_that_of_the_store_is_told_whatever_it_did_before() {
        let mut watch = watch(None);
        let mut beside = |store: u64| watch.look(UnixTime(START), Duration::ZERO, Some(UnixTime(store)));
        assert_eq!(beside(START + 300), ClockState::Steady);
        let told = beside(START + 301);
        assert_eq!(told, ClockState::Disagrees { store: UnixTime(START + 301), found: UnixTime(START) });
        assert!(told.to_string().starts_with("301 s behind compared with that of Redis"), "{told}");
        assert_eq!(beside(START), ClockState::Steady);
    }
}
