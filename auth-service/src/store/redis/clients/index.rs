//! The index of all clients. It lags behind the rows, which are in other slots: after every change to a client,
//! the client's index entry is updated from the current row.

use std::sync::LazyLock;

use fred::types::Value;
use futures_util::future::try_join_all;

use crate::domain::client::{Client, ClientId};
use crate::domain::clock::UnixTime;
use crate::store::StoreError;

use super::super::cells::{Cells, Found};
use super::super::connection::Script;
use super::super::tries::Tries;
use super::live;

/// Number of expired clients that are swept at a time.
const SWEPT_AT_ONCE: i64 = 256;

/// Adds an id to the index and removes as many of the oldest unused ids as exceed a ceiling. Returns the
/// removed ids. If not enough of them can be evicted, it changes nothing and returns an integer. The keys are
/// the sets `all`, `unused` and `ends`. The arguments are the id, the time from which it can be evicted, its
/// expiry, the ceiling, the maximum number to evict, the ceiling of unused clients and the current time.
pub(super) static CLAIM: LazyLock<Script> = LazyLock::new(|| {
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
/// the id, its expiry, and the time from which it can be evicted (empty if it cannot be). `ZREM` is first so
/// that this also works if Redis has reached `maxmemory`: Redis refuses a command that needs memory only as
/// the first write of a script.
static ENTER: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('ZREM', KEYS[2], ARGV[1])
         redis.call('ZADD', KEYS[1], 0, ARGV[1])
         redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
         if ARGV[3] ~= '' then redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1]) end
         return 1",
    )
});

/// Removes the index entry of a client. The keys are the sets `all`, `unused` and `ends`. The argument is the
/// id.
static LEAVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new("for _, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[1]) end return 1")
});

pub(super) async fn on_index<T: fred::prelude::FromValue>(
    cells: &Cells,
    script: &Script,
    arguments: Vec<Value>,
) -> Result<T, StoreError> {
    let index = cells.keys.client_index();
    cells.connection.script(script, &[&index.all, &index.unused, &index.ends], arguments).await
}

/// Updates the index entry from the current row, and repeats this if the row changes in the meantime. Every change
/// is followed by a call to this function, so the last caller has seen all changes.
pub(in super::super) async fn settle(cells: &Cells, id: &ClientId) -> Result<(), StoreError> {
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

async fn enter(cells: &Cells, id: &ClientId, found: &Found<Client>) -> Result<(), StoreError> {
    let end = found.expiry().unwrap_or(UnixTime(u64::MAX));
    let makes_room_from = match found.value.last_used_at {
        None if !found.value.stays() => found.value.makes_room_from().0.to_string(),
        _ => String::new(),
    };
    let arguments = vec![id.as_str().into(), end.0.to_string().into(), makes_room_from.into()];
    on_index(cells, &ENTER, arguments).await
}

/// Returns at most `most` live clients, ordered by identifier.
pub(in super::super) async fn page(
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

/// Removes expired clients, and index entries of clients that Redis has already dropped.
pub(in super::super) async fn sweep(cells: &Cells, now: UnixTime) -> Result<u64, StoreError> {
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
