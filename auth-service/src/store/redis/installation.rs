//! Information about the Redis store itself.

use std::sync::LazyLock;

use async_trait::async_trait;

use crate::domain::clock::UnixTime;
use crate::domain::clock_watch::ClockMark;
use crate::store::Installation;
use crate::store::{LOST, Replacement, StoreError};

use super::RedisStore;
use super::cells::Found;
use super::connection::Script;
use super::errors::lacks_permission;

/// The time on the server's clock, in seconds.
static TIME: LazyLock<Script> = LazyLock::new(|| Script::new("return redis.call('TIME')[1]"));
/// The server's information about itself.
static INFO: LazyLock<Script> = LazyLock::new(|| Script::new("return redis.call('INFO', 'default')"));

#[async_trait]
impl Installation for RedisStore {
    async fn identity(&self) -> Result<Option<String>, StoreError> {
        self.cells.identity().await
    }

    async fn identify(&self, identity: &str) -> Result<(), StoreError> {
        // The store got its identity when this process connected. If it is missing now, it has been lost, perhaps
        // together with other rows.
        if self.cells.age.has_identity() {
            return Err(StoreError::NeedsOperator(LOST.to_owned()));
        }
        let absent: Option<&Found<String>> = None;
        self.cells.swap(&self.cells.keys.identity(), absent, &identity, None).await.map(|_| ())
    }

    async fn clock_mark(&self) -> Result<Option<ClockMark>, StoreError> {
        Ok(self.cells.read(&self.cells.keys.clock()).await?.map(|found| found.value))
    }

    async fn set_clock_mark(
        &self,
        seen: Option<ClockMark>,
        mark: ClockMark,
    ) -> Result<Replacement, StoreError> {
        let key = self.cells.keys.clock();
        let found = self.cells.read::<ClockMark>(&key).await?;
        if found.as_ref().map(|found| found.value) != seen {
            return Ok(Replacement::Outdated);
        }
        let is_replaced = self.cells.swap(&key, found.as_ref(), &mark, None).await?;
        Ok(if is_replaced { Replacement::Replaced } else { Replacement::Outdated })
    }

    async fn own_time(&self) -> Result<Option<UnixTime>, StoreError> {
        let said: Option<String> = self.answer_of(&TIME).await?;
        Ok(said.and_then(|text| text.parse().ok()).map(UnixTime))
    }

    async fn dangers(&self) -> Result<Vec<String>, StoreError> {
        let mut dangers = self.answer_of(&INFO).await?.map(|info| dangers_in(&info)).unwrap_or_default();
        let connection = self.cells.connection.danger();
        dangers.extend(self.cells.age.dangers().chain(connection).map(str::to_owned));
        Ok(dangers)
    }
}

impl RedisStore {
    /// The result of a script. Returns `None` if the Redis user has no permission to run it (ACL).
    async fn answer_of(&self, script: &Script) -> Result<Option<String>, StoreError> {
        let key = self.cells.keys.key_check();
        match self.cells.connection.script(script, &[&key], Vec::new()).await {
            Ok(text) => Ok(Some(text)),
            Err(error) if lacks_permission(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The oldest major version that supports all commands that are used, such as `SET` with `KEEPTTL`, and `CLIENT
/// TRACKING`.
const OLDEST: u64 = 6;

/// The settings in the output of `INFO` that can cause rows to be lost.
fn dangers_in(info: &str) -> Vec<String> {
    let value = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
    };
    let mut dangers = Vec::new();
    let version = value("redis_version");
    let major = version.split('.').next().and_then(|major| major.parse::<u64>().ok());
    if major.is_some_and(|major| major < OLDEST) {
        dangers.push(format!(
            "Redis {version} is too old: users, clients and keys cannot be disabled or revoked, and every check waits for \
             Redis. Use Redis {OLDEST} or later"
        ));
    }
    let policy = value("maxmemory_policy");
    if !matches!(policy, "" | "noeviction") && value("maxmemory") != "0" {
        dangers.push(format!(
            "Redis evicts rows when it is full (maxmemory-policy {policy}; {} so far): accounts, clients and revocations \
             among them. Set maxmemory-policy noeviction",
            value("evicted_keys")
        ));
    }
    if value("aof_enabled") == "0" {
        dangers.push(
            "Redis writes no append-only file: changes that it acknowledged since its last snapshot are lost when it stops. Set \
             appendonly yes"
                .to_owned(),
        );
    }
    dangers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_is_too_old_is_told() {
        let [told] = &*dangers_in("redis_version:5.0.14\r\naof_enabled:1\r\n") else { panic!("one danger") };
        assert!(told.contains("5.0.14 is too old") && told.contains("Use Redis 6"), "{told}");
        for new in
            ["redis_version:6.0.0\r\naof_enabled:1\r\n", "redis_version:7.2.4\r\nvalkey_version:9.0.0\r\n"]
        {
            assert!(dangers_in(new).is_empty(), "{new}");
        }
    }

    #[test]
    fn eviction_and_a_missing_log_are_told() {
        let info =
            "maxmemory:1048576\r\nmaxmemory_policy:allkeys-lru\r\nevicted_keys:15\r\naof_enabled:0\r\n";
        let [eviction, log] = &*dangers_in(info) else { panic!("two dangers") };
        assert!(eviction.contains("allkeys-lru; 15 so far"), "{eviction}");
        assert!(log.contains("appendonly yes"), "{log}");
        for harmless in [
            "maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:1\r\n",
            "maxmemory:1048576\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\n",
            "",
        ] {
            assert!(dangers_in(harmless).is_empty(), "{harmless}");
        }
    }
}
