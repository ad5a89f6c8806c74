//! The number and the history of changes that take access away. They show how old the data in Redis is
//! ([`super::age`]).

use std::sync::LazyLock;

use fred::types::Value;

use crate::store::StoreError;

use super::age_report::{AgeReport, Claim, Mark};
use super::connection::{Connection, Script};
use super::heartbeats::{Heartbeat, HeartbeatReport};
use super::keys::Keys;
use super::store_name::StoreName;

/// Number of changes in the history. Each replica reads the history every five seconds. If all changes that a
/// replica has seen have left the history, the replica cannot compare tokens, and compares only the number.
const REMEMBERED: u64 = 1024;

/// Collects the following values: the number (empty if absent), the latest token with its number, the earliest
/// number in the history, the number of a token, the claim, the number of the token in the claim, the number of the
/// last heartbeat of this process and of the process in the claim, and the highest number of a heartbeat. The keys
/// are the keys of the number, the history (a set of tokens sorted by their numbers), the claim, and the heartbeats.
/// The arguments are the token, which can be empty, and the random number of this process.
const TELL: &str = "local history = KEYS[2]
     local claim = redis.call('GET', KEYS[3]) or ''
     local claimed, claimant = string.match(claim, '^%d+ %d+ (%x+) %x+ %x+ (%x+) %d+$')
     local latest = redis.call('ZRANGE', history, -1, -1, 'WITHSCORES')
     local earliest = redis.call('ZRANGE', history, 0, 0, 'WITHSCORES')
     local told = {redis.call('GET', KEYS[1]) or '', latest[1] or '', latest[2] or '', earliest[2] or '',
       redis.call('ZSCORE', history, ARGV[1]) or '', claim, redis.call('ZSCORE', history, claimed or '') or '',
       redis.call('ZSCORE', KEYS[4], ARGV[2]) or '', redis.call('ZSCORE', KEYS[4], claimant or '') or '',
       redis.call('ZRANGE', KEYS[4], -1, -1, 'WITHSCORES')[2] or ''}";

static ASK: LazyLock<Script> = LazyLock::new(|| Script::made(&format!("{TELL} return told")));

/// Returns what [`ASK`] returns, and then increments the number, even if Redis is full, as `SWAP_ALTHOUGH_FULL` in
/// `cells.rs` does. The fifth key never exists. The further arguments are the new token, and the number of changes
/// that the history keeps.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::made(&format!(
        "{TELL}
         redis.call('DEL', KEYS[5])
         local number = redis.call('INCR', KEYS[1])
         redis.call('ZADD', history, number, ARGV[3])
         redis.call('ZREMRANGEBYSCORE', history, '-inf', number - tonumber(ARGV[4]))
         return told"
    ))
});

/// Writes a claim, even if Redis is full. The second key is one that never exists.
static LEAVE: LazyLock<Script> =
    LazyLock::new(|| Script::new("redis.call('DEL', KEYS[2]) redis.call('SET', KEYS[1], ARGV[1]) return 1"));

/// What Redis reports about the age of its data. Returns `None` if Redis has counted no change, and has no heartbeat.
/// `mark` is the change that the process looks for, and `process` is its random number.
pub(super) async fn report(
    connection: &Connection,
    keys: &Keys,
    (mark, process): (Option<Mark>, u64),
) -> Result<Option<AgeReport>, StoreError> {
    let (number, history, claim, heartbeats) =
        (keys.taken_away(), keys.history(), keys.claim(), keys.heartbeats());
    let keys = [number.as_str(), &history, &claim, &heartbeats];
    let told = connection.script(&ASK, &keys, vec![token_of(mark), text(process).into()]).await?;
    read(told)
}

/// Counts a change. Returns the report from just before the change, and the token of the change.
pub(super) async fn count(
    connection: &Connection,
    keys: &Keys,
    (mark, process): (Option<Mark>, u64),
) -> Result<(AgeReport, u64), StoreError> {
    let mut random = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let token = u64::from_be_bytes(random);
    let number = keys.taken_away();
    let none = format!("{number}:none");
    let keys = [number.as_str(), &keys.history(), &keys.claim(), &keys.heartbeats(), &none];
    let remembered = REMEMBERED.to_string().into();
    let arguments = vec![token_of(mark), text(process).into(), text(token).into(), remembered];
    let told = connection.script(&COUNT, &keys, arguments).await?;
    Ok((read(told)?.unwrap_or_default(), token))
}

/// Leaves a claim about what this process has seen, for processes that have seen less.
pub(super) async fn leave(connection: &Connection, keys: &Keys, claim: Claim) -> Result<(), StoreError> {
    let key = keys.claim();
    let Claim { seen, mark, heartbeat, store } = claim;
    let Mark { number, token } = mark.unwrap_or(Mark { number: 0, token: 0 });
    let Heartbeat { process, number: last } = heartbeat.unwrap_or(Heartbeat { process: 0, number: 0 });
    let row =
        format!("{seen} {number} {token:016x} {:016x} {:x} {process:016x} {last}", store.hash, store.begun);
    let keys = [key.as_str(), &format!("{key}:none")];
    connection.script::<u64>(&LEAVE, &keys, vec![row.into()]).await.map(|_| ())
}

/// Reads what [`leave`] wrote.
fn claim_in(row: &str) -> Option<Claim> {
    let [seen, number, token, hash, begun, process, last] =
        <[&str; 7]>::try_from(row.split(' ').collect::<Vec<_>>()).ok()?;
    let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
    let mark = Mark { number: number.parse().ok()?, token: hexadecimal(token)? };
    let mark = (mark.number > 0).then_some(mark);
    let heartbeat = Heartbeat { process: hexadecimal(process)?, number: last.parse().ok()? };
    let heartbeat = (heartbeat.number > 0).then_some(heartbeat);
    let store = StoreName { begun: hexadecimal(begun)?, hash: hexadecimal(hash)? };
    Some(Claim { seen: seen.parse().ok()?, mark, heartbeat, store })
}

fn token_of(mark: Option<Mark>) -> Value {
    mark.map_or_else(String::new, |mark| text(mark.token)).into()
}

/// A random number in the form in which it is stored in Redis.
pub(super) fn text(token: u64) -> String {
    format!("{token:016x}")
}

fn read(told: Vec<String>) -> Result<Option<AgeReport>, StoreError> {
    let [number, token, of_latest, earliest, of_asked, claim, of_claimed, own, of_claim, last] =
        <[String; 10]>::try_from(told).map_err(|_| StoreError::Unreadable)?;
    let read = |text: &str| match text {
        "" => Ok(None),
        text => text.parse::<u64>().map(Some).map_err(|_| StoreError::Unreadable),
    };
    let latest = read(&of_latest)?
        .map(|number| {
            let token = u64::from_str_radix(&token, 16).map_err(|_| StoreError::Unreadable)?;
            Ok(Mark { number, token })
        })
        .transpose()?;
    let (earliest, number_of_asked, number_of_claimed) =
        (read(&earliest)?, read(&of_asked)?, read(&of_claimed)?);
    let (number, claim) = (read(&number)?, claim_in(&claim));
    let heartbeats = HeartbeatReport { own: read(&own)?, of_claim: read(&of_claim)?, latest: read(&last)? };
    if number.is_none() && claim.is_none() && heartbeats.latest.is_none() {
        return Ok(None);
    }
    let number = number.unwrap_or_default();
    Ok(Some(AgeReport { number, latest, earliest, number_of_asked, claim, number_of_claimed, heartbeats }))
}
