//! Uses of a client, and the accounts that have used it.

use std::time::Duration;

use super::account::Subject;
use super::client::{Client, ClientUsers};
use super::clock::UnixTime;
use super::clock_watch::TimeBounds;
use super::replaced_token::{StoreTime, UseTime};

/// One use of a client. It is stored in the same write as the grant or token that the use creates.
#[derive(Debug, Clone)]
pub struct ClientUse {
    /// The client that is used. A client that has a metadata document is stored at its first use.
    pub client: Client,
    /// The time of the use.
    pub at: UnixTime,
    /// The bounds of the correct time. They differ from `at` while the clock is not reliable.
    pub bounds: TimeBounds,
    /// Whether `at` is the real time of day, so that the store can use its own clock as well. Tests simulate the
    /// time.
    pub is_time_of_day: bool,
    /// Identifies the start of the machine from which `bounds.up` is measured, if it is known.
    pub boot: Option<u64>,
    /// The time at which the client can be deleted if it is not used again.
    pub keep_until: UnixTime,
    /// The user for whom the client is used.
    pub user: Subject,
    /// The maximum number of clients that are counted towards this account because it and few others have used
    /// them ([`Client::few_users`]). When there are more, the least recently used one is no longer counted towards
    /// it.
    pub sole_ceiling: usize,
}

impl ClientUse {
    /// Uses within this time after a stored use are not stored.
    pub const RESOLUTION: Duration = Duration::from_secs(3600);

    /// The time of the use on all clocks. `by_store` is the time on the clock of the store.
    pub fn time(&self, by_store: Option<StoreTime>) -> UseTime {
        let at = UnixTime(self.bounds.up.as_secs());
        UseTime { bounds: self.bounds, by_store, by_uptime: self.boot.map(|clock| StoreTime { clock, at }) }
    }

    /// Whether so much time has passed since the last recorded use of `client` that this use must be stored.
    pub fn is_news_to(&self, client: &Client) -> bool {
        client.last_used_at.is_none_or(|last| self.at.distance(last) >= Self::RESOLUTION)
    }

    /// How this use changes the recorded users of `client`. If the client was already in use before users were
    /// recorded, its users stay unknown.
    pub fn new_user_of(&self, client: &Client) -> NewUser {
        match client.users {
            None if client.last_used_at.is_some() => NewUser::No,
            None => NewUser::OneOfFew,
            Some(ClientUsers::Several) => NewUser::No,
            Some(ClientUsers::One(_)) if client.few_users().any(|user| *user == self.user) => NewUser::No,
            Some(ClientUsers::One(_)) if client.further_users.len() + 1 < Client::FEW_USERS => {
                NewUser::OneOfFew
            }
            Some(ClientUsers::One(_)) => NewUser::OneMoreThanFew,
        }
    }

    /// The new expiry of a row whose expiry was `before`, if this use extends its lifetime to `end`, which is one
    /// lifetime after [`Self::at`].
    ///
    /// A clock that is behind must not shorten anything, so an expiry never moves back. The exception is an expiry
    /// that is later than one lifetime after the latest possible time, because it was set while a clock was ahead.
    /// It is corrected only while the clock is steady.
    pub fn extend(&self, before: Option<UnixTime>, end: UnixTime) -> UnixTime {
        let latest = end.plus(self.bounds.latest.since(self.at));
        let extended = before.map_or(end, |before| before.max(end));
        if self.bounds.is_steady { extended.min(latest) } else { extended }
    }

    /// Adds the user of this use to the users of `client`.
    pub fn add_user_to(&self, client: &mut Client, new_user: NewUser) {
        match new_user {
            NewUser::No => {}
            NewUser::OneOfFew if client.users.is_none() => {
                client.users = Some(ClientUsers::One(self.user.clone()));
            }
            NewUser::OneOfFew => client.further_users.push(self.user.clone()),
            NewUser::OneMoreThanFew => {
                client.users = Some(ClientUsers::Several);
                client.further_users.clear();
            }
        }
    }
}

/// How a use changes the recorded users of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewUser {
    /// The recorded users stay the same: the user is one of them, or the users are no longer recorded.
    No,
    /// The user is added to the recorded users, because there are only a few.
    OneOfFew,
    /// There are too many users to record, so the client is not counted towards any of them.
    OneMoreThanFew,
}
