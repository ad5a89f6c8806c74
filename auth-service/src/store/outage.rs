//! The most recent periods in which the store did not respond to this process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::replaced_token::{Grace, Outage};

/// Two outages with less time between them count as one, because clients had no time to retry.
const JOINED: Duration = Duration::from_secs(1);
/// Minimum duration of an outage that counts.
const NOTABLE: Duration = Duration::from_secs(1);
/// Maximum number of outages that are remembered.
const MAX_OUTAGES: usize = 32;

/// Records the most recent outages.
#[derive(Default)]
pub(super) struct Outages {
    is_under_way: AtomicBool,
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    /// The beginning of the outage that is under way.
    began: Option<Instant>,
    /// The outages that have ended, oldest first.
    ended: Vec<Period>,
}

#[derive(Clone, Copy)]
struct Period {
    from: Instant,
    until: Instant,
}

impl Outages {
    /// Records that the store did not respond to a request that was sent at `from`.
    pub(super) fn failed(&self, from: Instant) {
        let mut state = self.state();
        state.began = Some(state.began.map_or(from, |began| began.min(from)));
        self.is_under_way.store(true, Ordering::SeqCst);
    }

    /// Records that the store responded.
    pub(super) fn succeeded(&self) {
        if self.is_under_way.load(Ordering::SeqCst) {
            let mut state = self.state();
            self.is_under_way.store(false, Ordering::SeqCst);
            if let Some(from) = state.began.take() {
                state.note(Period { from, until: Instant::now() });
            }
        }
    }

    /// The grace period of refresh tokens, with the outages that do not count, including one that is under way.
    pub(super) fn grace(&self, period: Duration) -> Grace {
        let mut state = self.state().clone();
        if let Some(from) = state.began {
            state.note(Period { from, until: Instant::now() });
        }
        let ago = |outage: &Period| Outage { began: outage.from.elapsed(), ended: outage.until.elapsed() };
        Grace { period, outages: state.ended.iter().map(ago).collect() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, mut period: Period) {
        if period.until.saturating_duration_since(period.from) < NOTABLE {
            return;
        }
        while let Some(earlier) =
            self.ended.pop_if(|earlier| period.from.saturating_duration_since(earlier.until) < JOINED)
        {
            period = Period { from: earlier.from.min(period.from), until: earlier.until.max(period.until) };
        }
        if self.ended.len() == MAX_OUTAGES {
            self.ended.remove(0);
        }
        self.ended.push(period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_outages_are_kept_and_joined_with_those_shortly_before() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let mut state = State::default();
        let mut lengths = |from: u32, until: u32| -> Vec<u64> {
            state.note(Period { from: now + second * from, until: now + second * until });
            let length = |period: &Period| period.until.duration_since(period.from).as_secs();
            state.ended.iter().map(length).collect()
        };
        assert_eq!(lengths(0, 60), [60]);
        assert_eq!(lengths(69, 75), [60, 6]);
        assert_eq!(lengths(75, 85), [60, 16]);
        assert_eq!(lengths(90, 90), [60, 16], "it is too short");
        assert_eq!(lengths(100, 110), [60, 16, 10]);
        assert_eq!(lengths(70, 120), [60, 51]);
        for number in 0..100 {
            assert!(lengths(200 + number * 10, 202 + number * 10).len() <= MAX_OUTAGES);
        }
    }

    #[test]
    fn an_outage_lasts_from_the_first_request_that_failed_to_the_first_response() {
        let (outage, second) = (Outages::default(), Duration::from_secs(1));
        outage.succeeded();
        assert!(outage.grace(second).outages.is_empty());
        let Some(from) = Instant::now().checked_sub(second * 30) else { return };
        outage.failed(from + second * 20);
        outage.failed(from);
        outage.failed(from + second * 25);
        let found = *outage.grace(second).outages.last().unwrap();
        assert!(found.began >= second * 30 && found.ended < second, "it has not ended: {found:?}");
        outage.succeeded();
        let found = *outage.grace(second).outages.last().unwrap();
        assert!(found.began >= second * 30 && found.ended < second * 5, "{found:?}");
    }
}
