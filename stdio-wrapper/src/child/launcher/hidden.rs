//! Finds out which children have the memory that the kernel attributes to no process, before children are stopped for
//! lack of memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Launcher;
use crate::capacity::{Load, Measure, Usage};
use crate::child::charging;
use crate::child::keepers::Held;
use crate::child::open_files::{self, Examined};
use crate::child::procfs::own_usage;
use crate::child::relief::{self, Shortage};

/// Minimum time between two examinations of the files and mappings of children, and the time for which the result of
/// one is used. Children can have very many of them, and a user who hides memory elsewhere could otherwise keep a
/// processor busy with examinations.
const PAUSE: Duration = Duration::from_secs(1);
/// Maximum time for which a start waits for an examination. None takes longer, unless the machine is very busy.
const PATIENCE: Duration = Duration::from_secs(2);
/// Minimum time between two log lines that say that nobody can be blamed for a shortage of memory.
const TELL: Duration = Duration::from_secs(60);

/// The last examination of the files and mappings of all children.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    state: Mutex<State>,
    /// Notified whenever an examination has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    is_examining: bool,
    last: Option<Last>,
    /// The memory outside anonymous memory at the last examination that began early, or less, if there was less since.
    outside: u64,
    told: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Last {
    /// When the examination ended.
    at: Instant,
    /// The hidden memory, in bytes, when the result was first used. Memory can grow fast during an examination, but its
    /// result must be used.
    hidden: Option<u64>,
    found: Arc<Examined>,
}

impl Hidden {
    /// The result of the last examination, unless another one is due: after [`PAUSE`], and if this much more memory is
    /// hidden. Then returns the suspects of the last one, and no other examination begins until this one has ended. Returns
    /// neither while one is in progress.
    fn last_or_begin(
        &self,
        hidden: u64,
        more: u64,
        now: Instant,
    ) -> Result<Arc<Examined>, Option<HashSet<u64>>> {
        let mut state = self.state();
        if let Some(last) = state.last.as_mut().filter(|last| now.duration_since(last.at) < PAUSE)
            && hidden <= last.hidden.get_or_insert(hidden).saturating_add(more)
        {
            return Ok(Arc::clone(&last.found));
        }
        if std::mem::replace(&mut state.is_examining, true) {
            return Err(None);
        }
        Err(Some(state.suspects()))
    }

    /// Begins an examination if the container has this much more memory outside anonymous memory than when this function
    /// last began one. Returns the suspects of the previous one.
    fn begin_early(&self, outside: u64, more: u64) -> Option<HashSet<u64>> {
        let mut state = self.state();
        state.outside = state.outside.min(outside);
        if outside - state.outside < more || state.is_examining {
            return None;
        }
        (state.outside, state.is_examining) = (outside, true);
        Some(state.suspects())
    }

    fn end(&self, found: Examined, now: Instant) {
        let mut state = self.state();
        state.is_examining = false;
        state.last = Some(Last { at: now, hidden: None, found: Arc::new(found) });
        drop(state);
        self.ended.notify_waiters();
    }

    /// If an examination is in progress, waits until it has ended. Returns whether it has.
    pub(super) async fn has_ended(&self) -> bool {
        let mut ended = std::pin::pin!(self.ended.notified());
        ended.as_mut().enable();
        let is_examining = self.state().is_examining;
        is_examining && tokio::time::timeout(PATIENCE, ended).await.is_ok()
    }

    fn may_tell(&self, now: Instant) -> bool {
        let mut state = self.state();
        let may = state.told.is_none_or(|told| now.duration_since(told) >= TELL);
        if may {
            state.told = Some(now);
        }
        may
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The suspects of the last examination.
    fn suspects(&self) -> HashSet<u64> {
        self.last.as_ref().map(|last| last.found.suspects.clone()).unwrap_or_default()
    }
}

impl Launcher {
    /// Calls `choose` with the children that have not been stopped yet. If it chooses none and memory is short, calls it
    /// again with the memory of files that children have open, of epoll watches, and of files that children have only
    /// mapped. Before that, this memory counts as hidden, and a user with less memory than is hidden loses no child.
    /// Memory that is then still hidden is charged to the children that cannot be examined and, if it is urgent, to the one
    /// that has spent the time to fill it. Only if it is urgent, a child is charged with more of its mappings than its page
    /// faults explain.
    ///
    /// The files and mappings are examined on another thread. Until this has ended, nothing is chosen.
    pub(super) fn look_for<T>(
        self: &Arc<Self>,
        short: Measure,
        usage: HashMap<u64, Usage>,
        choose: impl Fn(&[Held], &HashMap<u64, Usage>) -> Option<T>,
    ) -> Option<(T, HashMap<u64, Usage>)> {
        let all = self.not_ending();
        if let Some(chosen) = choose(&all, &usage) {
            return Some((chosen, usage));
        }
        if short != Measure::Memory {
            return None;
        }
        let load = self.spec.capacity.load(short, &own_usage())?;
        let kinds = self.spec.capacity.kinds();
        let shortage = |usage: &HashMap<u64, Usage>| self.shortage(short, (load, kinds), usage);
        let hidden = shortage(&usage).hidden;
        // An examination shows only who has hidden memory.
        let examined = if hidden > 0 { self.examined(hidden, load)? } else { return None };
        let mut usage = self.usage_with(&examined.in_files);
        self.relief.watching.add_memory(&mut usage);
        // What an exiting child frees decides first whether anything is urgent.
        let is_urgent = |short| is_urgent(short, load) && !self.relief.is_one_ending();
        let short = shortage(&usage);
        charging::charge(short.hidden, is_urgent(short), kinds, &examined.possible, &mut usage);
        relief::charge_suspects(shortage(&usage).hidden, kinds, &examined.suspects, &all, &mut usage);
        let short = shortage(&usage);
        if is_urgent(short) {
            charging::charge_by_time(short.hidden, &all, &self.reaper.spent(), &mut usage);
        }
        let chosen = choose(&all, &usage);
        if chosen.is_none() {
            self.tell(shortage(&usage));
        }
        chosen.map(|chosen| (chosen, usage))
    }

