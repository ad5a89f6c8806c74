//! Children that were stopped because they were large, until they have exited.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::capacity::{Measure, Usage};

/// How long everything that a stopped child used counts as memory that will soon be free, unless it has been freed. A
/// process that is exiting shows no memory while the kernel still frees its pages. Without this rule, a second child
/// would be stopped for the same shortage.
const FREEING: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
struct Stopped {
    at: Instant,
    /// The usage at that time.
    usage: Usage,
}

/// The stopped children that have not exited, by number.
#[derive(Debug, Default)]
pub(super) struct Ending(Mutex<HashMap<u64, Stopped>>);

impl Ending {
    pub(super) fn insert(&self, child: u64, usage: Usage, at: Instant) {
        self.all().insert(child, Stopped { at, usage });
    }

    pub(super) fn remove(&self, child: u64) {
        self.all().remove(&child);
    }

    pub(super) fn contains(&self, child: u64) -> bool {
        self.all().contains_key(&child)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// The amount that will soon be free. `usage` is the present usage of all children. `of_nobody` is the amount that is
    /// used, but by no child: what a stopped child used and no longer shows is either part of it or has been freed.
    pub(super) fn gives_back(
        &self,
        measure: Measure,
        usage: &HashMap<u64, Usage>,
        of_nobody: u64,
        now: Instant,
    ) -> u64 {
        let (mut shown, mut missing) = (0, 0);
        for (child, stopped) in self.all().iter() {
            let present = usage.get(child).map_or(0, |usage| measure.of(usage));
            shown += present;
            if now.duration_since(stopped.at) < FREEING {
                missing += measure.of(&stopped.usage).saturating_sub(present);
            }
        }
        shown + missing.min(of_nobody)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Stopped>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stopped_child_used_will_soon_be_free_even_if_its_processes_show_nothing() {
        let (ending, at) = (Ending::default(), Instant::now());
        let of = |memory| Usage { memory, tasks: 3, ..Usage::default() };
        ending.insert(1, of(300), at);
        ending.insert(2, of(50), at);
        let gives_back_of = |usage: &[(u64, u64)], of_nobody, after| {
            let usage = usage.iter().map(|(child, memory)| (*child, of(*memory))).collect();
            ending.gives_back(Measure::Memory, &usage, of_nobody, at + Duration::from_millis(after))
        };
        let gives_back = |usage: &[(u64, u64)], after| gives_back_of(usage, 1000, after);
        assert_eq!(gives_back(&[(1, 290), (2, 70), (3, 1000)], 0), 370, "the second child still grows");
        assert_eq!(gives_back(&[(3, 1000)], 499), 350);
        assert_eq!(
            gives_back_of(&[(1, 290), (3, 1000)], 45, 0),
            335,
            "the rest of the second child has been freed"
        );
        assert_eq!(gives_back(&[(1, 40)], 500), 40, "a child that does not exit gives nothing back");
        ending.remove(1);
        assert_eq!((gives_back(&[], 0), ending.contains(1), ending.contains(2)), (50, false, true));
    }
}
