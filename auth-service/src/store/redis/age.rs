//! Detects that Redis has returned with older data than before: a server that was started from an earlier
//! snapshot, or a replica that was promoted without the last writes. Access that was revoked after that copy was
//! made would be valid again.
//!
//! A number in Redis grows with every change that takes access away, such as a revocation, and with every change
//! of the signing keys. This process remembers the highest number that it has seen. If the number in Redis is
//! lower, everything is refused until a new connection reaches a Redis with the latest data.
//!
//! Replicas that have not seen the highest number can change the older data, so that its number eventually catches
//! up. Therefore each change also adds a random token to a history of the latest changes. If the last token that
//! this process has seen is not in the history, the data belongs to another history, regardless of its number.
//! There is no token to compare if the change is so old that it has left the history.
//!
//! A process that was stopped or disconnected when the data became older cannot detect this, and neither can a
//! process that starts later. Therefore a process that detects it stores what it has seen in Redis, as a
//! [`Claim`]. Every process that finds the claim refuses everything until the data contains that change.
//!
//! Changes that do not take access away are not counted. If only uncounted changes are missing, each process detects
//! this by means of its heartbeats ([`super::heartbeats`]), which it writes several times a minute.
//!
//! These numbers and tokens belong to one store. Data from before a restore or an adoption has an earlier identity
//! ([`super::identity`]), and is refused in the same way. A later store replaces the previous one, unless this
//! process used its own store long after the later one was created. In that case, both exist independently, and the
//! address probably leads to the wrong server temporarily.

mod known;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::LOST;

use super::StoreError;
use super::age_report::{AgeReport, Claim, KnownBefore, Mark};
use super::heartbeats::{HeartbeatPace, OwnHeartbeats, Written};
use super::store_name::StoreName;
use known::{Known, Older};

pub(super) use known::OtherStore;

/// The warning that is given for an hour after the address has led to another store.
const WAS_ELSEWHERE: &str = "in the last hour, Redis had a different store than this replica uses, so REDIS_URL led to another Redis or \
                             older data had returned. Check where the address leads";
/// The warning that is given for an hour after this process has begun to use another store.
const HAS_CHANGED: &str = "in the last hour, the store in Redis was replaced with one that was created later, which is used now. If \
                           nobody has restored or adopted a store, REDIS_URL leads to another Redis";
/// How long `WAS_ELSEWHERE` and `HAS_CHANGED` are given.
const TOLD: Duration = Duration::from_secs(3600);

/// What this process knows about the age of the data in Redis.
#[derive(Default)]
pub(super) struct Age(Mutex<Known>);

