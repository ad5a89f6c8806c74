//! The Redis rows with the heartbeats of all processes, and with the times between which the store has been in use.

use std::sync::LazyLock;
use std::time::Duration;

use crate::store::StoreError;

use super::connection::{Connection, Script};
use super::heartbeats::{Heartbeat, HeartbeatPace, REMEMBERED, Written};
use super::history::text;
use super::keys::Keys;

/// Writes a heartbeat, even if Redis is full, as `SWAP_ALTHOUGH_FULL` in `cells.rs` does. It is not written to older
/// data, because it would then hide that the data is older. The keys are the set of processes sorted by the number of
/// their last heartbeat, the row with the times of use, and a key that never exists. The arguments are the process,
/// the minimum number of its last heartbeat (empty if there is none), how many heartbeats are remembered, and the
/// longest time in seconds between two heartbeats of a store that is in use. Returns the number of the heartbeat
/// (empty if it was not written) and the time of the server in seconds (empty if it cannot be read).
static WRITE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local own = redis.call('ZSCORE', KEYS[1], ARGV[1])
         if ARGV[2] ~= '' and (not own or tonumber(own) < tonumber(ARGV[2])) then return {'', ''} end
         local latest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
         local number = tonumber(latest[2] or '0') + 1
         redis.call('DEL', KEYS[3])
         redis.call('ZADD', KEYS[1], number, ARGV[1])
         redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', number - tonumber(ARGV[3]))
         local now = redis.pcall('TIME')
         if not now[2] then return {tostring(number), ''} end
         local since, last = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) (%d+)$')
         local passed = tonumber(now[1]) - tonumber(last or '0')
         if not last or passed < 0 or passed > tonumber(ARGV[4]) then since = now[1] end
         redis.call('SET', KEYS[2], since .. ' ' .. now[1])
         return {tostring(number), now[1]}",
    )
});

/// Returns the times of use, and the time of the server in seconds.
static USE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local now = redis.pcall('TIME')
         local since, last = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+)$')
         if not last or not now[2] then return {} end
         return {since, last, now[1]}",
    )
});

/// When the store in Redis has been in use, in seconds by the clock of Redis.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimesOfUse {
    /// The time since which the store has been in use without a gap.
    since: u64,
    last: u64,
    now: u64,
}

impl TimesOfUse {
    /// Whether this store was in use before another store was created at `begun` (in microseconds), and still is. If
    /// so, the other store has not replaced this one.
    pub(super) fn include_beginning_of(self, begun: u64, pace: HeartbeatPace) -> bool {
        let Self { since, last, now } = self;
        let is_in_use = last <= now && now - last <= pace.gap.as_secs();
        let since = Duration::from_secs(since).saturating_add(pace.margin);
        is_in_use && since < Duration::from_micros(begun)
    }
}

/// Writes a heartbeat of this process, unless the data lacks `settled`, the latest heartbeat that must exist.
pub(super) async fn write(
    connection: &Connection,
    keys: &Keys,
    process: u64,
    settled: Option<Heartbeat>,
    pace: HeartbeatPace,
) -> Result<Option<Written>, StoreError> {
    let row = keys.heartbeats();
    let at_least = settled.map_or_else(String::new, |heartbeat| heartbeat.number.to_string());
    let gap = pace.gap.as_secs().to_string();
    let arguments = vec![text(process).into(), at_least.into(), REMEMBERED.to_string().into(), gap.into()];
    let keys = [row.as_str(), &keys.times_of_use(), &format!("{row}:none")];
    let [number, at]: [String; 2] = connection
        .script::<Vec<String>>(&WRITE, &keys, arguments)
        .await?
        .try_into()
        .map_err(|_| StoreError::Unreadable)?;
    // If the data lacks the heartbeat, no number is returned.
    Ok(number.parse().ok().map(|number| Written { number, at: at.parse().ok() }))
}

/// Reads when the store has been in use. Returns `None` if this is unknown.
pub(super) async fn times_of_use(
    connection: &Connection,
    keys: &Keys,
) -> Result<Option<TimesOfUse>, StoreError> {
    let told: Vec<String> = connection.script(&USE, &[&keys.times_of_use()], Vec::new()).await?;
    let Ok([since, last, now]) = <[String; 3]>::try_from(told) else { return Ok(None) };
    let read = |text: &str| text.parse().map_err(|_| StoreError::Unreadable);
    Ok(Some(TimesOfUse { since: read(&since)?, last: read(&last)?, now: read(&now)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_was_in_use_before_and_after_another_one_was_created_is_not_replaced_by_it() {
        let pace = HeartbeatPace::default();
        let include =
            |since, last, now| TimesOfUse { since, last, now }.include_beginning_of(10_000_000_000, pace);
        assert!(include(9_000, 20_000, 20_010));
        assert!(!include(9_800, 20_000, 20_010), "the clocks of two servers can differ");
        assert!(!include(10_001, 20_000, 20_010));
        assert!(!include(9_000, 9_500, 20_000), "it is no longer in use");
        assert!(!include(9_000, 20_000, 19_000), "the clock of Redis was set back");
    }
}
