//! Limits the number of clients that count towards an account's limit because it and few others have used them.
//! When there are more, the account's least recently used client is no longer counted towards it. A client that is
//! not counted towards any account is deleted, unless the operator has disabled it.

use serde::{Deserialize, Serialize};

use crate::domain::account::Subject;
use crate::domain::client::{Client, ClientId};
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;

/// The clients that this account and few others have used.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub(super) struct SoleClients {
    /// Sorted by the last use by this account. A client that has since been deleted, or used by many accounts,
    /// stays in the list until it is the oldest entry.
    clients: Vec<(UnixTime, ClientId)>,
    /// The number of clients that are no longer counted towards any account because a use by this account exceeded
    /// their maximum number of users ([`Client::FEW_USERS`]). Without a limit, accounts that work together could
    /// fill the store with clients that are not counted towards any of them.
    freed: usize,
}

/// The two forms in which the list is stored. The older one does not contain `freed`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    List(Vec<(UnixTime, ClientId)>),
    Whole { clients: Vec<(UnixTime, ClientId)>, freed: usize },
}

impl From<Stored> for SoleClients {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::List(clients) => Self { clients, freed: 0 },
            Stored::Whole { clients, freed } => Self { clients, freed },
        }
    }
}

impl SoleClients {
    /// Records that a client is no longer counted towards any account because this account has used it. Returns
    /// false if there are already too many of these clients. The number is deleted together with the list, which
    /// is kept as long as the clients that the account has used.
    pub(super) fn free(&mut self, used: &ClientUse) -> bool {
        let can = self.freed < used.sole_ceiling;
        self.freed += usize::from(can);
        can
    }

    /// Records a use of `client`. Returns the clients that are no longer counted towards the account, the least
    /// recently used one first.
    pub(super) fn note(&mut self, client: &ClientId, used: &ClientUse) -> Vec<MakesRoom> {
        self.note_at(client, used.at, used.sole_ceiling)
    }

    fn note_at(&mut self, client: &ClientId, at: UnixTime, ceiling: usize) -> Vec<MakesRoom> {
        // The client that has just been used comes last, even if the clock is behind, or was ahead when another
        // client was used. Otherwise, this use could remove the client itself from the list.
        let latest = self.clients.last().map_or(at, |(last, _)| at.max(*last));
        self.add(client, latest);
        let too_many = self.clients.len().saturating_sub(ceiling);
        let far_too_many = self.clients.len().saturating_sub(ceiling.saturating_mul(2));
        let leaving = self.clients.drain(..too_many).map(|(_, id)| id).enumerate();
        leaving.map(|(place, id)| MakesRoom { id, may_stay: place >= far_too_many }).collect()
    }

    /// Inserts a client at the position of its last use.
    pub(super) fn add(&mut self, client: &ClientId, used_at: UnixTime) {
        self.clients.retain(|(_, id)| id != client);
        let place = self.clients.partition_point(|(at, _)| *at <= used_at);
        self.clients.insert(place, (used_at, client.clone()));
    }
}

/// A client that is no longer counted towards an account because of another client.
pub(super) struct MakesRoom {
    pub(super) id: ClientId,
    may_stay: bool,
}

impl MakesRoom {
    /// Whether the client is still counted for the time being, because it has just been registered, possibly by a
    /// second user who is about to log in. At most as many clients as the ceiling can stay in this way, in
    /// addition to those within the ceiling.
    pub(super) fn stays(&self, client: &Client, now: UnixTime) -> bool {
        self.may_stay && client.kept_until.is_some_and(|until| until > now)
    }
}

/// The accounts towards whose limits the client is counted. A client that is never deleted for another one
/// ([`Client::stays`]) is not counted towards any account.
pub(super) fn counted_for(client: &Client) -> impl Iterator<Item = &Subject> {
    let counts = !client.stays();
    client.few_users().filter(move |_| counts)
}

/// Whether the client is counted towards the limit of this account.
pub(super) fn counts_for(client: &Client, account: &Subject) -> bool {
    counted_for(client).any(|user| user == account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_makes_no_room_for_its_own_use_although_the_clock_was_ahead() {
        let mut clients = SoleClients::default();
        for name in ["a", "b"] {
            clients.add(&ClientId::try_from(name.to_owned()).unwrap(), UnixTime(9_000));
        }
        let leaving = clients.note_at(&ClientId::try_from("c".to_owned()).unwrap(), UnixTime(1_000), 2);
        assert_eq!(leaving.iter().map(|leaving| leaving.id.as_str()).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn the_client_that_was_used_longest_ago_makes_room() {
        let id = |name: &str| ClientId::try_from(name.to_owned()).unwrap();
        let mut clients = SoleClients::default();
        for (name, at) in [("b", 2), ("a", 1), ("c", 3), ("a", 4)] {
            clients.add(&id(name), UnixTime(at));
        }
        let order: Vec<_> = clients.clients.iter().map(|(_, id)| id.as_str()).collect();
        assert_eq!(order, ["b", "c", "a"]);
    }
}
