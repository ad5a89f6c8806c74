//! What Redis reports about the age of its data, and whether the data is older than what a process has seen.

use std::time::Instant;

use super::heartbeats::{Heartbeat, HeartbeatReport};
use super::store_name::StoreName;

/// What this process knew when it requested the number from Redis. Other responses can arrive, and new connections
/// can be made, before the response to this request arrives.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownBefore {
    /// The highest number that was seen.
    pub(super) seen: u64,
    /// The latest change whose token was seen.
    pub(super) mark: Option<Mark>,
    /// The latest heartbeat of this process that a failover cannot have lost.
    pub(super) heartbeat: Option<Heartbeat>,
    /// The number of connections made so far.
    pub(super) connection: u64,
    /// The number of times that a store with a different identity was found.
    pub(super) store: u64,
    /// The time of the request.
    pub(super) at: Instant,
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
    /// The latest heartbeat of this process that must exist.
    pub(super) heartbeat: Option<Heartbeat>,
    /// The store to which the claim applies.
    pub(super) store: StoreName,
}

impl Claim {
    /// Whether `other` adds nothing to this claim.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let number = |claim: &Self| claim.mark.map(|mark| mark.number);
        let heartbeat = |claim: &Self| claim.heartbeat.map(|heartbeat| heartbeat.number);
        self.store.is_later_than(other.store)
            || self.store == other.store
                && self.seen >= other.seen
                && number(self) >= number(other)
                && heartbeat(self) >= heartbeat(other)
    }
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
    /// The heartbeats of this process and of the process that left the claim.
    pub(super) heartbeats: HeartbeatReport,
}

impl AgeReport {
    /// Whether Redis has older data than this process knew when it asked.
    pub(super) fn is_older_than(&self, asked: KnownBefore) -> bool {
        self.undoes_changes_of(asked) || self.heartbeats.lacks(asked.heartbeat, self.heartbeats.own)
    }

    /// Whether any of the counted changes that this process knew when it asked is missing. Even if none is missing,
    /// the data can still be older.
    pub(super) fn undoes_changes_of(&self, asked: KnownBefore) -> bool {
        self.number < asked.seen || self.lacks(asked.mark, self.number_of_asked)
    }

    /// Whether `mark` is missing from the history although it should be there, which means that the data belongs
    /// to another history. `number_of_token` is the number of the token of `mark` in the history.
    fn lacks(&self, mark: Option<Mark>, number_of_token: Option<u64>) -> bool {
        let Some(mark) = mark else { return false };
        let may_have_left = self.earliest.is_some_and(|earliest| earliest > mark.number);
        number_of_token != Some(mark.number) && !may_have_left
    }

    /// The claim of another process, if that process has seen more than this data contains. A claim about a store
    /// that `store` has replaced does not apply, and a claim about a later store always applies.
    pub(super) fn unmet_claim(&self, store: Option<StoreName>) -> Option<Claim> {
        self.claim.filter(|claim| match store {
            Some(store) if claim.store != store => claim.store.is_later_than(store),
            _ => {
                self.undoes_changes_in(claim)
                    || self.heartbeats.lacks(claim.heartbeat, self.heartbeats.of_claim)
            }
        })
    }

    /// Whether any of the changes that the process that left the claim had seen is missing.
    pub(super) fn undoes_changes_in(&self, claim: &Claim) -> bool {
        self.number < claim.seen || self.lacks(claim.mark, self.number_of_claimed)
    }

    /// Whether a claim states that the data of the store with this identity is older than before.
    pub(super) fn is_disputed(&self, identity: &str) -> bool {
        self.unmet_claim(Some(StoreName::of(identity))).is_some()
    }
}
