//! Regularly checks whether the store still has its data, whether the clock is reliable, and whether settings of
//! the store put its data at risk. Everything else in the service relies on these checks.

pub mod write_probe;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::clock::{Clock, Random, UnixTime};
use crate::domain::clock_watch::{
    self, ClockMark, ClockState, ClockWatch, Difference, TOLERANCE, TimeBounds,
};
use crate::domain::opaque_token::TokenHash;
use crate::store::changes::{Changes, Observable};
use crate::store::{Installation, KeysMark, LOST, Replacement, SigningKeyStore, StoreError};

/// How often the current time is recorded in the store.
const MARK_EVERY: Duration = Duration::from_secs(300);
/// Minimum time between two log messages about changes in the risks to the store's data.
const DANGERS_LOGGED_EVERY: Duration = Duration::from_secs(60);

/// The results of the checks.
#[derive(Debug, Clone)]
pub struct Findings {
    /// The state of the clock.
    pub clock: ClockState,
    /// Whether the store lost its data while this service was running.
    pub is_lost: bool,
    /// The identity of the store, if it has one.
    pub identity: Option<String>,
    /// Risks to the data of the store, each with a way to fix it.
    pub dangers: Vec<String>,
}

/// The results of earlier checks, with which later ones are compared.
pub struct Upkeep(Mutex<Known>);

/// The state that is kept between checks.
struct Known {
    watch: ClockWatch,
    mark: Option<UnixTime>,
    /// The identity for a store that has none yet. If the store cannot be written at startup, a later check writes
    /// it.
    new_identity: Option<String>,
    identity: Option<String>,
    dangers: Vec<String>,
    /// The dangers in the last log message, and the time of that message.
    dangers_logged: (Vec<String>, Option<Duration>),
    /// The record in the store about its signing keys.
    keys_mark: KeysMark,
    was_lost: bool,
    was_steady: bool,
    /// Whether the clock differed from the clock of the store by more than the tolerance between replicas, at the
    /// last check.
    is_apart: bool,
    /// A message about the difference between the clock and the store's clock, if it is notable.
    difference: Option<String>,
    /// How far the clock was behind the store's clock at the last check.
    behind: Duration,
}

impl Upkeep {
    /// Reads the identity of the store, or creates it on the first start. If the store cannot be written, a
    /// later check creates it.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn start(
        store: &(impl Installation + SigningKeyStore + ?Sized),
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<Self, StoreError> {
        let new_identity = random.bytes().ok().map(|bytes| TokenHash::of(&bytes).text());
        let identity = identity_of(store, new_identity.as_deref()).await?;
        let mark = store.clock_mark().await?;
        let is_new = mark.is_none() && store.signing_keys().await?.is_none();
        Ok(Self(Mutex::new(Known {
            watch: if is_new { ClockWatch::of_new_store() } else { ClockWatch::new(mark, clock.up()) },
            mark: mark.map(|mark| mark.last),
            new_identity,
            identity,
            dangers: Vec::new(),
            dangers_logged: (Vec::new(), None),
            keys_mark: KeysMark::default(),
            was_lost: false,
            was_steady: true,
            is_apart: false,
            difference: None,
            behind: Duration::ZERO,
        })))
    }

