//! Clients and their index. The row of a client is authoritative, and the index, which is in a different
//! slot, follows it. Both cannot change in one step. Therefore every change of a client is followed by an
//! update of its index entry from the current row, and eviction checks that a client is still unused before
//! it removes it.

use std::sync::LazyLock;

use fred::types::Value;
use futures_util::future::try_join_all;

use crate::domain::client::{Client, ClientId, ClientOrigin, ClientUse};
use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::store::rules::{self, UseOfClient, is_kept_longer, is_same, judge_use};
use crate::store::{Registration, RegistrationTerms, StoreError};

use super::cells::{Cells, Found, Life, Tries};
use super::connection::Script;
use super::sole_clients;

/// Maximum number of clients that are evicted by one call of the script. There can be many after the ceiling
/// was lowered.
const EVICTED_AT_ONCE: usize = 64;
/// Number of expired clients that are swept at a time.
const SWEPT_AT_ONCE: i64 = 256;

/// Adds an id to the index and removes as many of the oldest unused ids as exceed a ceiling. Returns the
/// removed ids. If not enough of them can be evicted, it changes nothing and returns an integer. The keys are
/// the sets `all`, `unused` and `ends`. The arguments are the id, the time from which it can be evicted, its
/// expiry, the ceiling, the maximum number to evict, the ceiling of unused clients and the current time.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local new = redis.call('ZSCORE', KEYS[1], ARGV[1]) == false
         redis.call('ZREM', KEYS[2], ARGV[1])
         local over = redis.call('ZCARD', KEYS[1]) + (new and 1 or 0) - tonumber(ARGV[4])
         over = math.max(over, redis.call('ZCARD', KEYS[2]) + 1 - tonumber(ARGV[6]))
         local evicted = {}
         if over > 0 then
           local last = redis.call('ZRANGE', KEYS[2], over - 1, over - 1)[1]
           if not last or tonumber(redis.call('ZSCORE', KEYS[2], last)) > tonumber(ARGV[7]) then
             for _, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[1]) end
             return 0
           end
           evicted = redis.call('ZRANGE', KEYS[2], 0, math.min(over, tonumber(ARGV[5])) - 1)
         end
         for _, id in ipairs(evicted) do
           for _, key in ipairs(KEYS) do redis.call('ZREM', key, id) end
         end
         redis.call('ZADD', KEYS[1], 0, ARGV[1])
         redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
         redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
         return evicted",
    )
});

/// Writes the index entry of a client. The keys are the sets `all`, `unused` and `ends`. The arguments are
/// the id, its expiry, and the time from which it can be evicted (empty if it has been used).
static ENTER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('ZADD', KEYS[1], 0, ARGV[1])
         redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
         if ARGV[3] == '' then redis.call('ZREM', KEYS[2], ARGV[1])
         else redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1]) end
         return 1",
    )
});

/// Removes the index entry of a client. The keys are the sets `all`, `unused` and `ends`. The argument is the
/// id.
static LEAVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new("for _, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[1]) end return 1")
});

pub(super) async fn live(cells: &Cells, id: &ClientId, now: UnixTime) -> Result<Option<Client>, StoreError> {
    cells.live(&cells.keys.client(id), now).await
}

/// Finds the client that has already registered with the metadata of `asked`.
pub(super) async fn registered(
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

/// Removes the row that leads from a fingerprint to this client, after the client or its metadata was
/// removed.
async fn leave_fingerprint(cells: &Cells, client: &Client) -> Result<(), StoreError> {
    let Some(fingerprint) = &client.fingerprint else { return Ok(()) };
    let key = cells.keys.fingerprint(fingerprint);
    if let Some(found) = cells.read::<ClientId>(&key).await?.filter(|found| found.value == client.id) {
        cells.remove_found(&key, &found).await?;
    }
    Ok(())
}

pub(super) async fn register(
    cells: &Cells,
    asked: &Client,
    ids: &[ClientId],
    terms: &RegistrationTerms,
) -> Result<Registration, StoreError> {
    // An existing client takes precedence over a free identifier.
    let there = registered(cells, asked, ids, terms.now).await?.map(|known| known.id);
    for id in there.iter().chain(ids) {
        let Some(registration) = register_as(cells, asked, id, terms).await? else { continue };
        // The next registration of the same client proposes the first identifier again and does not know the
        // others, so a row leads from the fingerprint to the identifier that was chosen.
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

/// Registers the client as `id`. None if another client has this identifier.
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

/// Adds a client that was just written to the index, and evicts others if necessary.
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
        // A client that was used a moment ago is not evicted, so another one has to be.
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
        // Another caller has registered the same client meanwhile and was told so, so it stays.
        settle(cells, &client.id).await?;
    }
    Ok(Registration::Full)
}

/// Removes a client unless it has been used. Returns whether it is gone.
async fn evict(cells: &Cells, id: &ClientId) -> Result<bool, StoreError> {
    let key = cells.keys.client(id);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let Some(found) = cells.read::<Client>(&key).await? else {
            return Ok(true);
        };
        let used = found.value.last_used_at.is_some();
        if used || cells.remove_found(&key, &found).await? {
            if !used {
                leave_fingerprint(cells, &found.value).await?;
            }
            settle(cells, id).await?;
            return Ok(!used);
        }
    }
}

