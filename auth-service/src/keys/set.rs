//! The life cycle of signing keys, as pure functions: a key is published, signs, is retired, and is removed
//! (`docs/adr/0007-signing-keys.md`).
//!
//! The state of a key follows from the clock and two times that are stored with it. Therefore a single write
//! starts a whole rotation, every replica makes each transition on its own at the right time, and a replica that
//! stops leaves nothing unfinished.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::clock::UnixTime;

use super::algorithm::SigningAlgorithm;
use super::seal::CryptoFailure;
use super::stored::StoredSigningKey;

/// Maximum lifetime of any token of this server, regardless of the settings (RFC 9068 §4 leaves the choice to the
/// server).
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(86_400);
/// How long a retired key is kept after its last token has expired, because the clocks of replicas can
/// differ.
const MARGIN: Duration = Duration::from_secs(300);

/// How signing keys are created and replaced.
#[derive(Debug, Clone, Copy)]
pub struct RotationTerms {
    /// The algorithm of new signing keys.
    pub algorithm: SigningAlgorithm,
    /// How long a key signs before the next one takes over. Without a period, only operators start rotations.
    pub period: Option<Duration>,
    /// How long a new key is published before it signs.
    pub lead: Duration,
}

/// The state of a signing key at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// The key is published so that verifiers can fetch it in time, but it does not sign yet.
    Next,
    /// The key signs new tokens.
    Current,
    /// The key only verifies tokens that it has signed.
    Retired,
}

/// All signing keys of a deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeySet {
    /// Increases with every change. A replica replaces only the revision that it has read.
    revision: u64,
    /// Sorted by the time at which they begin to sign.
    keys: Vec<StoredSigningKey>,
}

/// Why a set was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unchanged {
    /// Another rotation is in progress, and there can be only one at a time.
    #[error("a rotation is under way: {kid} signs from {} on", .from.readable())]
    UnderWay {
        /// Identifier of the key that will sign next.
        kid: String,
        /// Time from which that key signs.
        from: UnixTime,
    },
    /// The set has no key with this identifier.
    #[error("there is no signing key {0}; `auth-service keys list` shows them all")]
    NoSuchKey(String),
    /// A new key could not be created.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

impl KeySet {
    /// Creates the set for a first start, or for a store that has lost its set. It contains one key, which signs
    /// immediately.
    ///
    /// The first revision is the current time. If it were 1, a process that has read the lost set could mistake
    /// the new set for the lost one, and replace it with a set that contains a revoked key.
    pub fn first(terms: &RotationTerms, now: UnixTime) -> Result<Self, CryptoFailure> {
        Ok(Self {
            revision: now.0.max(1),
            keys: vec![StoredSigningKey::generate(terms.algorithm, now, now)?],
        })
    }

    /// Creates the set for a store that has lost its set. `revision` is the last known revision of the lost set.
    pub fn after(revision: u64, terms: &RotationTerms, now: UnixTime) -> Result<Self, CryptoFailure> {
        let first = Self::first(terms, now)?;
        Ok(Self { revision: first.revision.max(revision.saturating_add(1)), ..first })
    }

    /// The number of this revision of the set, which increases with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether both sets have the same keys with the same times. Equal revisions are not enough, because numbering
    /// restarts from the beginning after the store has been emptied.
    pub fn is_same(&self, other: &Self) -> bool {
        let told = |key: &StoredSigningKey| (key.kid.clone(), key.signs_from, key.signs_until);
        self.revision == other.revision && self.keys.iter().map(told).eq(other.keys.iter().map(told))
    }

    /// The keys, sorted by the time at which they begin to sign.
    pub fn keys(&self) -> &[StoredSigningKey] {
        &self.keys
    }

    /// The key that signs at `now`.
    pub fn current(&self, now: UnixTime) -> Option<&StoredSigningKey> {
        let signs = |key: &&StoredSigningKey| state(key, now) == KeyState::Current;
        // Right after a revocation, the start time of the new key is still in the future if this clock is a second
        // behind.
        self.keys.iter().rfind(signs).or_else(|| self.next(now))
    }

    fn next(&self, now: UnixTime) -> Option<&StoredSigningKey> {
        self.keys.iter().find(|key| state(key, now) == KeyState::Next)
    }

