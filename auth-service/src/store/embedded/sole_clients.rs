//! For each account, the clients that only it and at most a few other accounts have used.

use crate::domain::client::Client;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::store::sole_clients::{SoleClients, counted_for, counts_for};
use crate::store::{Deletion, StoreError};

use super::clients;
use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;

/// Records a use of `client` in its current state. If the account then has too many clients, the least recently
/// used ones are no longer counted towards it, and those that no other account has used are deleted.
pub(super) fn note(rows: &Writable<'_>, client: &Client, used: &ClientUse) -> Result<(), StoreError> {
    let account = &used.user;
    if !counts_for(client, account) {
        return Ok(());
    }
    let mut list: SoleClients = rows.get(Table::SoleClients, account.as_str())?.unwrap_or_default();
    for leaving in list.note(&client.id, used) {
        let other: Option<Client> = rows.get(Table::Clients, leaving.id.as_str())?;
        let Some(other) = other.filter(|other| counts_for(other, account)) else { continue };
        if leaving.stays(&other, used.bounds.earliest) {
            list.add(&other.id, other.last_used_at.unwrap_or(used.at));
        } else if let Some(of_others) = other.without_user(account) {
            rows.replace(Table::Clients, other.id.as_str(), &of_others)?;
        } else {
            let _: Deletion = clients::remove(rows, &other.id)?;
        }
    }
    let before = rows.end(Table::SoleClients, account.as_str())?;
    let end = used.extend(before, used.keep_until);
    rows.put(Table::SoleClients, account.as_str(), &list, Some(end))
}

/// Records that, because of this use, a client is no longer counted towards any account. Returns false if the user
/// has already caused this for too many clients.
pub(super) fn free(rows: &Writable<'_>, used: &ClientUse) -> Result<bool, StoreError> {
    let account = used.user.as_str();
    let mut list: SoleClients = rows.get(Table::SoleClients, account)?.unwrap_or_default();
    let can = list.free(used);
    if can {
        let end = used.extend(rows.end(Table::SoleClients, account)?, used.keep_until);
        rows.put(Table::SoleClients, account, &list, Some(end))?;
    }
    Ok(can)
}

/// Adds an imported client.
pub(super) fn add(rows: &Writable<'_>, client: &Client, until: Option<UnixTime>) -> Result<(), StoreError> {
    let Some(used_at) = client.last_used_at else { return Ok(()) };
    for account in counted_for(client) {
        let mut list: SoleClients = rows.get(Table::SoleClients, account.as_str())?.unwrap_or_default();
        list.add(&client.id, used_at);
        rows.put(Table::SoleClients, account.as_str(), &list, until)?;
    }
    Ok(())
}