async fn on_index<T: fred::prelude::FromValue>(
    cells: &Cells,
    script: &Script,
    arguments: Vec<Value>,
) -> Result<T, StoreError> {
    let index = cells.keys.client_index();
    cells.connection.script(script, &[&index.all, &index.unused, &index.ends], arguments).await
}

/// Updates the index entry from the current row, and repeats that if the row changes meanwhile. Every change
/// is followed by a call of this function, so the last caller has seen all changes.
pub(super) async fn settle(cells: &Cells, id: &ClientId) -> Result<(), StoreError> {
    let key = cells.keys.client(id);
    let mut tries = Tries::default();
    let mut before = cells.read::<Client>(&key).await?;
    loop {
        tries.next().await?;
        match &before {
            Some(found) => enter(cells, id, found).await?,
            None => on_index(cells, &LEAVE, vec![id.as_str().into()]).await?,
        }
        let after = cells.read::<Client>(&key).await?;
        let unchanged = match (&before, &after) {
            (Some(before), Some(after)) => before.is_same(after),
            (None, None) => true,
            _ => false,
        };
        if unchanged {
            return Ok(());
        }
        before = after;
    }
}

/// Adds a client that neither expires nor is evicted. Returns whether its identifier was free.
pub(super) async fn enter_for_good(
    cells: &Cells,
    client: &Client,
    now: UnixTime,
) -> Result<bool, StoreError> {
    let key = cells.keys.client(&client.id);
    let found = cells.read::<Client>(&key).await?;
    if found.as_ref().is_some_and(|found| found.is_live(now)) {
        return Ok(false);
    }
    let entered = cells.swap(&key, found.as_ref(), client, None).await?;
    settle(cells, &client.id).await?;
    Ok(entered)
}

async fn enter(cells: &Cells, id: &ClientId, found: &Found<Client>) -> Result<(), StoreError> {
    let end = found.expiry().unwrap_or(UnixTime(u64::MAX));
    let makes_room_from = match found.value.last_used_at {
        None if found.value.origin != ClientOrigin::Operator => found.value.makes_room_from().0.to_string(),
        _ => String::new(),
    };
    let arguments = vec![id.as_str().into(), end.0.to_string().into(), makes_room_from.into()];
    on_index(cells, &ENTER, arguments).await
}

/// Returns at most `most` live clients, ordered by identifier.
pub(super) async fn page(
    cells: &Cells,
    after: Option<&ClientId>,
    most: usize,
    now: UnixTime,
) -> Result<Vec<Client>, StoreError> {
    let index = cells.keys.client_index();
    let mut from = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
    let mut clients = Vec::new();
    while clients.len() < most {
        let wanted = (most - clients.len()).min(256);
        let limit = i64::try_from(wanted).unwrap_or(1);
        let range: [Value; 6] =
            [index.all.as_str().into(), from.into(), "+".into(), "LIMIT".into(), 0_i64.into(), limit.into()];
        let ids: Vec<String> = cells.connection.run("ZRANGEBYLEX", range.into()).await?;
        let ids: Vec<ClientId> = ids
            .into_iter()
            .map(ClientId::try_from)
            .collect::<Result<_, _>>()
            .map_err(|_| StoreError::Unreadable)?;
        let found = try_join_all(ids.iter().map(|id| live(cells, id, now))).await?;
        clients.extend(found.into_iter().flatten());
        match ids.last() {
            Some(last) if ids.len() == wanted => from = format!("({last}"),
            _ => break,
        }
    }
    Ok(clients)
}

/// Disables or enables a client, although Redis may be full. Returns false if there is none.
pub(super) async fn set_disabled(cells: &Cells, id: &ClientId, disabled: bool) -> Result<bool, StoreError> {
    let key = cells.keys.client(id);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let Some(found) = cells.read::<Client>(&key).await? else {
            return Ok(false);
        };
        let client = Client { disabled, ..found.value.clone() };
        if cells.swap_although_full(&key, &found, &client).await? {
            cells.count_change().await?;
            return Ok(true);
        }
    }
}