    /// The set as it should be at `now`, or `None` if it already is. A key is added when a rotation is due or the
    /// algorithm has been changed, and a key is removed when all of its tokens have expired.
    pub fn settled(&self, terms: &RotationTerms, now: UnixTime) -> Result<Option<Self>, CryptoFailure> {
        let mut keys = self.keys.clone();
        let mut changed = repair(&mut keys, now);
        keys.retain(|key| gone_at(key).is_none_or(|gone| now < gone));
        changed |= keys.len() != self.keys.len();
        let mut settled = Self { revision: self.revision, keys };
        let is_quiet = settled.next(now).is_none();
        match settled.current(now).filter(|_| is_quiet).cloned() {
            Some(current) => {
                if let Some(at) = due(&current, terms, now) {
                    hand_over(&mut settled.keys, &current.kid, at, terms, now)?;
                    changed = true;
                }
            }
            None if settled.keys.is_empty() => {
                settled.keys.push(StoredSigningKey::generate(terms.algorithm, now, now)?);
                changed = true;
            }
            None => {}
        }
        Ok(changed.then(|| self.followed_by(settled.keys)))
    }

    /// Starts a rotation. The new key is published now, and signs after verifiers have had time to fetch it.
    pub fn rotated(&self, terms: &RotationTerms, now: UnixTime) -> Result<Self, Unchanged> {
        if let Some(next) = self.next(now) {
            return Err(Unchanged::UnderWay { kid: next.kid.clone(), from: next.signs_from });
        }
        let mut keys = self.keys.clone();
        let current = self.current(now).map(|key| key.kid.clone()).unwrap_or_default();
        hand_over(&mut keys, &current, now.plus(terms.lead), terms, now)?;
        Ok(self.followed_by(keys))
    }

    /// Removes a key immediately, which invalidates everything that it has signed. If it was the current key,
    /// another key signs from now on.
    pub fn without(&self, kid: &str, terms: &RotationTerms, now: UnixTime) -> Result<Self, Unchanged> {
        let revoked = self
            .keys
            .iter()
            .find(|key| key.kid == kid)
            .ok_or_else(|| Unchanged::NoSuchKey(kid.to_owned()))?;
        let mut keys: Vec<_> = self.keys.iter().filter(|key| key.kid != kid).cloned().collect();
        match state(revoked, now) {
            KeyState::Retired => {}
            // The rotation is cancelled, and the current key keeps signing.
            KeyState::Next => {
                if let Some(current) = keys.iter_mut().rfind(|key| state(key, now) == KeyState::Current) {
                    current.signs_until = None;
                }
            }
            KeyState::Current => match keys.iter_mut().find(|key| state(key, now) == KeyState::Next) {
                Some(next) => next.signs_from = now,
                None => keys.push(StoredSigningKey::generate(terms.algorithm, now, now)?),
            },
        }
        Ok(self.followed_by(keys))
    }

    fn followed_by(&self, keys: Vec<StoredSigningKey>) -> Self {
        Self { revision: self.revision.saturating_add(1), keys }
    }
}

/// The state of `key` at `now`.
pub fn state(key: &StoredSigningKey, now: UnixTime) -> KeyState {
    if key.signs_until.is_some_and(|until| until <= now) {
        KeyState::Retired
    } else if key.signs_from > now {
        KeyState::Next
    } else {
        KeyState::Current
    }
}

/// The time from which nothing signed with `key` can still be valid. It is `None` while the key has no successor.
pub fn gone_at(key: &StoredSigningKey) -> Option<UnixTime> {
    key.signs_until.map(|until| until.plus(MAX_TOKEN_LIFETIME).plus(MARGIN))
}

/// Undoes changes that were made while a clock was ahead. Keys whose creation time is in the future are
/// removed, and the keys before them keep signing. If no other key is left, the newest one signs from now on.
/// Returns whether anything was undone.
fn repair(keys: &mut Vec<StoredSigningKey>, now: UnixTime) -> bool {
    let is_of_the_future = |key: &StoredSigningKey| key.created_at > now.plus(MARGIN);
    if !keys.iter().any(is_of_the_future) {
        return false;
    }
    let mut newest = keys.pop();
    keys.retain(|key| !is_of_the_future(key));
    if keys.is_empty() {
        if let Some(key) = &mut newest {
            (key.created_at, key.signs_from) = (now, now);
        }
        keys.extend(newest);
    } else {
        keys.extend(newest.filter(|key| !is_of_the_future(key)));
    }
    if let Some(last) = keys.last_mut() {
        last.signs_until = None;
    }
    true
}

