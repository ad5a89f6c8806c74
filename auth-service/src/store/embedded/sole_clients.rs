//! The list of clients that only one account has used, for each account.

use crate::domain::client::{Client, ClientUse};
use crate::domain::clock::UnixTime;
use crate::store::StoreError;
use crate::store::sole_clients::{SoleClients, sole_user};

use super::clients;
use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;

/// Records a use of `client` in its current state, and deletes the clients of the same account that make room
/// for it.
pub(super) fn note(rows: &Writable<'_>, client: &Client, used: &ClientUse) -> Result<(), StoreError> {
    let Some(account) = sole_user(client) else { return Ok(()) };
    let mut list: SoleClients = rows.get(Table::SoleClients, account.as_str())?.unwrap_or_default();
    for leaving in list.note(&client.id, used) {
        let other: Option<Client> = rows.get(Table::Clients, leaving.id.as_str())?;
        let Some(other) = other.filter(|other| sole_user(other) == Some(account)) else { continue };
        if leaving.stays(&other, used.at) {
            list.add(&other.id, other.last_used_at.unwrap_or(used.at));
        } else {
            clients::remove(rows, &other.id)?;
        }
    }
    let before = rows.end(Table::SoleClients, account.as_str())?;
    let end = used.extend(before, used.keep_until);
    rows.put(Table::SoleClients, account.as_str(), &list, Some(end))
}

/// Adds a client that was imported.
pub(super) fn add(rows: &Writable<'_>, client: &Client, until: Option<UnixTime>) -> Result<(), StoreError> {
    let Some((account, used_at)) = sole_user(client).zip(client.last_used_at) else { return Ok(()) };
    let mut list: SoleClients = rows.get(Table::SoleClients, account.as_str())?.unwrap_or_default();
    list.add(&client.id, used_at);
    rows.put(Table::SoleClients, account.as_str(), &list, until)
}
