//! The clock of the Redis server, and writes that must not be executed late.
//!
//! A server that was stopped or cut off later executes the commands that it has received, long after their callers
//! have received an error. If a refresh token were replaced that late, the grace period might be over by the time
//! an honest client tries again. The attempt would then look like the use of a stolen copy, and the grant would be
//! revoked. Therefore, the write that replaces a refresh token has a deadline by the clock of the same server.

use std::sync::LazyLock;
use std::time::Duration;

use fred::types::Value;

use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::replaced_token::StoreTime;
use crate::store::StoreError;

use super::connection::{Connection, Script};
use super::errors::{COMMAND, lacks_permission};

/// The time on the server's clock, in microseconds.
static NOW: LazyLock<Script> = LazyLock::new(|| {
    Script::new("local now = redis.call('TIME') return now[1] .. string.format('%06d', now[2])")
});

/// Identifies the clock of Redis. All servers count as having the same clock.
const OF_REDIS: u64 = 0;

/// How long after the reading of the clock a write can be executed. Its caller reads, records the use of the
/// client, and writes. After the time limits of these three commands, the caller has given up.
const IN_TIME: Duration = COMMAND.saturating_mul(3);

/// The beginning of a script that returns 0 if the deadline in its argument has passed. The argument is empty
/// if there is none.
macro_rules! refuse_late {
    ($argument:literal) => {
        concat!(
            "if ",
            $argument,
            " ~= '' then
               local now = redis.pcall('TIME')
               if now[2] and now[1] * 1000000 + now[2] > tonumber(",
            $argument,
            ") then return 0 end
             end "
        )
    };
}
pub(super) use refuse_late;

/// The latest time, by a server's clock, at which the server executes a write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    /// The server's time when its clock was read, in microseconds.
    read_at: Option<u64>,
}

impl Deadline {
    /// The deadline for a write to this key, counted from now.
    pub(super) async fn of(connection: &Connection, key: &str) -> Result<Self, StoreError> {
        Ok(Self { read_at: microseconds(connection, key).await? })
    }

    /// The time at which the server's clock was read, if the caller's clock shows the real time, too.
    pub(super) fn read_at(self, used: &ClientUse) -> Option<StoreTime> {
        let read_at = self.read_at.filter(|_| used.is_time_of_day)?;
        Some(StoreTime { clock: OF_REDIS, at: UnixTime(read_at / 1_000_000) })
    }

    /// The deadline as the argument of a script. It is empty if there is no deadline.
    pub(super) fn argument(self) -> Value {
        let in_time = u64::try_from(IN_TIME.as_micros()).unwrap_or(u64::MAX);
        let at = self.read_at.map(|now| now.saturating_add(in_time));
        at.map_or_else(String::new, |at| at.to_string()).into()
    }
}

/// The time on the clock of the server that has this key, in microseconds. Returns `None` if the user has no
/// permission to read it.
pub(super) async fn microseconds(connection: &Connection, key: &str) -> Result<Option<u64>, StoreError> {
    let now: Result<String, _> = connection.script(&NOW, &[key], Vec::new()).await;
    match now {
        Ok(now) => now.parse().map(Some).map_err(|_| StoreError::Unreadable),
        Err(error) if lacks_permission(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