/// Changes a client if it exists and `change` returns true. Returns whether it was changed.
pub(super) async fn change(
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
            // It might have another secret.
            cells.count_change().await?;
            return Ok(true);
        }
    }
}

pub(super) async fn delete(cells: &Cells, id: &ClientId) -> Result<bool, StoreError> {
    let key = cells.keys.client(id);
    let found = cells.read::<Client>(&key).await?;
    let removed = cells.take_away(&key).await?;
    settle(cells, id).await?;
    if let Some(found) = found {
        leave_fingerprint(cells, &found.value).await?;
    }
    Ok(removed)
}

/// Removes the rows and index entries that lead to a client that was deleted.
pub(super) async fn forget(cells: &Cells, client: &Client) -> Result<(), StoreError> {
    settle(cells, &client.id).await?;
    leave_fingerprint(cells, client).await
}

/// Deletes a client if this is its registration access token. Returns whether it was deleted.
pub(super) async fn delete_managed_by(
    cells: &Cells,
    management: &TokenHash,
    id: &ClientId,
) -> Result<bool, StoreError> {
    let key = cells.keys.client(id);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let found = cells.read::<Client>(&key).await?;
        let Some(found) = found.filter(|found| found.value.management == Some(*management)) else {
            return Ok(false);
        };
        if cells.remove_found(&key, &found).await? {
            cells.count_change().await?;
            forget(cells, &found.value).await?;
            return Ok(true);
        }
    }
}

/// Replaces a client's metadata on behalf of the holder of its registration access token.
pub(super) async fn update(
    cells: &Cells,
    management: &TokenHash,
    updated: &Client,
) -> Result<bool, StoreError> {
    let before = cells.read::<Client>(&cells.keys.client(&updated.id)).await?;
    let done = change(cells, &updated.id, |client| rules::update(client, management, updated)).await?;
    if let Some(before) = before.filter(|before| done && !is_same(&before.value, updated)) {
        leave_fingerprint(cells, &before.value).await?;
    }
    Ok(done)
}

/// Records a use. Returns the client as it is now, or none if it was deleted, disabled or registered again
/// since the caller read it.
pub(super) async fn note_use(cells: &Cells, used: &ClientUse) -> Result<Option<Client>, StoreError> {
    let found = of_use(cells, used).await?;
    note_use_of(cells, used, found).await
}

/// Reads the client of a use, which is decided on later. This lets a caller read several rows at the same
/// time.
pub(super) async fn of_use(cells: &Cells, used: &ClientUse) -> Result<Option<Found<Client>>, StoreError> {
    cells.read(&cells.keys.client(&used.client.id)).await
}

/// Like [`note_use`], for a client that was read a moment ago.
pub(super) async fn note_use_of(
    cells: &Cells,
    used: &ClientUse,
    mut found: Option<Found<Client>>,
) -> Result<Option<Client>, StoreError> {
    let id = &used.client.id;
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let known = found
            .as_ref()
            .filter(|found| found.is_live(used.bounds.earliest))
            .map(|found| found.value.clone());
        match judge_use(known, used) {
            UseOfClient::Refused => return Ok(None),
            UseOfClient::Noted(client) => return Ok(Some(client)),
            UseOfClient::News(client) => {
                let before = found.as_ref().and_then(Found::expiry);
                let until = used.extend(before, used.keep_until);
                let life =
                    Some(Life { until, now: used.at }).filter(|_| client.origin != ClientOrigin::Operator);
                if cells.swap(&cells.keys.client(id), found.as_ref(), &client, life).await? {
                    settle(cells, id).await?;
                    sole_clients::note(cells, &client, used).await?;
                    return Ok(Some(client));
                }
                found = of_use(cells, used).await?;
            }
        }
    }
}

/// Removes expired clients, and index entries of clients that Redis has already dropped.
pub(super) async fn sweep(cells: &Cells, now: UnixTime) -> Result<u64, StoreError> {
    let index = cells.keys.client_index();
    let mut removed = 0;
    loop {
        let range: [Value; 6] = [
            index.ends.as_str().into(),
            "-inf".into(),
            now.0.to_string().into(),
            "LIMIT".into(),
            0_i64.into(),
            SWEPT_AT_ONCE.into(),
        ];
        let ids: Vec<String> = cells.connection.run("ZRANGEBYSCORE", range.into()).await?;
        if ids.is_empty() {
            return Ok(removed);
        }
        for id in ids {
            let id = ClientId::try_from(id).map_err(|_| StoreError::Unreadable)?;
            let key = cells.keys.client(&id);
            let found = cells.read::<Client>(&key).await?;
            if let Some(found) = found.filter(|found| !found.is_live(now)) {
                cells.remove_found(&key, &found).await?;
            }
            settle(cells, &id).await?;
            removed += 1;
        }
    }
}