    fn tell(&self, short: Shortage) {
        if short.over > 0 && short.hidden > 0 && self.relief.hidden.may_tell(Instant::now()) {
            tracing::warn!(
                mib = short.hidden >> 20,
                "the container is short of memory, but so much of it belongs to no process that nobody can be blamed with \
                 certainty, so no server is stopped yet. Set CHILD_MEMORY, or raise the memory limit of the container \
                 (mem_limit)"
            );
        }
    }

    /// The result of the last examination, unless it is too old. Then begins another one, unless one is in progress.
    fn examined(self: &Arc<Self>, hidden: u64, load: Load) -> Option<Arc<Examined>> {
        let before = match self.relief.hidden.last_or_begin(hidden, load.unaccounted, Instant::now()) {
            Ok(examined) => return Some(examined),
            Err(before) => before?,
        };
        self.examine(before);
        None
    }

    /// Begins an examination before memory is short, if little is left (in bytes), and memory grows that is not
    /// anonymous. An examination that begins later can take longer than a program needs to use up the rest.
    pub(super) fn examine_early(self: &Arc<Self>, left: u64) {
        let Some(load) = self.spec.capacity.load(Measure::Memory, &Usage::default()) else { return };
        if left < load.unaccounted * 2 {
            let outside = load.used.saturating_sub(self.spec.capacity.kinds().anonymous);
            if let Some(before) = self.relief.hidden.begin_early(outside, load.unaccounted / 4) {
                self.examine(before);
            }
        }
    }

    fn examine(self: &Arc<Self>, before: HashSet<u64>) {
        let launcher = Arc::clone(self);
        // No lock is held meanwhile, so children can start.
        self.runtime.spawn_blocking(move || {
            let found = open_files::examine(&launcher.reaper.processes(), &before);
            launcher.relief.hidden.end(found, Instant::now());
        });
    }
}

/// Whether half of the reserve is used, or half of the limit is hidden: [`Load::unaccounted`] is a sixteenth of it. Then
/// the kernel is about to kill a process, probably the largest one, and its user need not be the one who hides memory.
fn is_urgent(short: Shortage, load: Load) -> bool {
    short.over > load.unaccounted || short.over > 0 && short.hidden > load.unaccounted.saturating_mul(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a100_hidden_memory_is_urgent_when_it_is_half_of_all_or_the_kernel_is_about_to_kill_a_process() {
        let is_urgent = |over, hidden| {
            let load = Load { used: 1000, over, unaccounted: 60 };
            is_urgent(Shortage { measure: Measure::Memory, over, hidden }, load)
        };
        assert_eq!(
            [(60, 300), (61, 300), (0, 900)].map(|(over, hidden)| is_urgent(over, hidden)),
            [false, true, false]
        );
        assert_eq!([(1, 480), (1, 481)].map(|(over, hidden)| is_urgent(over, hidden)), [false, true]);
    }

    #[tokio::test]
    async fn an_examination_counts_for_a_second_unless_much_more_memory_is_hidden() {
        let (hidden, start) = (Hidden::default(), Instant::now());
        let ask = |bytes, millis| hidden.last_or_begin(bytes, 60, start + Duration::from_millis(millis));
        assert_eq!(ask(100, 0).unwrap_err(), Some(HashSet::new()));
        assert_eq!(ask(900, 5000).unwrap_err(), None, "one is in progress");
        hidden.end(Examined { suspects: HashSet::from([7]), ..Examined::default() }, start);
        assert!(!hidden.has_ended().await, "none is in progress");
        assert_eq!(ask(900, 10).unwrap().suspects, HashSet::from([7]), "a result is used at least once");
        assert_eq!(ask(960, 999).unwrap().suspects, HashSet::from([7]));
        assert_eq!(ask(961, 20).unwrap_err(), Some(HashSet::from([7])));
        hidden.end(Examined::default(), start);
        assert!(ask(961, 999).is_ok());
        assert_eq!(ask(961, 1000).unwrap_err(), Some(HashSet::new()));
        let is_ended = async { hidden.has_ended().await };
        let ends = async { hidden.end(Examined::default(), start) };
        assert_eq!(tokio::join!(is_ended, ends), (true, ()));
    }

    #[test]
    fn a100_an_examination_begins_early_each_time_that_much_more_memory_is_hidden() {
        let hidden = Hidden::default();
        let begins = |outside| {
            let before = hidden.begin_early(outside, 16);
            hidden.end(Examined::default(), Instant::now());
            before.is_some()
        };
        let looks = [15, 16, 31, 32, 20, 35, 36];
        assert_eq!(looks.map(begins), [false, true, false, true, false, false, true]);
        assert!(
            hidden.begin_early(60, 16).is_some() && hidden.begin_early(90, 16).is_none(),
            "one is in progress"
        );
    }

    #[test]
    fn that_nobody_can_be_blamed_is_told_once_a_minute() {
        let (hidden, start) = (Hidden::default(), Instant::now());
        let told = [0, 59, 60, 61].map(|seconds| hidden.may_tell(start + Duration::from_secs(seconds)));
        assert_eq!(told, [true, false, true, false]);
    }
}
