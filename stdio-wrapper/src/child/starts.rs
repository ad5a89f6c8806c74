//! Limits how many children start at the same time. A start needs processor time: an interpreter needs seconds
//! to load its libraries. If all requested starts ran together, each would take as long as all of them
//! combined, and none would finish in time. Therefore a limited number of slots is shared between the
//! principals, and further starts wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// Maximum number of starts waiting for a slot.
const MAX_WAITING: usize = 256;
/// One principal can have 1/`WAITING_SHARE` of the waiting starts.
const WAITING_SHARE: usize = 4;
/// One principal can have 1/`PLACE_SHARE` of the slots, because its starts might never finish.
const PLACE_SHARE: usize = 2;
/// Maximum time for which a start keeps its slot. A child that has not answered by then might never do so.
const HOLD: Duration = Duration::from_secs(10);
/// Maximum time for which a spare keeps its slot if nothing was sent to it. Such a spare sends no response that
/// would show that it is ready.
const SPARE_HOLD: Duration = Duration::from_secs(2);
/// The name under which spares are counted. It cannot be the name of a principal.
pub(super) const SPARES: &str = "\0spares";
/// Maximum time for which a start waits for a slot. It also waits at most two thirds of `START_TIMEOUT`.
const MAX_PATIENCE: Duration = Duration::from_secs(30);
/// Maximum time by which waiting and starting together can exceed `START_TIMEOUT`. With the default of 45 s,
/// clients get an error that contains the reason within 60 s, which is the timeout of the SDKs.
const OVERTIME: Duration = Duration::from_secs(12);

/// Why a start did not get a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// Too many starts are waiting already.
    #[error(
        "Too many MCP servers are waiting to be started, either yours or those of all users. Try again in a moment. The operator can give this server more processors, or keep some servers ready (PREWARM)."
    )]
    Crowded,
    /// No slot became free in time.
    #[error(
        "The start of your MCP server waited for {} s for other starts, either yours or those of all users. Try again in a moment. The operator can give this server more processors, or keep some servers ready (PREWARM).", .0.as_secs()
    )]
    Waited(Duration),
    /// No further children are started.
    #[error("This server is shutting down. Try again in a moment.")]
    Stopping,
}

/// The running and the waiting starts.
#[derive(Debug)]
pub(super) struct Starts {
    /// Maximum number of starts that run at the same time.
    places: usize,
    max_waiting: usize,
    start_timeout: Duration,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of running starts.
    running: usize,
    /// The waiting starts, oldest first.
    waiting: VecDeque<Waiting>,
    /// The principals that have a running or waiting start.
    owners: HashMap<Arc<str>, Owner>,
    /// The number of slots that have been given so far.
    turns: u64,
    /// The number of starts that have waited so far.
    waited: u64,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Owner {
    running: usize,
    waiting: usize,
    /// The value of `turns` when this principal last got a slot.
    served: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    owner: Arc<str>,
    place: oneshot::Sender<Place>,
}

/// A slot for one start. Dropping it gives the slot to the next start.
#[derive(Debug)]
struct Place {
    starts: Arc<Starts>,
    owner: Arc<str>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.starts.state();
        state.running -= 1;
        state.update(&self.owner, |owner| owner.running -= 1);
        drop(state);
        self.starts.grant();
    }
}

/// The permission for one start.
#[derive(Debug)]
pub struct Turn {
    /// The principal for whom the child is started.
    owner: Arc<str>,
    /// `None` for a child that is already running, and after [`Turn::leave`].
    place: Mutex<Option<Place>>,
    /// The time by which the slot is given to another start.
    until: Instant,
    start_timeout: Duration,
}

impl Turn {
    /// The permission to take a child that is already running.
    pub(super) fn without_start(owner: &str, start_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            owner: Arc::from(owner),
            place: Mutex::default(),
            until: Instant::now(),
            start_timeout,
        })
    }

    /// The principal for whom the child is started.
    pub(super) fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// Maximum time for the child's first response: `START_TIMEOUT`, or less if the start has waited for a long
    /// time.
    pub fn start_timeout(&self) -> Duration {
        self.start_timeout
    }

    /// The time by which the slot is given to another start.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Gives the slot to another start.
    pub(super) fn leave(&self) {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(place);
    }
}

