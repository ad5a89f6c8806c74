//! Registers clients within a limit on their number.

use async_trait::async_trait;

use crate::domain::client::{Client, ClientId};
use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::store::rules::{self, is_kept_longer, is_same};
use crate::store::{
    Addition, Change, ClientStore, Deletion, ManagedChange, Registration, RegistrationTerms, StoreError,
};

use super::EmbeddedStore;
use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;

#[async_trait]
impl ClientStore for EmbeddedStore {
    async fn register_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        terms: &RegistrationTerms,
    ) -> Result<Registration, StoreError> {
        // A client that registers on every connection therefore causes a read, but no write.
        if let Some(known) = self.read(|rows| known_and_shared(rows, client, ids, terms.now))? {
            return Ok(Registration::Known(known));
        }
        let (client, ids, terms) = (client.clone(), ids.to_vec(), *terms);
        self.writer.write(move |rows| register(rows, &client, &ids, &terms)).await
    }

    async fn registered_client(
        &self,
        client: &Client,
        ids: &[ClientId],
        now: UnixTime,
    ) -> Result<Option<Client>, StoreError> {
        self.read(|rows| registered(rows, client, ids, now))
    }

    async fn add_client(&self, client: &Client, now: UnixTime) -> Result<Addition, StoreError> {
        let client = client.clone();
        self.writer.write(move |rows| enter(rows, &client, now)).await
    }

    async fn client(&self, id: &ClientId, now: UnixTime) -> Result<Option<Client>, StoreError> {
        self.read(|rows| live(rows, id, now))
    }

    async fn clients(
        &self,
        after: Option<&ClientId>,
        most: usize,
        now: UnixTime,
    ) -> Result<Vec<Client>, StoreError> {
        self.read(|rows| rows.page(Table::Clients, after.map(ClientId::as_str), most, now))
    }

    async fn update_client(
        &self,
        management: &TokenHash,
        updated: &Client,
    ) -> Result<ManagedChange, StoreError> {
        let (management, updated) = (*management, updated.clone());
        self.writer.write(move |rows| update(rows, &management, &updated)).await
    }

    async fn set_client_disabled(&self, id: &ClientId, disabled: bool) -> Result<Change, StoreError> {
        let id = id.clone();
        let work = move |rows: &Writable<'_>| set_disabled(rows, &id, disabled);
        if disabled { self.writer.take_away(work).await } else { self.writer.write(work).await }
    }

    async fn delete_client(&self, id: &ClientId) -> Result<Deletion, StoreError> {
        let id = id.clone();
        self.writer.write_even_late(move |rows| remove(rows, &id)).await
    }

    async fn delete_client_managed_by(
        &self,
        management: &TokenHash,
        id: &ClientId,
    ) -> Result<ManagedChange, StoreError> {
        let (management, id) = (*management, id.clone());
        self.writer.write_even_late(move |rows| remove_managed_by(rows, &management, &id)).await
    }
}

/// The client with this identifier, unless it has expired.
pub(super) fn live(rows: &impl Rows, id: &ClientId, now: UnixTime) -> Result<Option<Client>, StoreError> {
    rows.get_live(Table::Clients, id.as_str(), now)
}

/// Finds the client that has already registered with the metadata of `asked`.
fn registered(
    rows: &impl Rows,
    asked: &Client,
    ids: &[ClientId],
    now: UnixTime,
) -> Result<Option<Client>, StoreError> {
    let elsewhere = match &asked.fingerprint {
        Some(fingerprint) => rows.get_live::<ClientId>(Table::Fingerprints, &fingerprint.text(), now)?,
        None => None,
    };
    for id in ids.iter().chain(&elsewhere) {
        if let Some(known) = live(rows, id, now)?.filter(|known| is_same(known, asked)) {
            return Ok(Some(known));
        }
    }
    Ok(None)
}

/// Like [`registered`], but only returns the client if no write is necessary.
fn known_and_shared(
    rows: &impl Rows,
    asked: &Client,
    ids: &[ClientId],
    now: UnixTime,
) -> Result<Option<Client>, StoreError> {
    let as_it_is = |known: &Client| known.management.is_none() && !is_kept_longer(known, asked);
    Ok(registered(rows, asked, ids, now)?.filter(as_it_is))
}

fn register(
    rows: &Writable<'_>,
    asked: &Client,
    ids: &[ClientId],
    terms: &RegistrationTerms,
) -> Result<Registration, StoreError> {
    if let Some(known) = registered(rows, asked, ids, terms.now)? {
        return share(rows, known, asked, terms).map(Registration::Known);
    }
    for id in ids {
        if live(rows, id, terms.now)?.is_none() {
            let registration = add(rows, asked, id, terms)?;
            // The next registration of the same client proposes the first identifier again, but not the others, so
            // a row maps the fingerprint to the identifier that was chosen.
            if let (Registration::Added(_), Some(fingerprint)) = (&registration, &asked.fingerprint)
                && ids.first() != Some(id)
            {
                rows.put(Table::Fingerprints, &fingerprint.text(), id, Some(terms.unused_until))?;
            }
            return Ok(registration);
        }
    }
    Err(StoreError::Unavailable("every identifier that was proposed for a client is taken".to_owned()))
}

