//! Clients: their registration under a ceiling, and the note of their use.

use crate::domain::client::{Client, ClientId, ClientOrigin, ClientUse};
use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::store::rules::{UseOfClient, is_kept_longer, is_same, judge_use};
use crate::store::{Registration, RegistrationTerms, StoreError};

use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;

/// The live client of that identifier.
pub(super) fn live(rows: &impl Rows, id: &ClientId, now: UnixTime) -> Result<Option<Client>, StoreError> {
    rows.get_live(Table::Clients, id.as_str(), now)
}

/// The client that `asked` is already, if it registered before and nothing about it needs a write.
pub(super) fn known_and_shared(
    rows: &impl Rows,
    asked: &Client,
    ids: &[ClientId],
    now: UnixTime,
) -> Result<Option<Client>, StoreError> {
    for id in ids {
        if let Some(known) = live(rows, id, now)?.filter(|known| is_same(known, asked)) {
            let as_it_is = known.management.is_none() && !is_kept_longer(&known, asked);
            return Ok(as_it_is.then_some(known));
        }
    }
    Ok(None)
}

pub(super) fn register(
    rows: &Writable<'_>,
    asked: &Client,
    ids: &[ClientId],
    terms: &RegistrationTerms,
) -> Result<Registration, StoreError> {
    for id in ids {
        if let Some(known) = live(rows, id, terms.now)?.filter(|known| is_same(known, asked)) {
            return share(rows, known, asked, terms).map(Registration::Known);
        }
    }
    for id in ids {
        if live(rows, id, terms.now)?.is_none() {
            return add(rows, asked, id, terms);
        }
    }
    Err(StoreError::Unavailable("every identifier that was proposed for a client is taken".to_owned()))
}

/// A client that two parties registered is managed by neither.
fn share(
    rows: &Writable<'_>,
    mut client: Client,
    asked: &Client,
    terms: &RegistrationTerms,
) -> Result<Client, StoreError> {
    let shared = client.management.take().is_some();
    if is_kept_longer(&client, asked) {
        rows.remove(Table::UnusedClients, &unused_key(&client))?;
        client.kept_until = asked.kept_until;
        put_unused(rows, &client, terms)?;
    } else if shared {
        rows.replace(Table::Clients, client.id.as_str(), &client)?;
    }
    Ok(client)
}

fn add(
    rows: &Writable<'_>,
    asked: &Client,
    id: &ClientId,
    terms: &RegistrationTerms,
) -> Result<Registration, StoreError> {
    // The row may still hold a client whose time is over.
    remove(rows, id)?;
    let too_many = (rows.count(Table::Clients)? + 1).saturating_sub(terms.ceiling);
    let too_many = too_many.max((rows.count(Table::UnusedClients)? + 1).saturating_sub(terms.unused_ceiling));
    let oldest = rows.first_few::<ClientId>(Table::UnusedClients, too_many)?;
    let makes_room = |(key, _): &(String, ClientId)| *key < unused_key_from(terms.now.0 + 1);
    if (oldest.len() as u64) < too_many || !oldest.iter().all(makes_room) {
        // Nobody goes for a newcomer that finds no room all the same.
        return Ok(Registration::Full);
    }
    for (key, oldest) in oldest {
        rows.remove(Table::UnusedClients, &key)?;
        rows.remove(Table::Clients, oldest.as_str())?;
    }
    let client = Client { id: id.clone(), ..asked.clone() };
    put_unused(rows, &client, terms)?;
    Ok(Registration::Added(client))
}

fn put_unused(rows: &Writable<'_>, client: &Client, terms: &RegistrationTerms) -> Result<(), StoreError> {
    rows.put(Table::Clients, client.id.as_str(), client, Some(terms.unused_until))?;
    rows.put(Table::UnusedClients, &unused_key(client), &client.id, Some(terms.unused_until))
}

/// Enters a client that neither ends nor makes room; whether its identifier was free.
pub(super) fn enter(rows: &Writable<'_>, client: &Client, now: UnixTime) -> Result<bool, StoreError> {
    if live(rows, &client.id, now)?.is_some() {
        return Ok(false);
    }
    remove(rows, &client.id)?;
    rows.put(Table::Clients, client.id.as_str(), client, None)?;
    Ok(true)
}

/// Sorts by the second from which the client may have to make room.
pub(super) fn unused_key(client: &Client) -> String {
    format!("{}/{}", unused_key_from(client.makes_room_from().0), client.id)
}

fn unused_key_from(second: u64) -> String {
    format!("{second:020}")
}

/// Removes a client; whether there was one.
pub(super) fn remove(rows: &Writable<'_>, id: &ClientId) -> Result<bool, StoreError> {
    let Some(client) = rows.get::<Client>(Table::Clients, id.as_str())? else {
        return Ok(false);
    };
    rows.remove(Table::UnusedClients, &unused_key(&client))?;
    rows.remove(Table::Clients, id.as_str())?;
    Ok(true)
}

/// Removes a client whose registration access token that is; whether it was.
pub(super) fn remove_managed_by(
    rows: &Writable<'_>,
    management: &TokenHash,
    id: &ClientId,
) -> Result<bool, StoreError> {
    let client = rows.get::<Client>(Table::Clients, id.as_str())?;
    if client.is_none_or(|client| client.management != Some(*management)) {
        return Ok(false);
    }
    remove(rows, id)
}

/// Changes a live client, if it is there; whether it was.
pub(super) fn change(
    rows: &Writable<'_>,
    id: &ClientId,
    change: impl FnOnce(&mut Client) -> bool,
) -> Result<bool, StoreError> {
    let Some(mut client) = rows.get::<Client>(Table::Clients, id.as_str())? else {
        return Ok(false);
    };
    let changed = change(&mut client);
    if changed {
        rows.replace(Table::Clients, id.as_str(), &client)?;
    }
    Ok(changed)
}

/// Notes a use. Gives the client as it is now: none when it was removed, or changed hands, since the caller saw it.
pub(super) fn note_use(rows: &Writable<'_>, used: &ClientUse) -> Result<Option<Client>, StoreError> {
    match judge_use(live(rows, &used.client.id, used.at)?, used) {
        UseOfClient::Refused => Ok(None),
        UseOfClient::Noted(client) => Ok(Some(client)),
        UseOfClient::News(client) => {
            rows.remove(Table::UnusedClients, &unused_key(&client))?;
            let end = Some(used.keep_until).filter(|_| client.origin != ClientOrigin::Operator);
            rows.put(Table::Clients, client.id.as_str(), &client, end)?;
            Ok(Some(client))
        }
    }
}
