//! Registers clients. A public client that is already registered is found again. If there are too many
//! clients, unused ones are evicted, after a check that they are still unused.

use fred::types::Value;
use futures_util::future::try_join_all;

use crate::domain::client::{Client, ClientId};
use crate::domain::clock::UnixTime;
use crate::store::rules::{is_kept_longer, is_same};
use crate::store::{Registration, RegistrationTerms, StoreError};

use super::super::cells::{Cells, Life};
use super::super::tries::Tries;
use super::index::{CLAIM, on_index, settle};
use super::{leave_fingerprint, live};

/// Maximum number of clients that are evicted by one run of the script. There can be many after the ceiling has
/// been lowered.
const EVICTED_AT_ONCE: usize = 64;

/// Finds the client that has already registered with the metadata of `asked`.
pub(in super::super) async fn registered(
    cells: &Cells,
    asked: &Client,
    ids: &[ClientId],
    now: UnixTime,
) -> Result<Option<Client>, StoreError> {
    let Some(fingerprint) = &asked.fingerprint else { return Ok(None) };
    let same = |known: Option<Client>| known.filter(|known| is_same(known, asked));
    let known = try_join_all(ids.iter().map(|id| live(cells, id, now))).await?;
    if let Some(known) = known.into_iter().find_map(same) {
        return Ok(Some(known));
    }
    match cells.live::<ClientId>(&cells.keys.fingerprint(fingerprint), now).await? {
        Some(id) => Ok(same(live(cells, &id, now).await?)),
        None => Ok(None),
    }
}

pub(in super::super) async fn register(
    cells: &Cells,
    asked: &Client,
    ids: &[ClientId],
    terms: &RegistrationTerms,
) -> Result<Registration, StoreError> {
    // An existing client takes precedence over a free identifier.
    let there = registered(cells, asked, ids, terms.now).await?.map(|known| known.id);
    for id in there.iter().chain(ids) {
        let Some(registration) = register_as(cells, asked, id, terms).await? else { continue };
        // The next registration of the same client proposes the first identifier again, but not the others, so a
        // row maps the fingerprint to the identifier that was chosen.
        if let (Registration::Added(_), Some(fingerprint)) = (&registration, &asked.fingerprint)
            && ids.first() != Some(id)
        {
            let life = Life { until: terms.unused_until, now: terms.now };
            cells.write(&cells.keys.fingerprint(fingerprint), id, life).await?;
        }
        return Ok(registration);
    }
    Err(StoreError::Unavailable("every identifier that was proposed for a client is taken".to_owned()))
}

/// Registers the client as `id`. Returns `None` if another client has this identifier.
async fn register_as(
    cells: &Cells,
    asked: &Client,
    id: &ClientId,
    terms: &RegistrationTerms,
) -> Result<Option<Registration>, StoreError> {
    let key = cells.keys.client(id);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let found = cells.read::<Client>(&key).await?;
        match found.as_ref().filter(|found| found.is_live(terms.now)) {
            Some(known) if is_same(&known.value, asked) => {
                let mut client = known.value.clone();
                // If two parties have registered a client, neither can manage it.
                let shared = client.management.take().is_some();
                let is_kept_longer = is_kept_longer(&client, asked);
                if is_kept_longer {
                    client.kept_until = asked.kept_until;
                }
                if is_kept_longer && client.last_used_at.is_none() {
                    let life = Life { until: terms.unused_until, now: terms.now };
                    if cells.swap(&key, found.as_ref(), &client, Some(life)).await? {
                        settle(cells, id).await?;
                        return Ok(Some(Registration::Known(client)));
                    }
                } else if !(is_kept_longer || shared) || cells.swap_keeping(&key, known, &client).await? {
                    return Ok(Some(Registration::Known(client)));
                }
            }
            Some(_) => return Ok(None),
            None => {
                let client = Client { id: id.clone(), ..asked.clone() };
                let life = Life { until: terms.unused_until, now: terms.now };
                if cells.swap(&key, found.as_ref(), &client, Some(life)).await? {
                    return make_room(cells, client, terms).await.map(Some);
                }
            }
        }
    }
}

/// Adds a client that has just been written to the index, and evicts others if necessary.
async fn make_room(
    cells: &Cells,
    client: Client,
    terms: &RegistrationTerms,
) -> Result<Registration, StoreError> {
    let arguments: Vec<Value> = vec![
        client.id.as_str().into(),
        client.makes_room_from().0.to_string().into(),
        terms.unused_until.0.to_string().into(),
        terms.ceiling.to_string().into(),
        EVICTED_AT_ONCE.to_string().into(),
        terms.unused_ceiling.to_string().into(),
        terms.now.0.to_string().into(),
    ];
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let Value::Array(evicted) = on_index(cells, &CLAIM, arguments.clone()).await? else {
            return take_back(cells, client).await;
        };
        let mut all_gone = true;
        for id in evicted.iter().filter_map(Value::as_string) {
            let id = ClientId::try_from(id).map_err(|_| StoreError::Unreadable)?;
            all_gone &= evict(cells, &id).await?;
        }
        // A client that has just been used is not evicted, so another one must be evicted instead.
        if all_gone && evicted.len() < EVICTED_AT_ONCE {
            return Ok(Registration::Added(client));
        }
    }
}

/// Undoes the registration of a client because there is no room for it.
async fn take_back(cells: &Cells, client: Client) -> Result<Registration, StoreError> {
    let key = cells.keys.client(&client.id);
    let written = cells.read::<Client>(&key).await?;
    let ours = written.filter(|found| {
        found.value.registration == client.registration
            && found.value.management == client.management
            && found.value.last_used_at.is_none()
    });
    let removed = match ours {
        Some(found) => cells.remove_found(&key, &found).await?,
        None => false,
    };
    if !removed {
        // Another caller has registered the same client in the meantime and has received it as the result, so the
        // client is kept.
        settle(cells, &client.id).await?;
    }
    Ok(Registration::Full)
}

/// Removes a client unless it has been used or disabled. Returns whether the client no longer exists.
async fn evict(cells: &Cells, id: &ClientId) -> Result<bool, StoreError> {
    let key = cells.keys.client(id);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let Some(found) = cells.read::<Client>(&key).await? else {
            return Ok(true);
        };
        let stays = found.value.last_used_at.is_some() || found.value.stays();
        if stays || cells.remove_found(&key, &found).await? {
            if !stays {
                leave_fingerprint(cells, &found.value).await?;
            }
            settle(cells, id).await?;
            return Ok(!stays);
        }
    }
}