impl Age {
    /// The initial state of a process with this random number.
    pub(super) fn of_process(process: u64) -> Self {
        Self(Mutex::new(Known { heartbeats: OwnHeartbeats::of_process(process), ..Known::default() }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a connection has been lost or made.
    pub(super) fn doubt(&self) {
        self.known().connections += 1;
    }

    /// Whether the number must be read before data from Redis can be used.
    pub(super) fn has_to_be_read(&self) -> bool {
        self.known().has_to_be_read()
    }

    /// Whether the absence of a number and of an identity would mean that Redis has been emptied.
    pub(super) fn has_seen_anything(&self) -> bool {
        let known = self.known();
        known.seen > 0 || known.identity.is_some()
    }

    /// Records that Redis has neither a number nor an identity.
    ///
    /// # Errors
    /// Fails if the store had an identity before, so that everything in it is lost.
    pub(super) fn note_absence(&self) -> Result<(), StoreError> {
        let mut known = self.known();
        if known.identity.is_none() {
            return Ok(());
        }
        known.is_lost = true;
        Err(StoreError::NeedsOperator(LOST.to_owned()))
    }

    /// Returns what is known now. It must be called before the number is requested from Redis.
    pub(super) fn known_now(&self) -> KnownBefore {
        let known = self.known();
        known.known_at(Instant::now())
    }

    /// Records the identity of the store. A store with a later identity was newly created, restored or adopted,
    /// and its number starts again from 0. A store that no longer has its identity has lost its data.
    ///
    /// # Errors
    /// Fails if this store cannot be used.
    pub(super) fn note_identity(&self, found: Option<&str>) -> Result<(), OtherStore> {
        let mut known = self.known();
        if known.replaces {
            return Ok(());
        }
        known.is_lost = found.is_none() && known.identity.is_some();
        let Some(found) = found else { return Ok(()) };
        let Some(before) = known.identity.as_deref() else {
            known.identity = Some(found.to_owned());
            return Ok(());
        };
        if before == found {
            known.independent = None;
            return Ok(());
        }
        let name = StoreName::of(found);
        if !name.is_later_than(StoreName::of(before)) {
            return Err(OtherStore::Earlier);
        }
        if known.is_independent(name, Instant::now()) {
            return Err(OtherStore::Independent);
        }
        known.replace_with(found);
        tracing::warn!(
            "Redis has a different store than before, which was created later: from now on, this one is used. If nobody has restored or \
             adopted a store, REDIS_URL leads to another Redis"
        );
        Ok(())
    }

    /// Records whether the identity shows that Redis has a store other than the one that this process uses.
    ///
    /// # Errors
    /// Fails if Redis has another store.
    pub(super) fn note_other(&self, other: Option<OtherStore>) -> Result<(), StoreError> {
        self.known().note_other(|signs| signs.by_identity = other);
        other.map_or(Ok(()), |other| Err(StoreError::NeedsOperator(other.reason().to_owned())))
    }

    /// Warnings for operators if Redis had another store, or the store was replaced, within the last hour.
    pub(super) fn dangers(&self) -> impl Iterator<Item = &'static str> {
        let known = self.known();
        let is_recent = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < TOLD);
        let changed = is_recent(known.has_changed).then_some(HAS_CHANGED);
        is_recent(known.was_elsewhere).then_some(WAS_ELSEWHERE).into_iter().chain(changed)
    }

    /// Whether the identity of the store must be read together with the number, because a new connection might
    /// lead to a Redis with a different store.
    pub(super) fn has_to_be_identified(&self) -> bool {
        let known = self.known();
        known.compared < known.connections || known.is_lost || known.other().is_some()
    }

    /// Records that this process is replacing the store. From then on, it does not compare identities.
    pub(super) fn replace(&self) {
        let mut known = self.known();
        (known.replaces, known.identity, known.is_lost) = (true, None, false);
    }

    /// Whether this process has found a store.
    pub(super) fn has_identity(&self) -> bool {
        self.known().identity.is_some()
    }

    /// Whether this report shows that Redis has older data, unless another store has been created in it.
    pub(super) fn is_older(&self, asked: KnownBefore, told: AgeReport) -> bool {
        let store = self.store();
        told.is_older_than(asked) || told.unmet_claim(store).is_some()
    }

    /// The store that this process has used.
    fn store(&self) -> Option<StoreName> {
        self.known().identity.as_deref().map(StoreName::of)
    }

    /// The claim that this process must leave in Redis for others, if it has seen more than the data contains, and
    /// more than an earlier claim states.
    pub(super) fn claim(&self, asked: KnownBefore, told: AgeReport) -> Option<Claim> {
        let known = self.known();
        let is_older = match known.other.by_identity {
            Some(OtherStore::Earlier) => true,
            // The claim would be written into the data of another installation.
            Some(OtherStore::Independent) => false,
            None => told.is_older_than(asked),
        };
        if known.stores != asked.store || !is_older {
            return None;
        }
        let store = StoreName::of(known.identity.as_deref()?);
        let claim = Claim { seen: asked.seen, mark: asked.mark, heartbeat: asked.heartbeat, store };
        (!told.claim.is_some_and(|said| said.covers(&claim))).then_some(claim)
    }

    /// Whether the claim is about an earlier store in Redis, which might belong to another installation.
    pub(super) fn has_earlier_store(&self) -> bool {
        self.known().other.by_identity == Some(OtherStore::Earlier)
    }

    /// The timing of heartbeats.
    pub(super) fn pace(&self) -> HeartbeatPace {
        self.known().heartbeats.pace()
    }

    pub(super) fn set_pace(&self, pace: HeartbeatPace) {
        self.known().heartbeats.set_pace(pace);
    }

    /// The random number of this process.
    pub(super) fn process(&self) -> u64 {
        self.known().heartbeats.process()
    }

    /// If the next heartbeat is due, returns what is known now. No heartbeat is written to data that might be older.
    pub(super) fn heartbeat_due(&self) -> Option<KnownBefore> {
        let mut known = self.known();
        let now = Instant::now();
        let is_possible = known.identity.is_some() && !known.replaces && !known.has_to_be_read();
        (is_possible && known.heartbeats.take_due(now)).then(|| known.known_at(now))
    }

    /// Records that a heartbeat was written.
    pub(super) fn note_heartbeat(&self, asked: KnownBefore, written: Written) {
        let mut known = self.known();
        if known.stores != asked.store || known.connections != asked.connection {
            // It might have been written to another server.
            return;
        }
        known.heartbeats.note_written(written.number, Instant::now(), asked.connection);
        if let Some(at) = written.at {
            known.used_at = Some(at.saturating_mul(1_000_000));
        }
    }

    /// Whether the store is still the one to which the request was sent.
    pub(super) fn is_same_store(&self, asked: KnownBefore) -> bool {
        self.known().stores == asked.store
    }

    /// Records that a change has been made but could not be counted.
    pub(super) fn owe(&self) {
        self.known().owes = true;
    }

    /// Whether there is a change that could not be counted when it was made. The caller counts it now.
    pub(super) fn take_owed(&self) -> bool {
        std::mem::take(&mut self.known().owes)
    }

    /// Compares what Redis reports with what was known before the request.
    ///
    /// # Errors
    /// Fails if Redis has older data.
    pub(super) fn compare(&self, asked: KnownBefore, told: AgeReport) -> Result<(), StoreError> {
        self.compare_before(asked, told, (told.number, told.latest))
    }

    /// Like [`Age::compare`], after this process has counted a change with this token. `told` is the report from
    /// just before this change.
    ///
    /// # Errors
    /// Fails if Redis already had older data before this change.
    pub(super) fn compare_counted(
        &self,
        asked: KnownBefore,
        told: AgeReport,
        token: u64,
    ) -> Result<(), StoreError> {
        let number = told.number.saturating_add(1);
        self.compare_before(asked, told, (number, Some(Mark { number, token })))
    }

    fn compare_before(
        &self,
        asked: KnownBefore,
        told: AgeReport,
        (now, latest): (u64, Option<Mark>),
    ) -> Result<(), StoreError> {
        let mut known = self.known();
        if known.stores != asked.store {
            // Another store was created after this request. Its number starts again from 0.
            return Ok(());
        }
        let earlier = known.older.filter(|older| asked.connection <= older.connection);
        let store = known.identity.as_deref().map(StoreName::of);
        let claim = told.unmet_claim(store);
        let is_disputed = claim.is_some_and(|claim| store.is_some_and(|store| store != claim.store));
        known.note_other(|signs| signs.by_claim = is_disputed);
        if let Some(other) = known.other() {
            return Err(StoreError::NeedsOperator(other.reason().to_owned()));
        }
        if !told.is_older_than(asked) && claim.is_none() && earlier.is_none() {
            known.seen = known.seen.max(now);
            if known.mark.map(|mark| mark.number) < latest.map(|latest| latest.number) {
                known.mark = latest;
            }
            known.compared = known.compared.max(asked.connection);
            known.heartbeats.note_found(told.heartbeats.own, asked.at, asked.connection);
            if known.older.take().is_some() {
                tracing::info!("Redis has its latest data again");
            }
            return Ok(());
        }
        // If other replicas have made changes since Redis lost data, the number of lost changes is unknown, but at
        // least one is lost.
        let undoes_changes =
            told.undoes_changes_of(asked) || claim.is_some_and(|claim| told.undoes_changes_in(&claim));
        let seen = asked.seen.max(claim.map_or(0, |claim| claim.seen));
        let lost = seen
            .saturating_sub(told.number)
            .max(u64::from(undoes_changes))
            .max(earlier.map_or(0, |older| older.lost));
        let connection = asked.connection.max(earlier.map_or(0, |older| older.connection));
        let was_older = known.older.replace(Older { connection, lost }).is_some();
        drop(known);
        let reason = older_data(lost);
        if !was_older {
            tracing::error!("{reason}. Until then, every request is refused");
        }
        Err(StoreError::NeedsOperator(reason))
    }
}

/// The message for operators if Redis has older data. `lost` is the number of lost changes that took access away.
fn older_data(lost: u64) -> String {
    let (undone, again) = match lost {
        0 => (
            "what was written at least a minute before is missing, so refresh tokens and codes that were used since then would be \
             valid again"
                .to_owned(),
            "",
        ),
        _ => (
            format!(
                "at least {lost} {} undone that revoked, disabled or removed something, or changed a password or the signing keys",
                if lost == 1 { "change is" } else { "changes are" }
            ),
            "make these changes again (auth-service user disable, client disable, keys revoke: docs/state.md), ",
        ),
    };
    format!(
        "Redis returned with older data than before: {undone}. Restore its latest data. If it is lost, stop every replica, run \
         `auth-service store adopt`, {again}and start them"
    )
}

#[cfg(test)]
mod tests;
