//! Limits how many rows of each kind one account can have in the store, and chooses the rows that are removed to
//! make room for a new one. The stores keep one list for each account and kind, and this module makes the
//! decisions. Only rows that can be used count. An entry leaves its list when its row is deleted or, in the case
//! of a code, redeemed. Expired entries are removed before any others.
//!
//! A list is in the order in which its rows were created or last used, and not sorted by time. Otherwise, a row
//! that was created while the clock was ahead would stay the newest, and later rows would be removed before it.
//!
//! Any client that a user has allowed once can cause rows to be created for that user. Therefore, there is a
//! ceiling for each client as well. If the account exceeds its own ceiling, the oldest row of the client with the
//! most rows is removed. A client therefore cannot displace the rows of a client that has fewer rows.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::domain::account::LoginSession;
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::opaque_token::TokenHash;

/// Kinds of rows whose number is limited for each account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// Authorization codes that have not been redeemed.
    Codes,
    /// Grants with a refresh token.
    Grants,
    /// Login sessions of the user.
    Sessions,
    /// Remembered consents, one for each client.
    Consents,
}

impl Holding {
    /// The name of the list in the stores.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Codes => "codes",
            Self::Grants => "grants",
            Self::Sessions => "sessions",
            Self::Consents => "consents",
        }
    }

    /// Maximum number of rows of one account.
    pub(super) const fn of_account(self) -> usize {
        match self {
            Self::Codes => 20,
            Self::Grants => 400,
            Self::Sessions => 50,
            Self::Consents => 200,
        }
    }

    /// Maximum number of rows of one account and client.
    pub(super) const fn of_client(self) -> usize {
        match self {
            Self::Codes => 10,
            Self::Grants => 100,
            Self::Sessions | Self::Consents => self.of_account(),
        }
    }
}

/// An entry of a list, which stands for one row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Held {
    /// The time at which the row was created or last used. It is used only when lists are built from imported
    /// rows.
    pub(super) at: UnixTime,
    /// The time at which the row expires.
    pub(super) until: UnixTime,
    /// A hash of the client (empty if the list does not distinguish clients) and the key with which the store
    /// finds the row, separated by [`SEPARATOR`].
    pub(super) name: String,
}

/// Separates the parts of a name. None of them contains it.
const SEPARATOR: char = ' ';

impl Held {
    fn new(at: UnixTime, until: UnixTime, client: Option<&ClientId>, row: &str) -> Self {
        // A list has a few hundred entries, so the first 96 bits of a hash are enough.
        let hash = client.map(|client| TokenHash::of(client.as_str().as_bytes()).text()).unwrap_or_default();
        let share = hash.get(..16).unwrap_or_default();
        Self { at, until, name: format!("{share}{SEPARATOR}{row}") }
    }

    pub(super) fn code(hash: &TokenHash, code: &AuthorizationCode, at: UnixTime) -> Self {
        let row = format!("{}{SEPARATOR}{}", code.grant_id, hash.text());
        Self::new(at, code.expires_at, Some(&code.client_id), &row)
    }

    pub(super) fn grant(grant: &Grant, at: UnixTime) -> Self {
        Self::new(at, grant.expires_at, Some(&grant.client_id), grant.id.as_str())
    }

    pub(super) fn session(session: &LoginSession) -> Self {
        Self::new(session.authenticated_at, session.expires_at, None, &session.id.text())
    }

    pub(super) fn consent(name: &str, at: UnixTime, until: UnixTime) -> Self {
        Self::new(at, until, None, name)
    }

    fn share(&self) -> &str {
        self.name.split(SEPARATOR).next().unwrap_or_default()
    }

    /// The part of the name with which the store finds the row.
    pub(super) fn row(&self) -> &str {
        self.name.split_once(SEPARATOR).map_or("", |(_, row)| row)
    }

    /// The identifier of the grant and the hash of the code, in an entry for a code.
    pub(super) fn code_parts(&self) -> Option<(&str, &str)> {
        self.row().split_once(SEPARATOR)
    }
}

/// Inserts the entry of an imported row into the list by its time, because other rows might have been used later.
/// A row whose time is in the future is inserted as the oldest.
pub(super) fn insert_imported(list: &mut Vec<Held>, held: Held, now: UnixTime) {
    let age = |held: &Held| if held.at > now { UnixTime(0) } else { held.at };
    list.push(held);
    list.sort_by_key(age);
}