    /// Runs all checks, and records the time in the store if `MARK_EVERY` has passed. Logs a message if the
    /// results have changed.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn look(
        &self,
        store: &(impl Installation + SigningKeyStore + Observable + ?Sized),
        clock: &dyn Clock,
    ) -> Result<Findings, StoreError> {
        let new_identity = self.known().new_identity_if_unknown();
        let identity = identity_of(store, new_identity.as_deref()).await?;
        let asked_at = clock.now();
        let own_time = if clock.is_time_of_day() { store.own_time().await? } else { None };
        let is_lost = self.known().compare(identity.clone(), store.changes());
        let (now, up) = (clock.now(), clock.up());
        let standing = self.known().look_at_clock(now, up, own_time);
        self.known()
            .note_difference(standing, own_time.map(|own| clock_watch::difference((asked_at, now), own)));
        if standing.is_steady() && !is_lost && self.known().is_mark_due(now) {
            let seen = store.clock_mark().await?;
            let mark = self.known().follow(seen, now, up);
            match store.set_clock_mark(seen, mark).await {
                Ok(Replacement::Replaced) => self.known().mark = Some(now),
                // Another replica or a command has changed the record, or the store failed. The next check tries again.
                Ok(Replacement::Outdated) | Err(_) => {}
            }
        }
        let dangers = store.dangers().await?;
        // A store that has lost its identity has lost this record as well.
        let keys_mark = if is_lost { None } else { store.keys_mark().await? };
        let mut known = self.known();
        known.note_dangers(dangers, up);
        known.note_keys(keys_mark.unwrap_or_default(), now);
        Ok(Findings { clock: standing, is_lost, identity, dangers: known.all_dangers(now) })
    }

    /// The bounds of the correct time.
    pub fn time_bounds(&self, clock: &dyn Clock) -> TimeBounds {
        self.known().watch.bounds(clock.now(), clock.up())
    }

    /// Whether the store had lost its data at the last check.
    pub fn has_lost_store(&self) -> bool {
        self.known().was_lost
    }

    /// Whether `at` can be the current time of another replica, whose clock is within the tolerance of the store's
    /// clock. `now` is the time of this replica.
    pub fn is_possible_for_store(&self, at: UnixTime, now: UnixTime) -> bool {
        let of_store = now.plus(self.known().behind);
        at.since(of_store) <= TOLERANCE
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns all risks to the store's data, for a process that does not check them regularly.
///
/// # Errors
/// Fails if the store cannot be read.
pub async fn dangers_of(
    store: &(impl Installation + SigningKeyStore + ?Sized),
    clock: &dyn Clock,
) -> Result<Vec<String>, StoreError> {
    let mut dangers = store.dangers().await?;
    let mark = store.keys_mark().await?.unwrap_or_default();
    dangers.extend(mark.danger(clock.now()).map(str::to_owned));
    let asked_at = clock.now();
    if let Some(own_time) = store.own_time().await? {
        dangers.extend(told(clock_watch::difference((asked_at, clock.now()), own_time)));
    }
    Ok(dangers)
}

fn told(difference: Difference) -> Option<String> {
    difference.is_notable().then(|| {
        format!(
            "the clock of this machine is {difference} compared with that of Redis, so replicas disagree about what has \
             expired. Synchronize both with NTP"
        )
    })
}

/// Returns the identity of the store. If it has none, `new` is written first, if possible.
async fn identity_of(
    store: &(impl Installation + ?Sized),
    new: Option<&str>,
) -> Result<Option<String>, StoreError> {
    let found = store.identity().await?;
    match new {
        Some(new) if found.is_none() && store.identify(new).await.is_ok() => store.identity().await,
        _ => Ok(found),
    }
}

impl Known {
    /// The identity for a store that has never had one. A store that has lost its identity must not get a new one.
    fn new_identity_if_unknown(&self) -> Option<String> {
        self.new_identity.clone().filter(|_| self.identity.is_none())
    }

    /// Returns whether the store has lost its identity, which means that it has lost its data. A store with a
    /// different identity is used as a new store.
    fn compare(&mut self, found: Option<String>, changes: &Changes) -> bool {
        let is_lost = found.is_none() && self.identity.is_some();
        let is_other = self.identity.is_some() && found.is_some() && self.identity != found;
        if is_other || is_lost && !self.was_lost {
            changes.note_everything();
        }
        if is_other {
            tracing::error!(
                "the store is not the same as before: it was emptied and created again, or replaced. From now on, its accounts, clients, \
                 tokens and signing keys are used"
            );
        } else if is_lost && !self.was_lost {
            tracing::error!("{LOST}");
        }
        if !is_lost {
            self.identity = found.or_else(|| self.identity.take());
        }
        self.was_lost = is_lost;
        is_lost
    }

    fn look_at_clock(&mut self, now: UnixTime, up: Duration, own_time: Option<UnixTime>) -> ClockState {
        let standing = self.watch.look(now, up, own_time);
        let is_steady = standing.is_steady();
        if is_steady != self.was_steady {
            self.was_steady = is_steady;
            metrics::gauge!("mcp_gate_clock_steady").set(if is_steady { 1.0 } else { 0.0 });
            if is_steady {
                tracing::info!("the clock is reliable again");
            } else {
                tracing::warn!("the clock: {standing}");
            }
        }
        standing
    }

    /// Records the difference between the clock and the store's clock, if the store has one.
    fn note_difference(&mut self, standing: ClockState, difference: Option<Difference>) {
        self.is_apart = matches!(standing, ClockState::Disagrees { .. });
        let Some(difference) = difference else { return };
        self.behind = difference.behind();
        metrics::gauge!("mcp_gate_clock_difference_seconds").set(difference.seconds());
        let told = told(difference);
        match (&self.difference, &told) {
            (None, Some(told)) => tracing::warn!("{told}"),
            (Some(_), None) => tracing::info!("the clock agrees with that of Redis again"),
            _ => {}
        }
        self.difference = told;
    }

    /// The dangers from the store's settings, from lost signing keys, and from a difference between the clocks. A
    /// difference so large that this replica is not ready is not included, because the state of the clock shows
    /// it.
    fn all_dangers(&self, now: UnixTime) -> Vec<String> {
        let of_clock = self.difference.iter().filter(|_| !self.is_apart);
        let of_keys = self.keys_mark.danger(now).map(str::to_owned);
        self.dangers.iter().chain(of_clock).cloned().chain(of_keys).collect()
    }

    /// Stores the record about the signing keys. If they were lost, every replica logs this, and not only the
    /// replica that noticed it.
    fn note_keys(&mut self, mark: KeysMark, now: UnixTime) {
        if mark != self.keys_mark
            && let Some(danger) = mark.danger(now)
        {
            tracing::error!("{danger}");
        }
        self.keys_mark = mark;
    }

    /// Adopts an operator's correction of the latest trusted time. Returns the times to record.
    fn follow(&mut self, seen: Option<ClockMark>, now: UnixTime, up: Duration) -> ClockMark {
        self.watch.follow(seen, now, up);
        self.watch.mark(now, up)
    }

    fn is_mark_due(&self, now: UnixTime) -> bool {
        self.mark.is_none_or(|mark| now < mark || now.since(mark) >= MARK_EVERY)
    }

    fn note_dangers(&mut self, dangers: Vec<String>, up: Duration) {
        let (logged, at) = &self.dangers_logged;
        let is_due = at.is_none_or(|at| up.saturating_sub(at) >= DANGERS_LOGGED_EVERY);
        // A danger can contain a number that changes with every check, so changed dangers are logged less often. A
        // new danger is logged immediately.
        if dangers != *logged && (is_due || dangers.len() > logged.len()) {
            for danger in &dangers {
                tracing::warn!("the store: {danger}");
            }
            self.dangers_logged = (dangers.clone(), Some(up));
        }
        self.dangers = dangers;
    }
}
