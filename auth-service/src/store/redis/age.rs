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
//! These numbers and tokens belong to one store. Data from before a restore or an adoption has an earlier identity
//! ([`super::identity`]), and is refused in the same way.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::LOST;

use super::StoreError;
use super::store_name::StoreName;

/// The message for operators if Redis has an earlier store.
const EARLIER: &str = "Redis has another store than before, and one that was created earlier: data from before a restore or an \
                       adoption has returned, or REDIS_URL leads to another Redis. Restore the latest data, or correct the \
                       address. To keep this data instead, stop every replica, run `auth-service store adopt`, repeat \
                       what was revoked, disabled or removed since then (docs/state.md), and start the service";

/// What this process knows about the age of the data in Redis.
#[derive(Default)]
pub(super) struct Age(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The highest number that was seen.
    seen: u64,
    /// The latest change whose token was seen.
    mark: Option<Mark>,
    /// The identity of the store whose number this is.
    identity: Option<String>,
    /// The number of times that a store with a different identity was found.
    stores: u64,
    /// The number of connections made so far. A new connection might lead to a Redis with older data.
    connections: u64,
    /// The value of `connections` for which the number was compared.
    compared: u64,
    /// Set while Redis has older data.
    older: Option<Older>,
    /// Set while the store has no identity, although it had one before.
    is_lost: bool,
    earlier: Earlier,
    /// Whether this process has made a change that could not be counted.
    owes: bool,
    /// Whether this process is replacing the store, so that the store's identity is removed and a new one is
    /// written.
    replaces: bool,
}

/// The signs that Redis has an earlier store than before.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Earlier {
    /// This process has used a later store.
    by_identity: bool,
    /// The claim of another process names a later store.
    by_claim: bool,
}

#[derive(Clone, Copy)]
struct Older {
    /// The value of `connections` when this was noticed.
    connection: u64,
    /// The number of lost changes.
    lost: u64,
}

/// What this process knew when it requested the number from Redis. Other responses can arrive, and new connections
/// can be made, before the response to this request arrives.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownBefore {
    /// The highest number that was seen.
    pub(super) seen: u64,
    /// The latest change whose token was seen.
    pub(super) mark: Option<Mark>,
    connection: u64,
    store: u64,
}

/// A change, as it is recorded in the history in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) number: u64,
    /// A random number that no other change has.
    pub(super) token: u64,
}

/// The record that a process leaves in Redis when the data is older than what the process has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    /// The highest number that it has seen.
    pub(super) seen: u64,
    /// The latest change whose token it has seen.
    pub(super) mark: Option<Mark>,
    /// The store to which the claim applies.
    pub(super) store: StoreName,
}

/// What Redis reports about the age of its data.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AgeReport {
    /// The number of changes.
    pub(super) number: u64,
    /// The latest change in the history.
    pub(super) latest: Option<Mark>,
    /// The number of the earliest change that is still in the history.
    pub(super) earliest: Option<u64>,
    /// The number of the change with the requested token, if the history contains it.
    pub(super) number_of_asked: Option<u64>,
    /// The claim of a process that had seen more, if there is one.
    pub(super) claim: Option<Claim>,
    /// The number of the change with the token of the claim, if the history contains it.
    pub(super) number_of_claimed: Option<u64>,
}

impl AgeReport {
    /// Whether `mark` is missing from the history although it should be there, which means that the data belongs
    /// to another history.
    fn is_other_history(&self, mark: Option<Mark>) -> bool {
        self.lacks(mark, self.number_of_asked)
    }

    /// Whether `mark` is missing from the history. `number_of_token` is the number that the history has for the
    /// token of `mark`.
    fn lacks(&self, mark: Option<Mark>, number_of_token: Option<u64>) -> bool {
        let Some(mark) = mark else { return false };
        let may_have_left = self.earliest.is_some_and(|earliest| earliest > mark.number);
        number_of_token != Some(mark.number) && !may_have_left
    }

    /// The claim of another process, if that process has seen more than this data contains. A claim about a store
    /// that `store` has replaced does not apply, and a claim about a later store always applies.
    fn unmet_claim(&self, store: Option<StoreName>) -> Option<Claim> {
        self.claim.filter(|claim| match store {
            Some(store) if claim.store != store => claim.store.is_later_than(store),
            _ => self.number < claim.seen || self.lacks(claim.mark, self.number_of_claimed),
        })
    }