/// Updates a client that is registered again. If two parties have registered a client, neither of them can
/// manage it.
fn share(
    rows: &Writable<'_>,
    mut client: Client,
    asked: &Client,
    terms: &RegistrationTerms,
) -> Result<Client, StoreError> {
    let shared = client.management.take().is_some();
    let is_kept_longer = is_kept_longer(&client, asked);
    if is_kept_longer && client.last_used_at.is_none() {
        // The index of unused clients is ordered by `kept_until`, so the entry must be replaced.
        rows.remove(Table::UnusedClients, &unused_key(&client))?;
        client.kept_until = asked.kept_until;
        put_unused(rows, &client, terms)?;
    } else if is_kept_longer || shared {
        if is_kept_longer {
            client.kept_until = asked.kept_until;
        }
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
    // The row might still contain an expired client.
    let _: Deletion = remove(rows, id)?;
    let too_many = (rows.count(Table::Clients)? + 1).saturating_sub(terms.ceiling);
    let too_many = too_many.max((rows.count(Table::UnusedClients)? + 1).saturating_sub(terms.unused_ceiling));
    let oldest = rows.first_few::<ClientId>(Table::UnusedClients, too_many)?;
    let makes_room = |(key, _): &(String, ClientId)| *key < unused_key_from(terms.now.0 + 1);
    if (oldest.len() as u64) < too_many || !oldest.iter().all(makes_room) {
        // If there is still not enough room, no client is deleted.
        return Ok(Registration::Full);
    }
    for (key, oldest) in oldest {
        rows.remove(Table::UnusedClients, &key)?;
        let is_unused = |client: Client| client.last_used_at.is_none() && !client.stays();
        if rows.get(Table::Clients, oldest.as_str())?.is_some_and(is_unused) {
            let _: Deletion = remove(rows, &oldest)?;
        }
    }
    let client = Client { id: id.clone(), ..asked.clone() };
    put_unused(rows, &client, terms)?;
    Ok(Registration::Added(client))
}

fn put_unused(rows: &Writable<'_>, client: &Client, terms: &RegistrationTerms) -> Result<(), StoreError> {
    rows.put(Table::Clients, client.id.as_str(), client, Some(terms.unused_until))?;
    rows.put(Table::UnusedClients, &unused_key(client), &client.id, Some(terms.unused_until))
}

/// Adds a client that neither expires nor is deleted to make room for others. Its identifier must
/// be free.
fn enter(rows: &Writable<'_>, client: &Client, now: UnixTime) -> Result<Addition, StoreError> {
    if live(rows, &client.id, now)?.is_some() {
        return Ok(Addition::Taken);
    }
    let _: Deletion = remove(rows, &client.id)?;
    rows.put(Table::Clients, client.id.as_str(), client, None)?;
    Ok(Addition::Added)
}

/// Disables or enables a client.
///
/// A disabled client does not expire ([`Client::stays`]). Once it is enabled, it can make room for others, and its
/// next use sets an expiry again.
fn set_disabled(rows: &Writable<'_>, id: &ClientId, disabled: bool) -> Result<Change, StoreError> {
    let Some(mut client) = rows.get::<Client>(Table::Clients, id.as_str())? else {
        return Ok(Change::Missing);
    };
    if disabled || client.disabled {
        rows.remove(Table::UnusedClients, &unused_key(&client))?;
        client.disabled = disabled;
        rows.put(Table::Clients, id.as_str(), &client, None)?;
        if client.last_used_at.is_none() && !client.stays() {
            rows.put(Table::UnusedClients, &unused_key(&client), &client.id, None)?;
        }
    }
    Ok(Change::Changed)
}

/// The key of a client in the index of unused clients. The index is ordered by the time from which a client
/// can be deleted to make room for others.
pub(super) fn unused_key(client: &Client) -> String {
    format!("{}/{}", unused_key_from(client.makes_room_from().0), client.id)
}

fn unused_key_from(second: u64) -> String {
    format!("{second:020}")
}

pub(super) fn remove(rows: &Writable<'_>, id: &ClientId) -> Result<Deletion, StoreError> {
    let Some(client) = rows.get::<Client>(Table::Clients, id.as_str())? else {
        return Ok(Deletion::Missing);
    };
    rows.remove(Table::UnusedClients, &unused_key(&client))?;
    rows.remove(Table::Clients, id.as_str())?;
    leave_fingerprint(rows, &client)?;
    Ok(Deletion::Deleted)
}

/// Removes the row that maps a fingerprint to this client, when the client or its metadata is removed.
fn leave_fingerprint(rows: &Writable<'_>, client: &Client) -> Result<(), StoreError> {
    let Some(fingerprint) = client.fingerprint.map(|fingerprint| fingerprint.text()) else { return Ok(()) };
    match rows.get::<ClientId>(Table::Fingerprints, &fingerprint)? {
        Some(id) if id == client.id => rows.remove(Table::Fingerprints, &fingerprint),
        _ => Ok(()),
    }
}

/// Removes a client if `management` is the digest of its registration access token.
fn remove_managed_by(
    rows: &Writable<'_>,
    management: &TokenHash,
    id: &ClientId,
) -> Result<ManagedChange, StoreError> {
    let client = rows.get::<Client>(Table::Clients, id.as_str())?;
    if client.is_none_or(|client| client.management != Some(*management)) {
        return Ok(ManagedChange::TokenInvalid);
    }
    let _: Deletion = remove(rows, id)?;
    Ok(ManagedChange::Made)
}

/// Replaces a client's metadata on behalf of the holder of its registration access token.
fn update(
    rows: &Writable<'_>,
    management: &TokenHash,
    updated: &Client,
) -> Result<ManagedChange, StoreError> {
    let before = rows.get::<Client>(Table::Clients, updated.id.as_str())?;
    if !change(rows, &updated.id, |client| rules::update(client, management, updated))? {
        return Ok(ManagedChange::TokenInvalid);
    }
    if let Some(before) = before.filter(|before| !is_same(before, updated)) {
        leave_fingerprint(rows, &before)?;
    }
    Ok(ManagedChange::Made)
}

/// Changes a client if it exists and `change` returns true. Returns whether it was changed.
fn change(
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
