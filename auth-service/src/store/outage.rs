//! The last period in which the store did not respond to this process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::replaced_token::{Grace, Outage};

/// Two outages with less time between them count as one, because clients had no time to retry.
const JOINED: Duration = Duration::from_secs(10);
/// A shorter outage does not count. It must not replace the record of a long one.
const NOTABLE: Duration = Duration::from_secs(1);

/// Keeps the last outage.
#[derive(Default)]
pub(super) struct LastOutage {
    is_under_way: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The beginning of the outage that is under way.
    began: Option<Instant>,
    last: Option<Period>,
}

#[derive(Clone, Copy)]
struct Period {
    from: Instant,
    until: Instant,
}

impl LastOutage {
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

    /// Records an outage that began at `from` and has just ended.
    pub(super) fn ended(&self, from: Instant) {
        self.state().note(Period { from, until: Instant::now() });
    }

    /// The grace period of refresh tokens, without the last outage.
    pub(super) fn grace(&self, period: Duration) -> Grace {
        let last = self.state().last;
        let outage = last.map(|last| Outage { began: last.from.elapsed(), ended: last.until.elapsed() });
        Grace { period, outage }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, period: Period) {
        if period.until.saturating_duration_since(period.from) < NOTABLE {
            return;
        }
        let earlier =
            self.last.filter(|earlier| period.from.saturating_duration_since(earlier.until) < JOINED);
        let from = earlier.map_or(period.from, |earlier| earlier.from.min(period.from));
        self.last = Some(Period { from, ..period });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_outage_is_kept_and_joined_with_one_shortly_before() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let mut state = State::default();
        let mut length = |from: u32, until: u32| {
            state.note(Period { from: now + second * from, until: now + second * until });
            state.last.map(|last| last.until.duration_since(last.from).as_secs())
        };
        assert_eq!(length(0, 60), Some(60));
        assert_eq!(length(69, 75), Some(75));
        assert_eq!(length(80, 80), Some(75), "it is too short");
        assert_eq!(length(100, 110), Some(10));
    }

    #[test]
    fn an_outage_lasts_from_the_first_request_that_failed_to_the_first_response() {
        let (outage, second) = (LastOutage::default(), Duration::from_secs(1));
        outage.succeeded();
        assert_eq!(outage.grace(second).outage, None);
        let Some(from) = Instant::now().checked_sub(second * 30) else { return };
        outage.failed(from + second * 20);
        outage.failed(from);
        outage.failed(from + second * 25);
        assert_eq!(outage.grace(second).outage, None, "it has not ended");
        outage.succeeded();
        let found = outage.grace(second).outage.unwrap();
        assert!(found.began >= second * 30 && found.ended < second * 5, "{found:?}");
    }
}
