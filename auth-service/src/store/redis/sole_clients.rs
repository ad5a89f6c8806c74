//! For each account, the list of the clients that it and few other accounts have used. A list is in a different
//! slot from its clients and is updated after them. If the update is interrupted, the next use of the client
//! completes it.

use crate::domain::account::Subject;
use crate::domain::client::Client;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::store::StoreError;
use crate::store::sole_clients::{MakesRoom, SoleClients, counted_for, counts_for};

use super::cells::{Cells, Found, Life};
use super::clients;
use super::tries::Tries;

/// Records a use of `client` in its current state. If the account then has too many clients, the least recently
/// used ones are no longer counted towards it, and those that no other account has used are deleted.
pub(super) async fn note(cells: &Cells, client: &Client, used: &ClientUse) -> Result<(), StoreError> {
    let account = &used.user;
    if !counts_for(client, account) {
        return Ok(());
    }
    let life = life_of(used);
    let make_room = change(cells, account, &life, |list| list.note(&client.id, used)).await?;
    for leaving in make_room {
        if let Some(last) = remove(cells, account, &leaving, used.bounds.earliest).await? {
            change(cells, account, &life, |list| list.add(&leaving.id, last)).await?;
        }
    }
    Ok(())
}

/// Records that, because of this use, a client is no longer counted towards any account. Returns false if the user
/// has already caused this for too many clients.
pub(super) async fn free(cells: &Cells, used: &ClientUse) -> Result<bool, StoreError> {
    change(cells, &used.user, life_of(used), |list| list.free(used)).await
}

fn life_of(used: &ClientUse) -> impl Fn(Option<UnixTime>) -> Option<Life> {
    |before| Some(Life { until: used.extend(before, used.keep_until), now: used.at })
}

/// Adds an imported client.
pub(super) async fn add(cells: &Cells, client: &Client, life: Option<Life>) -> Result<(), StoreError> {
    let Some(used_at) = client.last_used_at else { return Ok(()) };
    for account in counted_for(client) {
        change(cells, account, |_| life, |list| list.add(&client.id, used_at)).await?;
    }
    Ok(())
}

async fn change<T>(
    cells: &Cells,
    user: &Subject,
    life: impl Fn(Option<UnixTime>) -> Option<Life>,
    change: impl Fn(&mut SoleClients) -> T,
) -> Result<T, StoreError> {
    let key = cells.keys.sole_clients(user);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let found = cells.read::<SoleClients>(&key).await?;
        let mut list = found.as_ref().map(|found| found.value.clone()).unwrap_or_default();
        let outcome = change(&mut list);
        let life = life(found.as_ref().and_then(Found::expiry));
        if cells.swap(&key, found.as_ref(), &list, life).await? {
            return Ok(outcome);
        }
    }
}

/// Removes `user` from the users of the client `leaving`, which no longer counts towards the limit of that account.
/// If the client has no other users, deletes it. If the client is still kept for the time being
/// ([`MakesRoom::stays`]), changes nothing and returns the time of its last use.
async fn remove(
    cells: &Cells,
    user: &Subject,
    leaving: &MakesRoom,
    now: UnixTime,
) -> Result<Option<UnixTime>, StoreError> {
    let key = cells.keys.client(&leaving.id);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let found = cells.read::<Client>(&key).await?;
        let Some(found) = found.filter(|found| counts_for(&found.value, user)) else {
            return Ok(None);
        };
        if leaving.stays(&found.value, now) {
            return Ok(Some(found.value.last_used_at.unwrap_or(now)));
        }
        if let Some(of_others) = found.value.without_user(user) {
            if cells.swap_keeping(&key, &found, &of_others).await? {
                return Ok(None);
            }
            continue;
        }
        if cells.remove_found(&key, &found).await? {
            clients::forget(cells, &found.value).await?;
            return Ok(None);
        }
    }
}
