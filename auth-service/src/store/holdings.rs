//! What one account holds in the store: how many rows of a kind it can have, and which of them is removed for
//! a new one. The stores keep a list of each kind for each account, and this module decides. Only what can be
//! used counts: an entry leaves its list when its row is deleted or, if it is a code, redeemed, and at its
//! expiry.
//!
//! A user can be led to make rows by any client that the user has allowed once. Therefore a client has a
//! ceiling of its own, and beyond the ceiling of the account the client that has most rows loses its oldest.
//! A client cannot displace the rows of another client that has fewer.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::domain::account::LoginSession;
use crate::domain::client::ClientId;
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::opaque_token::TokenHash;

/// Kinds of rows of which one account has a limited number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// Authorization codes that were not redeemed.
    Codes,
    /// Grants with a refresh token.
    Grants,
    /// Login sessions.
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

/// An entry of a list. It stands for a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Held {
    /// The time at which the row was made or last used.
    pub(super) at: UnixTime,
    /// The time at which the row expires, and from which the entry does not count.
    pub(super) until: UnixTime,
    /// A hash of the client, which is empty if the list does not separate clients, and the key with which the
    /// store finds the row. [`SEPARATOR`] separates them.
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

/// Chooses the rows to remove from a list that contains the row with the name `newest`, which stays. The rest
/// is within the ceilings.
pub(super) fn leaving(holding: Holding, mut list: Vec<Held>, newest: &str) -> Vec<Held> {
    list.sort();
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
        let goes =
            list.iter().position(|held| counts.get(held.share()) == Some(&most) && held.name != newest);
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
        assert_eq!(leaving(Holding::Codes, list.clone(), &newest.name), []);
        list.push(held(250, 2, "more"));
        let goes = leaving(Holding::Codes, list, &newest.name);
        assert_eq!(goes.iter().map(Held::row).collect::<Vec<_>>(), ["evil0"]);
    }

    #[test]
    fn a_row_that_was_made_in_the_same_second_as_others_stays_as_the_newest() {
        let list: Vec<_> = (0..11).map(|n| held(1, 1, &format!("{n:02}"))).collect();
        let goes = leaving(Holding::Codes, list.clone(), &list[0].name);
        assert_eq!(goes, [list[1].clone()]);
    }

    proptest! {
        #[test]
        fn a100_a_list_is_within_its_ceilings_and_no_small_client_loses(
            clients in prop::collection::vec((0_u64..1000, 0_u8..5), 1..60)
        ) {
            let list: Vec<_> =
                clients.iter().enumerate().map(|(n, (at, client))| held(*at, *client, &n.to_string())).collect();
            let newest = list[0].clone();
            let goes = leaving(Holding::Codes, list.clone(), &newest.name);
            let stays: Vec<_> = list.iter().filter(|held| !goes.contains(held)).collect();
            prop_assert!(stays.contains(&&newest) && stays.len() <= 20);
            let count = |share: &str| stays.iter().filter(|held| held.share() == share).count();
            for gone in &goes {
                prop_assert!(count(gone.share()) <= 10);
                // A client that lost rows has at most one row less than any other client.
                prop_assert!(stays.iter().all(|held| count(held.share()) <= count(gone.share()) + 1));
                // What stays of the same client is not older.
                prop_assert!(stays.iter().all(|held| held.share() != gone.share() || **held == newest || *held > gone));
            }
        }
    }
}