/// The time at which the successor of `current` takes over, if that successor must already be published at `now`.
fn due(current: &StoredSigningKey, terms: &RotationTerms, now: UnixTime) -> Option<UnixTime> {
    let earliest = now.plus(terms.lead);
    if current.algorithm != terms.algorithm {
        return Some(earliest);
    }
    let planned = current.signs_from.plus(terms.period?);
    (planned <= earliest).then_some(earliest)
}

/// Adds a key that signs from `at`, when the key with the identifier `current` stops signing.
fn hand_over(
    keys: &mut Vec<StoredSigningKey>,
    current: &str,
    at: UnixTime,
    terms: &RotationTerms,
    now: UnixTime,
) -> Result<(), CryptoFailure> {
    let successor = StoredSigningKey::generate(terms.algorithm, now, at)?;
    if let Some(current) = keys.iter_mut().find(|key| key.kid == current) {
        current.signs_until = Some(at);
    }
    keys.push(successor);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400;
    const LEAD: u64 = 600;

    fn terms() -> RotationTerms {
        RotationTerms {
            algorithm: SigningAlgorithm::EdDsa,
            period: Some(Duration::from_secs(90 * DAY)),
            lead: Duration::from_secs(LEAD),
        }
    }

    fn states(set: &KeySet, now: u64) -> Vec<KeyState> {
        set.keys().iter().map(|key| state(key, UnixTime(now))).collect()
    }

    fn current(set: &KeySet, now: u64) -> &str {
        &set.current(UnixTime(now)).unwrap().kid
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_kept_until_its_last_token_has_ended() {
        use KeyState::{Current, Next, Retired};
        let set = KeySet::first(&terms(), UnixTime(0)).unwrap();
        let due = 90 * DAY - LEAD;
        assert!(set.settled(&terms(), UnixTime(due - 1)).unwrap().is_none());
        let rotating = set.settled(&terms(), UnixTime(due)).unwrap().unwrap();
        assert_eq!(states(&rotating, due), [Current, Next]);
        assert_eq!(states(&rotating, due + LEAD - 1), [Current, Next]);
        assert_eq!(states(&rotating, due + LEAD), [Retired, Current]);
        assert_eq!(current(&rotating, due), set.keys()[0].kid);
        assert_eq!(current(&rotating, due + LEAD), rotating.keys()[1].kid);
        let gone = due + LEAD + DAY + 300;
        assert!(rotating.settled(&terms(), UnixTime(gone - 1)).unwrap().is_none());
        let alone = rotating.settled(&terms(), UnixTime(gone)).unwrap().unwrap();
        assert_eq!(states(&alone, gone), [Current]);
        assert_eq!(alone.keys()[0].kid, rotating.keys()[1].kid);
    }

    #[test]
    fn what_a_clock_did_that_was_ahead_is_undone_when_it_is_right() {
        let first = KeySet::first(&terms(), UnixTime(DAY)).unwrap();
        let (right, wrong) = (UnixTime(2 * DAY), UnixTime(202 * DAY));
        let scheduled = first.settled(&terms(), wrong).unwrap().unwrap();
        assert_eq!(scheduled.keys().len(), 2, "the clock is ahead, so a rotation is due");
        let repaired = scheduled.settled(&terms(), right).unwrap().unwrap();
        assert_eq!(repaired.keys().len(), 1);
        assert_eq!(repaired.keys()[0].kid, first.keys()[0].kid);
        assert_eq!(repaired.keys()[0].signs_until, None);
        assert!(repaired.revision() > scheduled.revision(), "other replicas adopt it");
        assert!(repaired.settled(&terms(), right).unwrap().is_none());

        let made_ahead = KeySet::first(&terms(), wrong).unwrap();
        let repaired = made_ahead.settled(&terms(), right).unwrap().unwrap();
        assert_eq!(current(&repaired, 2 * DAY), made_ahead.keys()[0].kid, "its tokens are still valid");
        assert_eq!(states(&repaired, 2 * DAY), [KeyState::Current]);
        assert!(repaired.rotated(&terms(), right).is_ok(), "no rotation is under way");
    }

    #[test]
    fn one_rotation_at_a_time() {
        let set = KeySet::first(&terms(), UnixTime(0)).unwrap().rotated(&terms(), UnixTime(5)).unwrap();
        let again = set.rotated(&terms(), UnixTime(5 + LEAD - 1)).unwrap_err();
        assert_eq!(again, Unchanged::UnderWay { kid: set.keys()[1].kid.clone(), from: UnixTime(5 + LEAD) });
        assert_eq!(set.rotated(&terms(), UnixTime(5 + LEAD)).unwrap().keys().len(), 3);
    }

    #[test]
    fn another_algorithm_is_a_rotation_too() {
        let set = KeySet::first(&terms(), UnixTime(0)).unwrap();
        let wanted = RotationTerms { algorithm: SigningAlgorithm::Es256, ..terms() };
        let rotating = set.settled(&wanted, UnixTime(1)).unwrap().unwrap();
        assert_eq!(rotating.current(UnixTime(1)).unwrap().algorithm, SigningAlgorithm::EdDsa);
        assert_eq!(rotating.current(UnixTime(1 + LEAD)).unwrap().algorithm, SigningAlgorithm::Es256);
        assert!(rotating.settled(&wanted, UnixTime(2)).unwrap().is_none());
    }

    #[test]
    fn a_revoked_key_is_gone_and_another_signs_at_once() {
        let first = KeySet::first(&terms(), UnixTime(0)).unwrap();
        let [only] = first.keys() else { panic!() };
        let replaced = first.without(&only.kid, &terms(), UnixTime(9)).unwrap();
        assert_eq!(states(&replaced, 9), [KeyState::Current]);
        assert_ne!(replaced.keys()[0].kid, only.kid);
        // A replica whose clock is a second behind uses the new key as well.
        assert_eq!(current(&replaced, 8), replaced.keys()[0].kid);

        let rotating = first.rotated(&terms(), UnixTime(9)).unwrap();
        let early = rotating.without(&only.kid, &terms(), UnixTime(10)).unwrap();
        assert_eq!(current(&early, 10), rotating.keys()[1].kid);
        let off = rotating.without(&rotating.keys()[1].kid, &terms(), UnixTime(10)).unwrap();
        assert_eq!(states(&off, 10 + 2 * LEAD), [KeyState::Current]);
        assert!(matches!(first.without("?", &terms(), UnixTime(0)), Err(Unchanged::NoSuchKey(_))));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Settle,
        Rotate,
        Revoke(usize),
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn at_any_time_one_key_signs_it_was_published_in_time_and_its_tokens_verify(
            steps in prop::collection::vec(prop_oneof![
                3 => prop_oneof![1..LEAD, 1..(40 * DAY)].prop_map(Step::Wait),
                3 => Just(Step::Settle),
                1 => Just(Step::Rotate),
                1 => (0..4_usize).prop_map(Step::Revoke),
            ], 1..40)
        ) {
            let mut now = 1_000;
            let mut set = KeySet::first(&terms(), UnixTime(now)).unwrap();
            // The identifier of each key that was used, with the time of use.
            let mut signed: Vec<(String, u64)> = Vec::new();
            let mut revoked: Vec<String> = Vec::new();
            let mut emergency = false;
            for step in steps {
                let before = current(&set, now).to_owned();
                match step {
                    Step::Wait(seconds) => now += seconds,
                    Step::Settle => if let Some(next) = set.settled(&terms(), UnixTime(now)).unwrap() { set = next },
                    Step::Rotate => if let Ok(next) = set.rotated(&terms(), UnixTime(now)) { set = next },
                    Step::Revoke(n) => {
                        let kid = set.keys()[n % set.keys().len()].kid.clone();
                        set = set.without(&kid, &terms(), UnixTime(now)).unwrap();
                        emergency = kid == before;
                        revoked.push(kid);
                    }
                }
                let key = set.current(UnixTime(now)).unwrap();
                prop_assert!(!revoked.contains(&key.kid));
                prop_assert_eq!(states(&set, now).iter().filter(|s| **s == KeyState::Current).count(), 1);
                if key.kid != before {
                    prop_assert!(emergency || now >= key.created_at.0 + LEAD, "the key is used too early");
                    emergency = false;
                }
                signed.push((key.kid.clone(), now));
                for (kid, at) in &signed {
                    let lives = now < at + MAX_TOKEN_LIFETIME.as_secs() && !revoked.contains(kid);
                    prop_assert!(!lives || set.keys().iter().any(|key| key.kid == *kid), "a key was removed too early");
                }
            }
        }
    }
}