/// Chooses the rows to remove from a list, so that the rest is within the ceilings. The row with the name `newest`
/// always stays. Rows that have expired at `now` are removed first, then the oldest ones of the client with the
/// most rows. While the list is within its ceilings, not even expired rows are removed, because the clock might be
/// ahead.
pub(super) fn leaving(holding: Holding, mut list: Vec<Held>, newest: &str, now: UnixTime) -> Vec<Held> {
    let mut leaving = Vec::new();
    loop {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for held in &list {
            *counts.entry(held.share()).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or_default();
        if list.len() <= holding.of_account() && most <= holding.of_client() {
            return leaving;
        }
        let first =
            |goes: &dyn Fn(&Held) -> bool| list.iter().position(|held| held.name != newest && goes(held));
        let goes = first(&|held| held.until <= now)
            .or_else(|| first(&|held| counts.get(held.share()) == Some(&most)));
        match goes {
            Some(place) => leaving.push(list.remove(place)),
            None => return leaving,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(at: u64, client: u8, row: &str) -> Held {
        let client = ClientId::try_from(format!("client{client}")).unwrap();
        Held::new(UnixTime(at), UnixTime(at + 1000), Some(&client), row)
    }

    #[test]
    fn a100_the_client_that_has_most_loses_its_oldest() {
        let mut list: Vec<_> = (0..9).map(|n| held(100 + n, 1, &format!("evil{n}"))).collect();
        list.extend((0..9).map(|n| held(200 + n, 2, &format!("other{n}"))));
        list.push(held(1, 3, "honest"));
        let newest = held(300, 1, "newest");
        list.push(newest.clone());
        assert_eq!(leaving(Holding::Codes, list.clone(), &newest.name, UnixTime(301)), []);
        list.push(held(250, 2, "more"));
        let goes = leaving(Holding::Codes, list, &newest.name, UnixTime(301));
        assert_eq!(goes.iter().map(Held::row).collect::<Vec<_>>(), ["evil0"]);
    }

    #[test]
    fn a_row_that_was_made_in_the_same_second_as_others_stays_as_the_newest() {
        let list: Vec<_> = (0..11).map(|n| held(1, 1, &format!("{n:02}"))).collect();
        let goes = leaving(Holding::Codes, list.clone(), &list[0].name, UnixTime(1));
        assert_eq!(goes, [list[1].clone()]);
    }

    #[test]
    fn a_row_that_was_made_while_the_clock_was_ahead_goes_before_later_ones() {
        let mut list: Vec<_> = (0..5).map(|n| held(1_000_000 + n, 1, &format!("ahead{n}"))).collect();
        list.extend((0..6).map(|n| held(100 + n, 1, &format!("right{n}"))));
        let goes = leaving(Holding::Codes, list.clone(), &list[10].name, UnixTime(106));
        assert_eq!(goes.iter().map(Held::row).collect::<Vec<_>>(), ["ahead0"]);
    }

    #[test]
    fn what_has_expired_goes_first_and_only_if_there_are_too_many() {
        let mut list: Vec<_> = (0..9).map(|n| held(5000 + n, 1, &format!("live{n}"))).collect();
        list.push(held(1, 2, "expired"));
        list.push(held(2, 2, "expired too"));
        let now = UnixTime(5010);
        assert_eq!(leaving(Holding::Codes, list.clone(), "", now), []);
        list.extend([held(5009, 1, "live9"), held(5010, 1, "newest")]);
        let goes = leaving(Holding::Codes, list.clone(), &list[12].name, now);
        assert_eq!(goes.iter().map(Held::row).collect::<Vec<_>>(), ["expired", "expired too", "live0"]);
    }

    #[test]
    fn imported_rows_are_in_the_order_of_their_times_and_those_of_the_future_are_the_oldest() {
        let mut list = Vec::new();
        for (at, name) in [(30, "c"), (900, "future"), (10, "a"), (20, "b")] {
            insert_imported(&mut list, held(at, 1, name), UnixTime(100));
        }
        assert_eq!(list.iter().map(Held::row).collect::<Vec<_>>(), ["future", "a", "b", "c"]);
    }

    proptest! {
        #[test]
        fn a100_a_list_is_within_its_ceilings_and_no_small_client_loses(
            clients in prop::collection::vec((0_u64..1000, 0_u8..5), 1..60)
        ) {
            let list: Vec<_> =
                clients.iter().enumerate().map(|(n, (at, client))| held(*at, *client, &n.to_string())).collect();
            let newest = list[0].clone();
            let goes = leaving(Holding::Codes, list.clone(), &newest.name, UnixTime(0));
            let place = |held: &Held| list.iter().position(|other| other == held);
            let stays: Vec<_> = list.iter().filter(|held| !goes.contains(held)).collect();
            prop_assert!(stays.contains(&&newest) && stays.len() <= 20);
            let count = |share: &str| stays.iter().filter(|held| held.share() == share).count();
            for gone in &goes {
                prop_assert!(count(gone.share()) <= 10);
                // A client that lost rows has at most one row fewer than any other client.
                prop_assert!(stays.iter().all(|held| count(held.share()) <= count(gone.share()) + 1));
                // The remaining rows of the same client are not older.
                prop_assert!(stays.iter().all(|held| held.share() != gone.share() || **held == newest || place(held) > place(gone)));
            }
        }
    }
}
