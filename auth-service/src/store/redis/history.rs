//! The number and the history of changes that take something away. They show how old the data in Redis are
//! ([`super::age`]).

use std::sync::LazyLock;

use fred::types::Value;

use crate::store::StoreError;

use super::age::{AgeReport, Mark};
use super::cells::Cells;
use super::connection::Script;

/// Number of changes in the history. Each replica asks every five seconds. If all changes that it has seen
/// have left the history, it cannot compare tokens, and only compares the number.
const REMEMBERED: u64 = 1024;

/// Collects the number (empty if absent), the latest token with its number, the earliest number in the
/// history, and the number of a token. The keys are those of the number and of the history, which is a set of
/// tokens, sorted by their numbers. The argument is the token, which may be empty.
const TELL: &str = "local history = KEYS[2]
     local latest = redis.call('ZRANGE', history, -1, -1, 'WITHSCORES')
     local earliest = redis.call('ZRANGE', history, 0, 0, 'WITHSCORES')
     local told = {redis.call('GET', KEYS[1]) or '', latest[1] or '', latest[2] or '', earliest[2] or '',
       redis.call('ZSCORE', history, ARGV[1]) or ''}";

static ASK: LazyLock<Script> = LazyLock::new(|| Script::made(&format!("{TELL} return told")));

/// Returns what [`ASK`] returns, and then increments the number, even if Redis is full, as
/// `SWAP_ALTHOUGH_FULL` in `cells.rs` does. The third key is one that never exists. The further arguments are
/// the new token, and the number of changes that the history keeps.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    Script::made(&format!(
        "{TELL}
         redis.call('DEL', KEYS[3])
         local number = redis.call('INCR', KEYS[1])
         redis.call('ZADD', history, number, ARGV[2])
         redis.call('ZREMRANGEBYSCORE', history, '-inf', number - tonumber(ARGV[3]))
         return told"
    ))
});

/// What Redis says about its age. Returns `None` if it has counted no change.
pub(super) async fn report(cells: &Cells, asked: Option<Mark>) -> Result<Option<AgeReport>, StoreError> {
    let (number, history) = (cells.keys.taken_away(), cells.keys.history());
    let told = cells.connection.script(&ASK, &[&number, &history], vec![token_of(asked)]).await?;
    read(told)
}

/// Counts a change. Returns what Redis said just before, and the token of the change.
pub(super) async fn count(cells: &Cells, asked: Option<Mark>) -> Result<(AgeReport, u64), StoreError> {
    let mut random = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let token = u64::from_be_bytes(random);
    let number = cells.keys.taken_away();
    let keys = [number.as_str(), &cells.keys.history(), &format!("{number}:none")];
    let arguments = vec![token_of(asked), text(token).into(), REMEMBERED.to_string().into()];
    let told = cells.connection.script(&COUNT, &keys, arguments).await?;
    Ok((read(told)?.unwrap_or_default(), token))
}

fn token_of(mark: Option<Mark>) -> Value {
    mark.map_or_else(String::new, |mark| text(mark.token)).into()
}

fn text(token: u64) -> String {
    format!("{token:016x}")
}

fn read(told: Vec<String>) -> Result<Option<AgeReport>, StoreError> {
    let [number, token, of_latest, earliest, of_asked] =
        <[String; 5]>::try_from(told).map_err(|_| StoreError::Unreadable)?;
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
    let (earliest, number_of_asked) = (read(&earliest)?, read(&of_asked)?);
    Ok(read(&number)?.map(|number| AgeReport { number, latest, earliest, number_of_asked }))
}
