//! Clients. The row of a client is authoritative, and the [`index`], which is in a different slot, follows
//! it. The two cannot change in one step.

mod index;
mod registration;

use async_trait::async_trait;

use crate::domain::client::{Client, ClientId};
use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::store::rules::{self, is_same};
use crate::store::{
    Addition, Change, ClientStore, Deletion, ManagedChange, Registration, RegistrationTerms, StoreError,
};

use super::RedisStore;
use super::cells::Cells;
use super::tries::Tries;

use index::page;
use registration::{register, registered};

pub(super) use index::{settle, sweep};

#[async_trait]
impl ClientStore for RedisStore {
    async fn register_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        terms: &RegistrationTerms,
    ) -> Result<Registration, StoreError> {
        register(&self.cells, client, ids, terms).await
    }

    async fn registered_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        now: UnixTime,
    ) -> Result<Option<Client>, StoreError> {
        registered(&self.cells, client, ids, now).await
    }

    async fn add_client(&self, client: &Client, now: UnixTime) -> Result<Addition, StoreError> {
        enter_for_good(&self.cells, client, now).await
    }

    async fn client(&self, id: &ClientId, now: UnixTime) -> Result<Option<Client>, StoreError> {
        live(&self.cells, id, now).await
    }

    async fn clients(
        &self,
        after: Option<&ClientId>,
        most: usize,
        now: UnixTime,
    ) -> Result<Vec<Client>, StoreError> {
        page(&self.cells, after, most, now).await
    }

    async fn update_client(
        &self,
        management: &TokenHash,
        updated: &Client,
    ) -> Result<ManagedChange, StoreError> {
        update(&self.cells, management, updated).await
    }

    async fn set_client_disabled(&self, id: &ClientId, disabled: bool) -> Result<Change, StoreError> {
        set_disabled(&self.cells, id, disabled).await
    }

    async fn delete_client(&self, id: &ClientId) -> Result<Deletion, StoreError> {
        delete(&self.cells, id).await
    }

    async fn delete_client_managed_by(
        &self,
        management: &TokenHash,
        id: &ClientId,
    ) -> Result<ManagedChange, StoreError> {
        delete_managed_by(&self.cells, management, id).await
    }
}

pub(super) async fn live(cells: &Cells, id: &ClientId, now: UnixTime) -> Result<Option<Client>, StoreError> {
    match cells.live(&cells.keys.client(id), now).await? {
        None => cells.absent(None).await,
        found => Ok(found),
    }
}

/// Removes the row that maps a fingerprint to this client, after the client or its metadata has been removed.
async fn leave_fingerprint(cells: &Cells, client: &Client) -> Result<(), StoreError> {
    let Some(fingerprint) = &client.fingerprint else { return Ok(()) };
    let key = cells.keys.fingerprint(fingerprint);
    if let Some(found) = cells.read::<ClientId>(&key).await?.filter(|found| found.value == client.id) {
        cells.remove_found(&key, &found).await?;
    }
    Ok(())
}

/// Adds a client that neither expires nor is evicted. Its identifier must be free.
async fn enter_for_good(cells: &Cells, client: &Client, now: UnixTime) -> Result<Addition, StoreError> {
    let key = cells.keys.client(&client.id);
    let found = cells.read::<Client>(&key).await?;
    if found.as_ref().is_some_and(|found| found.is_live(now)) {
        return Ok(Addition::Taken);
    }
    let is_added = cells.swap(&key, found.as_ref(), client, None).await?;
    settle(cells, &client.id).await?;
    Ok(if is_added { Addition::Added } else { Addition::Taken })
}

/// Disables or enables a client, even if Redis is full.
///
/// A disabled client does not expire ([`Client::stays`]). Once it is enabled, it can make room for others, and its
/// next use sets an expiry again.
async fn set_disabled(cells: &Cells, id: &ClientId, disabled: bool) -> Result<Change, StoreError> {
    let key = cells.keys.client(id);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let Some(found) = cells.read::<Client>(&key).await? else {
            return Ok(Change::Missing);
        };
        if !(disabled || found.value.disabled) {
            return Ok(Change::Changed);
        }
        let client = Client { disabled, ..found.value.clone() };
        if cells.swap_although_full(&key, &found, &client).await? {
            cells.count_change().await?;
            settle(cells, id).await?;
            return Ok(Change::Changed);
        }
    }
}

/// Changes a client if it exists and `change` returns true. Returns whether it was changed.
async fn change(
    cells: &Cells,
    id: &ClientId,
    change: impl Fn(&mut Client) -> bool,
) -> Result<bool, StoreError> {
    let key = cells.keys.client(id);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let Some(found) = cells.read::<Client>(&key).await? else {
            return Ok(false);
        };
        let mut client = found.value.clone();
        if !change(&mut client) {
            return Ok(false);
        }
        if cells.swap_keeping(&key, &found, &client).await? {
            // The change might have replaced the client's secret.
            cells.count_change().await?;
            return Ok(true);
        }
    }
}

async fn delete(cells: &Cells, id: &ClientId) -> Result<Deletion, StoreError> {
    let key = cells.keys.client(id);
    let found = cells.read::<Client>(&key).await?;
    let is_deleted = cells.take_away(&key).await?;
    settle(cells, id).await?;
    if let Some(found) = found {
        leave_fingerprint(cells, &found.value).await?;
    }
    Ok(if is_deleted { Deletion::Deleted } else { Deletion::Missing })
}

/// Removes the rows and index entries that point to a deleted client.
pub(super) async fn forget(cells: &Cells, client: &Client) -> Result<(), StoreError> {
    settle(cells, &client.id).await?;
    leave_fingerprint(cells, client).await
}

/// Deletes a client if `management` is the digest of its registration access token.
async fn delete_managed_by(
    cells: &Cells,
    management: &TokenHash,
    id: &ClientId,
) -> Result<ManagedChange, StoreError> {
    let key = cells.keys.client(id);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let found = cells.read::<Client>(&key).await?;
        let Some(found) = found.filter(|found| found.value.management == Some(*management)) else {
            return Ok(ManagedChange::TokenInvalid);
        };
        if cells.remove_found(&key, &found).await? {
            cells.count_change().await?;
            forget(cells, &found.value).await?;
            return Ok(ManagedChange::Made);
        }
    }
}

/// Replaces a client's metadata on behalf of the holder of its registration access token.
async fn update(
    cells: &Cells,
    management: &TokenHash,
    updated: &Client,
) -> Result<ManagedChange, StoreError> {
    let before = cells.read::<Client>(&cells.keys.client(&updated.id)).await?;
    if !change(cells, &updated.id, |client| rules::update(client, management, updated)).await? {
        return Ok(ManagedChange::TokenInvalid);
    }
    if let Some(before) = before.filter(|before| !is_same(&before.value, updated)) {
        leave_fingerprint(cells, &before.value).await?;
    }
    Ok(ManagedChange::Made)
}