impl Starts {
    pub(super) fn new(places: usize, start_timeout: Duration, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            places: places.max(1),
            max_waiting: MAX_WAITING,
            start_timeout,
            metrics,
            state: Mutex::default(),
        })
    }

    /// Waits until a principal gets a slot for a start.
    pub(super) async fn turn(self: &Arc<Self>, owner: &str) -> Result<Arc<Turn>, Busy> {
        let asked = Instant::now();
        let patience = (self.start_timeout * 2 / 3).min(MAX_PATIENCE);
        let place = match self.place(owner) {
            Some(place) => place,
            None => self.wait(owner, patience).await?,
        };
        let now = Instant::now();
        let left = (self.start_timeout + OVERTIME).saturating_sub(now.duration_since(asked));
        let start_timeout = self.start_timeout.min(left);
        let owner = Arc::from(owner);
        Ok(Arc::new(Turn { owner, place: Mutex::new(Some(place)), until: now + HOLD, start_timeout }))
    }

    /// A slot for a spare, if no other start is waiting.
    pub(super) fn spare_turn(self: &Arc<Self>, is_pinged: bool) -> Option<Arc<Turn>> {
        if !self.state().waiting.is_empty() {
            return None;
        }
        let place = Mutex::new(Some(self.place(SPARES)?));
        let until = Instant::now() + if is_pinged { HOLD } else { SPARE_HOLD };
        Some(Arc::new(Turn { owner: Arc::from(SPARES), place, until, start_timeout: self.start_timeout }))
    }

    /// Whether another start would be refused now.
    pub(super) fn is_full(&self) -> bool {
        self.state().waiting.len() >= self.max_waiting
    }

    /// Gives no more slots, and makes all waiting starts fail.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.state();
            state.is_closed = true;
            std::mem::take(&mut state.waiting)
        };
        for Waiting { owner, .. } in &waiting {
            self.state().update(owner, |owner| owner.waiting -= 1);
        }
    }

    /// Returns a free slot, unless a waiting start could use it.
    fn place(self: &Arc<Self>, owner: &str) -> Option<Place> {
        let owner: Arc<str> = Arc::from(owner);
        let mut state = self.state();
        if state.is_closed || !self.has_place(&state, &owner) {
            return None;
        }
        state.begin(&owner);
        drop(state);
        Some(Place { starts: Arc::clone(self), owner })
    }

    async fn wait(self: &Arc<Self>, owner: &str, patience: Duration) -> Result<Place, Busy> {
        let (place, mut granted) = oneshot::channel();
        let _waiting = self.enter(owner, place)?;
        // A slot might have become free just before this start was added to the queue.
        self.grant();
        match tokio::time::timeout(patience, &mut granted).await {
            Ok(place) => place.map_err(|_| Busy::Stopping),
            Err(_) => Err(Busy::Waited(patience)),
        }
    }

    /// Adds a start to the queue. Dropping the result removes it.
    fn enter(self: &Arc<Self>, owner: &str, place: oneshot::Sender<Place>) -> Result<Entry<'_>, Busy> {
        let owner: Arc<str> = Arc::from(owner);
        let mut state = self.state();
        if state.is_closed {
            return Err(Busy::Stopping);
        }
        let share = share(&owner, self.max_waiting, WAITING_SHARE);
        let own = state.owners.get(&owner).map_or(0, |owner| owner.waiting);
        if state.waiting.len() >= self.max_waiting || own >= share {
            return Err(Busy::Crowded);
        }
        state.waited += 1;
        let number = state.waited;
        state.owners.entry(Arc::clone(&owner)).or_default().waiting += 1;
        state.waiting.push_back(Waiting { number, owner, place });
        self.metrics.starts_waiting.add();
        Ok(Entry { starts: self, number })
    }

    /// Gives the free slots to waiting starts.
    fn grant(self: &Arc<Self>) {
        while let Some(Waiting { owner, place, .. }) = self.next() {
            // If this start no longer waits, the slot is dropped, and the next start gets it.
            let _ = place.send(Place { starts: Arc::clone(self), owner });
        }
    }

    /// Removes and returns the next waiting start. It belongs to the principal with the fewest running starts
    /// or, if several have as few, to the one that has waited longest since its last slot.
    fn next(&self) -> Option<Waiting> {
        let mut state = self.state();
        let places = state.waiting.iter().enumerate().filter(|(_, one)| self.has_place(&state, &one.owner));
        let order = |(index, one): &(usize, &Waiting)| {
            let (running, served) =
                state.owners.get(&one.owner).map_or((0, 0), |owner| (owner.running, owner.served));
            (running, served, *index)
        };
        let (index, _) = places.min_by_key(order)?;
        let next = state.waiting.remove(index)?;
        state.begin(&next.owner);
        state.update(&next.owner, |owner| owner.waiting -= 1);
        Some(next)
    }

    fn has_place(&self, state: &State, owner: &Arc<str>) -> bool {
        let own = state.owners.get(owner).map_or(0, |owner| owner.running);
        state.running < self.places && own < share(owner, self.places, PLACE_SHARE)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The maximum number of the `all` slots that one principal can occupy: one `part`th of them, or all if `owner`
/// is empty (all callers are one principal).
fn share(owner: &str, all: usize, part: usize) -> usize {
    if owner.trim().is_empty() { all } else { (all / part).max(1) }
}

impl State {
    /// Counts a start that begins to run.
    fn begin(&mut self, owner: &Arc<str>) {
        self.running += 1;
        self.turns += 1;
        let turns = self.turns;
        let owner = self.owners.entry(Arc::clone(owner)).or_default();
        owner.running += 1;
        owner.served = turns;
    }

    /// Changes the counts of a principal, and removes a principal that has no more starts.
    fn update(&mut self, owner: &Arc<str>, change: impl FnOnce(&mut Owner)) {
        if let Some(known) = self.owners.get_mut(owner) {
            change(known);
            if known.running == 0 && known.waiting == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

/// A waiting start. Dropping it removes it from the queue.
struct Entry<'a> {
    starts: &'a Starts,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.starts.metrics.starts_waiting.sub();
        let mut state = self.starts.state();
        // The entry is missing if the start has already received its slot.
        let Some(index) = state.waiting.iter().position(|one| one.number == self.number) else { return };
        if let Some(Waiting { owner, .. }) = state.waiting.remove(index) {
            state.update(&owner, |owner| owner.waiting -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::*;

    fn starts(places: usize, max_waiting: usize) -> Arc<Starts> {
        let starts = Starts::new(places, Duration::from_secs(45), Arc::default());
        Arc::new(Starts { max_waiting, ..Arc::try_unwrap(starts).unwrap() })
    }

    /// Waits for a slot in a separate task.
    async fn ask(
        starts: &Arc<Starts>,
        owner: &'static str,
    ) -> tokio::task::JoinHandle<Result<Arc<Turn>, Busy>> {
        let before = (starts.metrics.starts_waiting.get(), starts.state().turns);
        let asked = tokio::spawn({
            let starts = Arc::clone(starts);
            async move { starts.turn(owner).await }
        });
        while (starts.metrics.starts_waiting.get(), starts.state().turns) == before && !asked.is_finished() {
            tokio::task::yield_now().await;
        }
        asked
    }

    #[tokio::test]
    async fn a100_the_starts_of_one_principal_leave_places_and_turns_to_others() {
        let starts = starts(4, 100);
        let mut mallory = Vec::new();
        for _ in 0..10 {
            mallory.push(ask(&starts, "mallory").await);
        }
        assert_eq!(starts.state().running, 2, "half of the slots");
        let bob = ask(&starts, "bob").await.await.unwrap().unwrap();
        let carol = ask(&starts, "carol").await.await.unwrap().unwrap();
        let dave = ask(&starts, "dave").await;
        // When one of Mallory's starts ends, the next slot goes to a principal without a running start.
        let first = mallory.remove(0).await.unwrap().unwrap();
        drop(first);
        let dave = dave.await.unwrap().unwrap();
        drop((bob, carol, dave));
        assert_eq!(starts.state().running, 2);
        drop(mallory.remove(0).await.unwrap().unwrap());
        drop(mallory.remove(0).await.unwrap().unwrap());
        for rest in mallory {
            drop(rest.await.unwrap().unwrap());
        }
        assert!(starts.state().owners.is_empty());
        assert_eq!((starts.state().running, starts.metrics.starts_waiting.get()), (0, 0));
    }

    #[tokio::test]
    async fn with_one_place_the_principals_take_turns() {
        let starts = starts(1, 100);
        let running = ask(&starts, "mallory").await.await.unwrap().unwrap();
        let (second, third) = (ask(&starts, "mallory").await, ask(&starts, "mallory").await);
        let bob = ask(&starts, "bob").await;
        drop(running);
        drop(bob.await.unwrap().unwrap());
        drop(second.await.unwrap().unwrap());
        drop(third.await.unwrap().unwrap());
        // If all callers are one principal, that principal can use all slots, in the order of its requests.
        let _running = ask(&starts, "").await.await.unwrap().unwrap();
        let later = ask(&starts, "").await;
        assert!(!later.is_finished());
    }

    #[tokio::test]
    async fn a100_the_queue_has_a_ceiling_and_a_share_and_forgets_who_does_not_wait_any_more() {
        let starts = starts(1, 8);
        let running = starts.turn("mallory").await.unwrap();
        let (first, second) = (ask(&starts, "mallory").await, ask(&starts, "mallory").await);
        assert_eq!(starts.turn("mallory").await.unwrap_err(), Busy::Crowded, "a quarter");
        let others = ["a", "b", "c", "d", "e", "f"];
        let mut all = Vec::new();
        for other in others {
            all.push(ask(&starts, other).await);
        }
        assert!(starts.is_full());
        assert_eq!(starts.turn("bob").await.unwrap_err(), Busy::Crowded);
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(!starts.is_full());
        let bob = ask(&starts, "bob").await;
        drop(running);
        for other in all {
            drop(other.await.unwrap().unwrap());
        }
        drop(bob.await.unwrap().unwrap());
        drop(second.await.unwrap().unwrap());
        assert!(starts.state().owners.is_empty());
    }

    #[tokio::test]
    async fn who_begins_to_wait_when_a_place_has_just_become_free_gets_it() {
        let starts = starts(1, 8);
        let place = starts.place("ana");
        assert!(starts.place("bob").is_none());
        drop(place);
        assert!(starts.wait("bob", Duration::from_secs(1)).await.is_ok());
    }

    #[tokio::test]
    async fn spares_wait_for_all_others_and_have_half_of_the_places() {
        let starts = starts(2, 8);
        let spare = starts.spare_turn(false).unwrap();
        assert!(starts.spare_turn(false).is_none());
        let running = starts.turn("ana").await.unwrap();
        drop(spare);
        let waiting = ask(&starts, "ana").await;
        assert!(starts.spare_turn(false).is_none());
        running.leave();
        assert!(waiting.await.unwrap().is_ok());
        assert!(starts.spare_turn(false).is_some());
    }

    #[tokio::test]
    async fn who_waits_is_told_when_nothing_is_started_any_more_or_it_takes_too_long() {
        let starts = Starts::new(1, Duration::from_millis(3), Arc::default());
        let running = starts.turn("ana").await.unwrap();
        assert_eq!(starts.turn("bob").await.unwrap_err(), Busy::Waited(Duration::from_millis(2)));
        assert_eq!(running.start_timeout(), Duration::from_millis(3));
        let mut waiting = Box::pin(starts.turn("bob"));
        assert!(matches!(poll!(waiting.as_mut()), Poll::Pending));
        starts.close();
        assert_eq!(waiting.await.unwrap_err(), Busy::Stopping);
        drop(running);
        assert_eq!(starts.turn("bob").await.unwrap_err(), Busy::Stopping);
        assert!(starts.state().owners.is_empty());
    }
}
