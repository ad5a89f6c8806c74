//! What a process remembers about the age of the data in Redis, and about other stores that it has found there.

use std::time::{Duration, Instant};

use super::super::age_report::{KnownBefore, Mark};
use super::super::heartbeats::OwnHeartbeats;
use super::super::store_name::StoreName;

/// The message for operators if Redis has an earlier store.
const EARLIER: &str = "Redis has a different store than before, which was created earlier: data from before a restore or an \
                       adoption has returned, or REDIS_URL leads to another Redis. Restore the latest data, or correct the \
                       address. To keep this data instead, stop every replica, run `auth-service store adopt`, repeat \
                       what was revoked, disabled or removed since then (docs/state.md), and start the service";

/// The message for operators if Redis has a store that is independent of the one that was used.
const INDEPENDENT: &str = "Redis has a different store than before, which was already there while this replica used its own one: \
                           REDIS_URL leads to another Redis. Correct the address. If the store has moved there, restart this \
                           replica; otherwise, it uses that store after ten minutes";

/// What this process remembers about the data in Redis.
#[derive(Default)]
pub(super) struct Known {
    /// The highest number that was seen.
    pub(super) seen: u64,
    /// The latest change whose token was seen.
    pub(super) mark: Option<Mark>,
    pub(super) heartbeats: OwnHeartbeats,
    /// The identity of the store whose number this is.
    pub(super) identity: Option<String>,
    /// The latest time at which this process is known to have used this store, in microseconds by the clock of Redis.
    pub(super) used_at: Option<u64>,
    /// The number of times that a store with a different identity was found.
    pub(super) stores: u64,
    /// The number of connections made so far. A new connection might lead to a Redis with older data.
    pub(super) connections: u64,
    /// The value of `connections` for which the number was compared.
    pub(super) compared: u64,
    /// Set while Redis has older data.
    pub(super) older: Option<Older>,
    /// Set while the store has no identity, although it had one before.
    pub(super) is_lost: bool,
    pub(super) other: Other,
    /// The independent store that was found most recently, and the time at which it was first found.
    pub(super) independent: Option<(StoreName, Instant)>,
    /// The last time at which Redis had a store other than the one that this process uses.
    pub(super) was_elsewhere: Option<Instant>,
    /// The last time at which this process began to use another store.
    pub(super) has_changed: Option<Instant>,
    /// Whether this process has made a change that could not be counted.
    pub(super) owes: bool,
    /// Whether this process is replacing the store, so that the store's identity is removed and a new one is
    /// written.
    pub(super) replaces: bool,
}

/// The evidence that Redis has a store other than the one that this process uses.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Other {
    /// The kind of the other store, if the identity in Redis is not that of this process's store.
    pub(super) by_identity: Option<OtherStore>,
    /// The claim of another process names a later store.
    pub(super) by_claim: bool,
}

/// A store that this process does not use, although Redis has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum OtherStore {
    /// It was created earlier than the store that this process uses.
    Earlier,
    /// It was created later, but exists alongside the store that this process uses.
    Independent,
}

impl OtherStore {
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Earlier => EARLIER,
            Self::Independent => INDEPENDENT,
        }
    }
}

/// Data that is older than before.
#[derive(Clone, Copy)]
pub(super) struct Older {
    /// The value of `connections` when this was noticed.
    pub(super) connection: u64,
    /// The number of lost changes. It is 0 if no lost change took access away.
    pub(super) lost: u64,
}

impl Known {
    /// The kind of the store in Redis, if this process does not use that store.
    pub(super) fn other(&self) -> Option<OtherStore> {
        self.other.by_identity.or(self.other.by_claim.then_some(OtherStore::Earlier))
    }

    /// Updates the evidence that Redis has another store. Logs a message if this changes the conclusion.
    pub(super) fn note_other(&mut self, change: impl FnOnce(&mut Other)) {
        let before = self.other();
        change(&mut self.other);
        let now = self.other();
        if now.is_some() {
            self.was_elsewhere = Some(Instant::now());
        }
        match now {
            Some(other) if before != now => {
                tracing::error!("{}. Everything is refused until then", other.reason());
            }
            None if before.is_some() => {
                tracing::info!("Redis contains the previous store again, or a later one");
            }
            _ => {}
        }
    }

    /// Whether the data in Redis must be compared before it can be used.
    pub(super) fn has_to_be_read(&self) -> bool {
        self.compared < self.connections || self.older.is_some() || self.is_lost || self.other().is_some()
    }

    /// Whether the later store `found` exists alongside the one that this process uses, and has not replaced it. After
    /// `HeartbeatPace::follow`, the later store is used anyway, because the store might have moved there.
    pub(super) fn is_independent(&mut self, found: StoreName, now: Instant) -> bool {
        let pace = self.heartbeats.pace();
        let begun = Duration::from_micros(found.begun).saturating_add(pace.margin);
        if self.used_at.is_none_or(|used| Duration::from_micros(used) <= begun) {
            return false;
        }
        let (_, since) = self.independent.filter(|(before, _)| *before == found).unwrap_or((found, now));
        self.independent = Some((found, since));
        now.saturating_duration_since(since) < pace.follow
    }

    pub(super) fn known_at(&self, at: Instant) -> KnownBefore {
        KnownBefore {
            seen: self.seen,
            mark: self.mark,
            heartbeat: self.heartbeats.settled(),
            connection: self.connections,
            store: self.stores,
            at,
        }
    }

    /// Begins to use another store, and forgets what was known about the previous one.
    pub(super) fn replace_with(&mut self, found: &str) {
        (self.seen, self.mark, self.older) = (0, None, None);
        (self.used_at, self.independent) = (None, None);
        self.heartbeats.forget();
        self.stores += 1;
        self.has_changed = Some(Instant::now());
        self.identity = Some(found.to_owned());
    }
}
