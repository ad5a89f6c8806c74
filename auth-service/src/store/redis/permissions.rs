//! Checks that the Redis user has all permissions that are needed. Without this check, a command could be refused
//! for the first time months after startup, and leave a change incomplete.

use std::sync::LazyLock;

use crate::store::StoreError;

use super::cells::Cells;
use super::connection::Script;

/// Runs every command that is needed, on a key that has no other use. Returns the name of the first one that the
/// user has no permission to run, or an empty string. It ignores other errors, such as the error that a full Redis
/// returns.
static TRIAL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local trials = {
           {'DEL'}, {'INCR'}, {'GET'}, {'SET', '0', 'PX', '1000'}, {'DEL'},
           {'ZADD', '0', 'x'}, {'ZCARD'}, {'ZSCORE', 'x'}, {'ZRANGE', '0', '0'}, {'ZRANGEBYLEX', '-', '+'},
           {'ZRANGEBYSCORE', '0', '0'}, {'ZREM', 'x'}, {'ZREMRANGEBYSCORE', '0', '0'}, {'DEL'},
           {'SADD', 'x'}, {'SMEMBERS'}, {'SREM', 'x'}, {'DEL'}}
         for _, trial in ipairs(trials) do
           local answer = redis.pcall(trial[1], KEYS[1], unpack(trial, 2))
           if type(answer) == 'table' and answer.err then
             for _, said in ipairs({'NOPERM', 'ACL failure', 'run this command', 'no permissions'}) do
               if string.find(answer.err, said, 1, true) then return trial[1] end
             end
           end
         end
         return ''",
    )
});

/// Checks that the user has all permissions.
///
/// # Errors
/// Fails if a permission is missing, or if Redis cannot be reached.
pub(super) async fn check(cells: &Cells) -> Result<(), StoreError> {
    let missing: String = cells.connection.script(&TRIAL, &[&cells.keys.trial()], Vec::new()).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let command = missing.to_lowercase();
    Err(StoreError::Unavailable(format!(
        "the user in REDIS_URL has no permission for the command {command}: add +{command} to its ACL \
         (docs/adr/0003-redis-store.md lists all commands)"
    )))
}
