//! Remembers which revisions the server supports, and when it must be probed again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::probe::Shows;
use crate::child::Placeholders;

/// Time after which a verdict is checked again if it was reached because the child exited.
const DOUBT: Duration = Duration::from_secs(300);
/// Time after which a verdict is checked again if it was reached because the child did not respond: after the
/// first time, the second time, and every further time. On a busy machine, the next probe can succeed. However,
/// some servers of earlier revisions ignore unknown messages and never respond.
const DOUBT_OF_SILENCE: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(30), DOUBT];

/// Maximum number of callers whose verdicts are remembered. For a forgotten caller, a child is probed again.
const MAX_CALLERS: usize = 4096;
/// Maximum length of a placeholder value that is remembered, in bytes. Longer values are refused in a command.
const MAX_VALUE: usize = 256;

/// The outcome of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probed {
    /// The child has responded, so the verdict is certain.
    Answered(Shows),
    /// The child has exited without a response.
    Ended,
    /// The child has not responded in time.
    Silent,
}

/// The verdicts on a server. If the command depends on the caller, the children of two callers can be different
/// programs, or one of them can be broken or manipulated. Therefore each caller has a separate verdict, which
/// does not affect other callers.
#[derive(Debug)]
pub(super) enum Verdicts {
    /// One verdict for all callers.
    Common(Arc<Verdict>),
    /// One verdict for each caller, with the time of its last use.
    PerCaller(Mutex<HashMap<Placeholders, (Instant, Arc<Verdict>)>>),
}

impl Verdicts {
    pub(super) fn new(is_per_caller: bool) -> Self {
        if is_per_caller { Self::PerCaller(Mutex::default()) } else { Self::Common(Arc::default()) }
    }

    /// The verdict on the children whose command contains these values of the caller.
    pub(super) fn of(&self, caller: impl FnOnce() -> Placeholders, now: Instant) -> Arc<Verdict> {
        let (caller, all) = match self {
            Self::Common(verdict) => return Arc::clone(verdict),
            Self::PerCaller(all) => (caller(), all),
        };
        let values = [&caller.subject, &caller.user, &caller.group];
        if values.into_iter().flatten().any(|value| value.len() > MAX_VALUE) {
            // No command can be created for a caller with a value that is too long.
            return Arc::default();
        }
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((used, verdict)) = all.get_mut(&caller) {
            *used = now;
            return Arc::clone(verdict);
        }
        if all.len() >= MAX_CALLERS {
            let oldest = all.iter().min_by_key(|(_, (used, _))| *used).map(|(caller, _)| caller.clone());
            oldest.and_then(|oldest| all.remove(&oldest));
        }
        let verdict = Arc::<Verdict>::default();
        all.insert(caller, (now, Arc::clone(&verdict)));
        verdict
    }
}

/// The verdict on one server.
#[derive(Debug, Default)]
pub(super) struct Verdict(Mutex<Option<Found>>);

#[derive(Debug, Clone, Copy)]
struct Found {
    shows: Shows,
    /// The time after which the server is probed again.
    until: Option<Instant>,
    /// The number of consecutive probes without a response.
    silences: usize,
}

impl Verdict {
    /// The verdict. Returns `None` if there is none yet, or if it must be checked again.
    pub(super) fn known(&self, now: Instant) -> Option<Shows> {
        let found = *self.found();
        found.filter(|found| found.until.is_none_or(|until| now < until)).map(|found| found.shows)
    }

    /// Whether the last verdict was that the server has sessions, regardless of the age of the verdict.
    pub(super) fn was_legacy(&self) -> bool {
        self.found().is_some_and(|found| found.shows == Shows::Legacy)
    }

    /// Records the outcome of a probe.
    pub(super) fn record(&self, probed: Probed, now: Instant) {
        let mut found = self.found();
        // An earlier probe can complete later than this one, and a timeout or an exit proves less than a
        // response.
        if !matches!(probed, Probed::Answered(_)) && found.is_some_and(|found| found.until.is_none()) {
            return;
        }
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
    fn a100_verdicts_of_callers_are_their_own_and_the_one_unused_for_longest_is_forgotten() {
        let (verdicts, start) = (Verdicts::new(true), Instant::now());
        let named = |name: String| Placeholders { subject: Some(name), ..Placeholders::default() };
        let caller = |number: usize| named(number.to_string());
        let at = |number: usize| start + Duration::from_millis(number as u64);
        for number in 0..MAX_CALLERS {
            verdicts.of(|| caller(number), at(number)).record(Probed::Answered(Shows::Modern), start);
        }
        let is_known = |number, now| verdicts.of(|| caller(number), now).known(now).is_some();
        assert!(is_known(0, at(MAX_CALLERS)));
        assert!(!is_known(MAX_CALLERS, at(MAX_CALLERS + 1)), "one caller must not decide for others");
        let Verdicts::PerCaller(all) = &verdicts else { panic!("the verdicts must be per caller") };
        let is_kept = |number| all.lock().unwrap().contains_key(&caller(number));
        assert!(is_kept(0) && !is_kept(1) && all.lock().unwrap().len() == MAX_CALLERS);
        verdicts.of(|| named("x".repeat(MAX_VALUE + 1)), at(MAX_CALLERS + 2));
        assert!(is_kept(0) && all.lock().unwrap().len() == MAX_CALLERS);
        let common = Verdicts::new(false);
        common.of(|| caller(1), start).record(Probed::Ended, start);
        assert!(common.of(|| caller(2), start).was_legacy());
    }

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
        for probed in [Probed::Silent, Probed::Ended] {
            verdict.record(probed, now);
            assert_eq!(
                verdict.known(after(3000)),
                Some(Shows::Modern),
                "{probed:?} must not replace a response"
            );
        }
    }
}