    /// Whether a claim states that the data of the store with this identity is older than before.
    pub(super) fn is_disputed(&self, identity: &str) -> bool {
        self.unmet_claim(Some(StoreName::of(identity))).is_some()
    }
}

impl Known {
    fn has_earlier(&self) -> bool {
        self.earlier != Earlier::default()
    }

    /// Updates one of the signs that Redis has an earlier store. Logs a message if this changes whether it has
    /// one.
    fn note_earlier(&mut self, change: impl FnOnce(&mut Earlier)) {
        let had_earlier = self.has_earlier();
        change(&mut self.earlier);
        match (had_earlier, self.has_earlier()) {
            (false, true) => tracing::error!("{EARLIER}. Everything is refused until then"),
            (true, false) => tracing::info!("Redis contains the previous store again, or a later one"),
            _ => {}
        }
    }
}

impl Age {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a connection has been lost or made.
    pub(super) fn doubt(&self) {
        self.known().connections += 1;
    }

    /// Whether the number must be read before data from Redis can be used.
    pub(super) fn has_to_be_read(&self) -> bool {
        let known = self.known();
        known.compared < known.connections || known.older.is_some() || known.is_lost || known.has_earlier()
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
        KnownBefore { seen: known.seen, mark: known.mark, connection: known.connections, store: known.stores }
    }

    /// Records the identity of the store. A store with a later identity was newly created, restored or adopted,
    /// and its number starts again from 0. A store that no longer has its identity has lost its data. Returns
    /// whether this store can be used, which is false for an earlier store.
    pub(super) fn note_identity(&self, found: Option<&str>) -> bool {
        let mut known = self.known();
        if known.replaces {
            return true;
        }
        known.is_lost = found.is_none() && known.identity.is_some();
        let Some(found) = found else { return true };
        if known.identity.as_deref() == Some(found) {
            return true;
        }
        if let Some(before) = &known.identity {
            if !StoreName::of(found).is_later_than(StoreName::of(before)) {
                return false;
            }
            (known.seen, known.mark, known.older) = (0, None, None);
            known.stores += 1;
            tracing::warn!(
                "Redis has another store than before, which was created later: from now on, this one is used. If nobody has restored or \
                 adopted a store, REDIS_URL leads to another Redis"
            );
        }
        known.identity = Some(found.to_owned());
        true
    }

    /// Records whether Redis has an earlier store than the one that this process has used.
    ///
    /// # Errors
    /// Fails if Redis has an earlier store.
    pub(super) fn note_earlier(&self, is_earlier: bool) -> Result<(), StoreError> {
        self.known().note_earlier(|earlier| earlier.by_identity = is_earlier);
        if is_earlier { Err(StoreError::NeedsOperator(EARLIER.to_owned())) } else { Ok(()) }
    }

    /// Whether the identity of the store must be read together with the number, because a new connection might
    /// lead to a Redis with a different store.
    pub(super) fn has_to_be_identified(&self) -> bool {
        let known = self.known();
        known.compared < known.connections || known.is_lost || known.has_earlier()
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
        told.number < asked.seen || told.is_other_history(asked.mark) || told.unmet_claim(store).is_some()
    }

    /// The store that this process has used.
    fn store(&self) -> Option<StoreName> {
        self.known().identity.as_deref().map(StoreName::of)
    }

    /// The claim that this process must leave in Redis for others, if it has seen more than the data contains, and
    /// more than an earlier claim states.
    pub(super) fn claim(&self, asked: KnownBefore, told: AgeReport) -> Option<Claim> {
        let known = self.known();
        let is_older =
            told.number < asked.seen || told.is_other_history(asked.mark) || known.earlier.by_identity;
        if known.stores != asked.store || !is_older {
            return None;
        }
        let store = StoreName::of(known.identity.as_deref()?);
        let claim = Claim { seen: asked.seen, mark: asked.mark, store };
        let number = |claim: &Claim| claim.mark.map(|mark| mark.number);
        let is_said = |said: Claim| {
            said.store.is_later_than(claim.store)
                || said.store == claim.store && said.seen >= claim.seen && number(&said) >= number(&claim)
        };
        (!told.claim.is_some_and(is_said)).then_some(claim)
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
        self.compare_before(asked, told, told.number, (told.number, told.latest))
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
        self.compare_before(asked, told, told.number, (number, Some(Mark { number, token })))
    }

