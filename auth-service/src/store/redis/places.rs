//! The pools of devices and of pushed requests. Each is a sorted set whose members stand for rows in other slots.
//! A slot is reserved before its row is written, and a row is deleted before its slot is freed, so that every row
//! has a slot.

use std::sync::LazyLock;

use fred::types::Value;
use futures_util::future::try_join_all;

use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::domain::pushed_request::PushedRequest;
use crate::keys::seal::StoreKey;
use crate::store::places::{Place, giving_way};
use crate::store::records::Kind;
use crate::store::{Admission, StoreError};

use super::cells::Cells;
use super::connection::Script;

/// Reserves a slot. The key is the set of reserved slots, sorted by their expiry. The arguments are the name of
/// the slot, its expiry, the current time and the ceiling.
static RESERVE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
         if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
         redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
         return 1",
    )
});

/// Reserves a slot in a pool until the slot expires.
pub(super) async fn reserve(
    cells: &Cells,
    pool: &str,
    name: String,
    (until, now): (UnixTime, UnixTime),
    ceiling: u64,
) -> Result<Admission, StoreError> {
    let arguments =
        vec![name.into(), until.0.to_string().into(), now.0.to_string().into(), ceiling.to_string().into()];
    let is_reserved: bool = cells.connection.script(&RESERVE, &[pool], arguments).await?;
    Ok(if is_reserved { Admission::Admitted } else { Admission::Full })
}

/// Takes a slot for a pushed request. If the pool is full, deletes other requests, if the rules of the pool allow this.
pub(super) async fn take(
    cells: &Cells,
    key: &StoreKey,
    handle: &TokenHash,
    request: &PushedRequest,
    earliest: UnixTime,
) -> Result<Admission, StoreError> {
    let pool = cells.keys.pool(request.pool);
    let member = member(key, handle, request)?;
    let ceiling = u64::try_from(request.pool.places()).unwrap_or(u64::MAX);
    let times = (request.expires_at, earliest);
    if let Admission::Admitted = reserve(cells, &pool, member.clone(), times, ceiling).await? {
        return Ok(Admission::Admitted);
    }
    // Only one call in this process at a time reads a full pool. The others use the slots that it has freed.
    let _alone = cells.making_room.lock().await;
    if let Admission::Admitted = reserve(cells, &pool, member.clone(), times, ceiling).await? {
        return Ok(Admission::Admitted);
    }
    let range: [Value; 3] = [pool.as_str().into(), 0_i64.into(), (-1_i64).into()];
    let members: Vec<String> = cells.connection.run("ZRANGE", range.into()).await?;
    let places: Vec<Place> = members.iter().map(|member| read(member)).collect();
    let leaving = giving_way(&places);
    if leaving.is_empty() {
        return Ok(Admission::Full);
    }
    let rows = leaving.iter().map(|place| cells.keys.of(Kind::PushedRequest, &place.name));
    try_join_all(rows.map(|row| async move { cells.remove(&row).await })).await?;
    let members = leaving.iter().map(|place| Value::from(written(place)));
    let command = [Value::from(pool.as_str())].into_iter().chain(members).collect();
    cells.connection.run::<i64>("ZREM", command).await?;
    reserve(cells, &pool, member, times, ceiling).await
}

/// Frees the slot of a request after the user has decided on it.
pub(super) async fn leave(
    cells: &Cells,
    key: &StoreKey,
    handle: &TokenHash,
    request: &PushedRequest,
) -> Result<(), StoreError> {
    let member = member(key, handle, request)?;
    let command = vec![cells.keys.pool(request.pool).into(), member.into()];
    cells.connection.run::<i64>("ZREM", command).await.map(|_| ())
}

/// The member of a request. Members are not encrypted. Therefore they contain only names of the client, accounts
/// or network that cannot be computed without the store key.
fn member(key: &StoreKey, handle: &TokenHash, request: &PushedRequest) -> Result<String, StoreError> {
    let name = |text: &str| {
        let name = key.name_of(text).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok::<_, StoreError>(TokenHash::of(&name).text().chars().take(16).collect::<String>())
    };
    let client = name(request.client_id.as_str())?;
    let counts_for = request.counts_for.iter().map(|payer| name(payer)).collect::<Result<_, _>>()?;
    Ok(written(&Place { client, counts_for, name: handle.text() }))
}

fn written(place: &Place) -> String {
    format!("{} {} {}", place.client, place.counts_for.join(","), place.name)
}

/// Reads a member. If this program has not written the member, the request is charged to the empty name.
fn read(member: &str) -> Place {
    let mut parts = member.rsplitn(3, ' ');
    let name = parts.next().unwrap_or_default().to_owned();
    let counts_for = parts.next().unwrap_or_default().split(',').map(str::to_owned).collect();
    Place { client: parts.next().unwrap_or_default().to_owned(), counts_for, name }
}
