//! Remembers which revisions the server speaks, and when it is probed again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::probe::Shows;

/// Time after which a verdict is checked again, if it was made because the child ended.
const DOUBT: Duration = Duration::from_secs(300);
/// The same for a verdict that was made because the child did not answer: after the first time, after the second,
/// and after every further one. On a busy machine, the next probe can succeed, while a server of the earlier
/// revisions that ignores unknown messages never answers.
const DOUBT_OF_SILENCE: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(30), DOUBT];

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probed {
    /// The child has answered, so this is certain.
    Answered(Shows),
    /// The child has ended without an answer.
    Ended,
    /// The child has not answered in time.
    Silent,
}

/// The verdict on the server, which is the same for the children of all callers.
#[derive(Debug, Default)]
pub(super) struct Verdict(Mutex<Option<Found>>);

#[derive(Debug, Clone, Copy)]
struct Found {
    shows: Shows,
    /// When the server is probed again.
    until: Option<Instant>,
    /// The number of probes in a row that were not answered.
    silences: usize,
}

impl Verdict {
    /// The verdict, unless there is none yet or it has to be checked again.
    pub(super) fn known(&self, now: Instant) -> Option<Shows> {
        let found = *self.found();
        found.filter(|found| found.until.is_none_or(|until| now < until)).map(|found| found.shows)
    }

    /// Whether the last verdict, however old, is that the server has sessions.
    pub(super) fn was_legacy(&self) -> bool {
        self.found().is_some_and(|found| found.shows == Shows::Legacy)
    }

    /// Records how a probe ended.
    pub(super) fn record(&self, probed: Probed, now: Instant) {
        let mut found = self.found();
        let before = found.map_or(0, |found| found.silences);
        let until = |doubt| Some(now + doubt);
        let (shows, until, silences) = match probed {
            Probed::Answered(shows) => (shows, None, 0),
            Probed::Ended => (Shows::Legacy, until(DOUBT), 0),
            Probed::Silent => {
                let doubt = DOUBT_OF_SILENCE.get(before).copied().unwrap_or(DOUBT);
                (Shows::Legacy, until(doubt), before + 1)
            }
        };
        *found = Some(Found { shows, until, silences });
    }

    fn found(&self) -> MutexGuard<'_, Option<Found>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_doubted_sooner_than_the_end_of_a_child_and_an_answer_never() {
        let (verdict, now) = (Verdict::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(verdict.known(now).is_none() && !verdict.was_legacy());
        for seconds in [5, 30, 300, 300] {
            verdict.record(Probed::Silent, now);
            assert_eq!(verdict.known(after(seconds - 1)), Some(Shows::Legacy), "{seconds}");
            assert!(verdict.known(after(seconds)).is_none() && verdict.was_legacy(), "{seconds}");
        }
        verdict.record(Probed::Ended, now);
        assert_eq!(verdict.known(after(299)), Some(Shows::Legacy));
        verdict.record(Probed::Answered(Shows::Modern), now);
        assert_eq!(verdict.known(after(3000)), Some(Shows::Modern));
        assert!(!verdict.was_legacy());
    }
}