    fn compare_before(
        &self,
        asked: KnownBefore,
        told: AgeReport,
        before: u64,
        (now, latest): (u64, Option<Mark>),
    ) -> Result<(), StoreError> {
        let mut known = self.known();
        if known.stores != asked.store {
            // Another store was created after this request. Its number starts again from 0.
            return Ok(());
        }
        let earlier = known.older.filter(|older| asked.connection <= older.connection);
        let is_other_history = told.is_other_history(asked.mark);
        let store = known.identity.as_deref().map(StoreName::of);
        let claim = told.unmet_claim(store);
        let is_disputed = claim.is_some_and(|claim| store.is_some_and(|store| store != claim.store));
        known.note_earlier(|earlier| earlier.by_claim = is_disputed);
        if known.has_earlier() {
            return Err(StoreError::NeedsOperator(EARLIER.to_owned()));
        }
        if before >= asked.seen && !is_other_history && claim.is_none() && earlier.is_none() {
            known.seen = known.seen.max(now);
            if known.mark.map(|mark| mark.number) < latest.map(|latest| latest.number) {
                known.mark = latest;
            }
            known.compared = known.compared.max(asked.connection);
            if known.older.take().is_some() {
                tracing::info!("Redis has its latest data again");
            }
            return Ok(());
        }
        // If other replicas have made changes since Redis lost data, the number of lost changes is unknown, but at
        // least one is lost.
        let seen = asked.seen.max(claim.map_or(0, |claim| claim.seen));
        let lost = seen.saturating_sub(before).max(earlier.map_or(1, |older| older.lost));
        let connection = asked.connection.max(earlier.map_or(0, |older| older.connection));
        let was_older = known.older.replace(Older { connection, lost }).is_some();
        drop(known);
        let reason = format!(
            "Redis returned with older data than before: at least {lost} {} undone that revoked, disabled or removed something, or \
             changed a password or the signing keys. Restore its latest data. If it is lost, stop every replica, run \
             `auth-service store adopt`, make these changes again (auth-service user disable, client disable, keys revoke: \
             docs/state.md), and start them",
            if lost == 1 { "change is" } else { "changes are" }
        );
        if !was_older {
            tracing::error!("{reason}. Until then, every request is refused");
        }
        Err(StoreError::NeedsOperator(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The report of a Redis server whose changes have these numbers and tokens, in response to a request with the
    /// token of `asked`.
    fn told(number: u64, changes: &[(u64, u64)], asked: KnownBefore) -> AgeReport {
        let mark = |(number, token): &(u64, u64)| Mark { number: *number, token: *token };
        let found = |mark: Mark| changes.iter().find(|change| change.1 == mark.token);
        AgeReport {
            number,
            latest: changes.last().map(mark),
            earliest: changes.first().map(|change| change.0),
            number_of_asked: asked.mark.and_then(found).map(|change| change.0),
            ..AgeReport::default()
        }
    }

    #[test]
    fn a_lower_number_is_refused_until_another_connection_has_it_or_another_store() {
        let age = Age::default();
        age.note_identity(Some("1.first"));
        let number = |number| AgeReport { number, ..AgeReport::default() };
        let compare = |found| age.compare(age.known_now(), number(found));
        let earlier = age.known_now();
        assert!(compare(3).is_ok() && compare(3).is_ok());
        assert!(age.compare(earlier, number(2)).is_ok(), "the response to an earlier request arrives later");
        let error = compare(1).unwrap_err().to_string();
        assert!(error.contains("2 changes are undone"), "{error}");
        assert!(age.has_to_be_read());
        age.note_identity(None);
        assert!(age.has_to_be_identified() && compare(2).is_err());
        age.note_identity(Some("1.first"));
        let error = compare(5).unwrap_err().to_string();
        assert!(error.contains("2 changes are undone"), "changes by other replicas: {error}");
        age.doubt();
        assert!(compare(3).is_ok() && !age.has_to_be_read(), "this is the latest data");
        assert!(compare(0).is_err());
        let earlier = age.known_now();
        age.note_identity(Some("2.second"));
        assert!(age.compare(earlier, number(0)).is_ok(), "the request was sent to another store");
        assert!(compare(0).is_ok() && !age.has_to_be_read());
    }

    #[test]
    fn a066_a_number_that_others_have_caught_up_with_is_that_of_another_history() {
        let age = Age::default();
        let compare = |number, changes: &[(u64, u64)]| {
            let asked = age.known_now();
            age.compare(asked, told(number, changes, asked))
        };
        let ours = [(1, 11), (2, 12), (3, 13)];
        assert!(compare(3, &ours).is_ok());
        for number in 3..6 {
            let theirs: Vec<_> = (1..=number).map(|n| (n, if n == 1 { 11 } else { 20 + n })).collect();
            age.doubt();
            let error = compare(number, &theirs).unwrap_err().to_string();
            assert!(error.contains("at least 1 change is undone"), "{error}");
        }
        // After the history was lost, there are no tokens to compare.
        age.doubt();
        assert!(compare(3, &[]).is_err());
        age.doubt();
        assert!(compare(4, &[(1, 11), (2, 12), (3, 13), (4, 14)]).is_ok());
        // A change that is no longer in the history cannot be compared.
        age.doubt();
        assert!(compare(5000, &[(4990, 1), (5000, 2)]).is_ok());
        // The number can grow without a token in the history.
        assert!(compare(5001, &[(4990, 1), (5000, 2)]).is_ok());
        assert!(compare(5001, &[(4990, 1), (5000, 3)]).is_err());
    }

    #[test]
    fn a066_what_another_process_knows_counts_for_one_that_knows_less() {
        let (knows, frozen) = (Age::default(), Age::default());
        for age in [&knows, &frozen] {
            age.note_identity(Some("1.store"));
        }
        let compare = |age: &Age, number, changes: &[(u64, u64)]| {
            let asked = age.known_now();
            age.compare(asked, told(number, changes, asked))
        };
        assert!(compare(&frozen, 1, &[(1, 11)]).is_ok());
        assert!(compare(&knows, 3, &[(1, 11), (2, 12), (3, 13)]).is_ok());
        let older = [(1, 11)];
        assert!(compare(&frozen, 1, &older).is_ok(), "the frozen replica cannot know");
        assert!(frozen.claim(frozen.known_now(), told(1, &older, frozen.known_now())).is_none());
        let asked = knows.known_now();
        let claim = knows.claim(asked, told(1, &older, asked)).unwrap();
        let claimed = |age: &Age, number, changes: &[(u64, u64)]| {
            let found = changes.iter().find(|change| Some(change.1) == claim.mark.map(|mark| mark.token));
            AgeReport {
                claim: Some(claim),
                number_of_claimed: found.map(|change| change.0),
                ..told(number, changes, age.known_now())
            }
        };
        assert!(knows.claim(asked, claimed(&knows, 1, &older)).is_none(), "the claim exists already");
        let report = claimed(&frozen, 1, &older);
        let error = frozen.compare(frozen.known_now(), report).unwrap_err().to_string();
        assert!(error.contains("at least 2 changes are undone"), "{error}");
        // Other changes make the number catch up.
        let others = [(1, 11), (2, 22), (3, 23)];
        frozen.doubt();
        assert!(frozen.compare(frozen.known_now(), claimed(&frozen, 3, &others)).is_err());
        // The refusal ends when a new connection leads to the latest data, or an operator adopts the data as a new
        // store.
        frozen.doubt();
        let latest = claimed(&frozen, 3, &[(1, 11), (2, 12), (3, 13)]);
        assert!(frozen.compare(frozen.known_now(), latest).is_ok());
        frozen.note_identity(Some("2.adopted"));
        assert!(frozen.compare(frozen.known_now(), claimed(&frozen, 1, &older)).is_ok());
    }

    #[test]
    fn a_number_that_this_process_increments_was_one_less_before() {
        let age = Age::default();
        let count = |before, changes: &[(u64, u64)], token| {
            let asked = age.known_now();
            age.compare_counted(asked, told(before, changes, asked), token)
        };
        assert!(count(0, &[], 7).is_ok() && count(1, &[(1, 7)], 8).is_ok());
        let error = count(1, &[(1, 7)], 9).unwrap_err().to_string();
        assert!(error.contains("1 change is undone"), "{error}");
    }

    #[test]
    fn an_answer_over_an_earlier_connection_says_nothing_about_a_new_one() {
        let age = Age::default();
        let asked = age.known_now();
        let one = AgeReport { number: 1, ..AgeReport::default() };
        age.doubt();
        assert!(age.compare(asked, one).is_ok() && age.has_to_be_read());
        assert!(age.compare(age.known_now(), one).is_ok() && !age.has_to_be_read());
    }
}
