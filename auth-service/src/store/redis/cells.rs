//! Encrypted values in Redis, and how they are changed. Redis cannot read them, so the process reads a row,
//! decides on the change, and writes the row on the condition that it has not changed in between.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use fred::bytes::Bytes;
use fred::types::Value;
use futures_util::future::try_join;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::account::Subject;
use crate::domain::clock::UnixTime;
use crate::domain::clock_watch::TOLERANCE;
use crate::keys::seal::Sealer;
use crate::store::changes::Changes;
use crate::store::{StoreError, row};

use super::age::Age;
use super::connection::{Connection, Script};
use super::keys::Keys;
use super::server_clock::{Deadline, refuse_late};
use super::turns::{Turn, Turns};

/// How long Redis keeps a row after its expiry. The expiry in the row itself decides, compared with the clock of a
/// replica. That clock can differ from the clock of Redis by [`TOLERANCE`], and a code or proof that has been used
/// must stay used (attack 33).
const MARGIN: Duration = TOLERANCE.saturating_add(Duration::from_secs(60));
/// Maximum lifetime of a row in Redis, which keeps its arithmetic within bounds.
const MAX_LIFETIME: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Replaces or removes a row if it is still the one that was read. The key is the row's key. The arguments are the
/// row as it was read (empty if absent), the new row (empty to remove it), and its lifetime in milliseconds (0 for
/// no expiry).
static SWAP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local row = redis.call('GET', KEYS[1]) or ''
         if row ~= ARGV[1] then return 0 end
         if ARGV[2] == '' then redis.call('DEL', KEYS[1])
         elseif ARGV[3] == '0' then redis.call('SET', KEYS[1], ARGV[2])
         else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
         return 1",
    )
});

/// Like `SWAP`, unless the deadline in the fourth argument has passed.
static SWAP_IN_TIME: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        refuse_late!("ARGV[4]"),
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
         return 1"
    ))
});

/// Like `SWAP`, but the row keeps its current expiry in Redis.
static SWAP_KEEPING: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local row = redis.call('GET', KEYS[1]) or ''
         if row ~= ARGV[1] then return 0 end
         redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
         return 1",
    )
});

/// Like `SWAP` with a row that never expires, but it succeeds even if Redis has reached `maxmemory`. Redis refuses
/// a command that needs memory only as the first write of a script, so a second key, which never exists, is
/// deleted before it. The new row is about as long as the old one. A script with the flag `allow-oom` would do the
/// same, but only from Redis 7 on.
static SWAP_ALTHOUGH_FULL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local row = redis.call('GET', KEYS[1]) or ''
         if row ~= ARGV[1] then return 0 end
         redis.call('DEL', KEYS[2])
         redis.call('SET', KEYS[1], ARGV[2])
         return 1",
    )
});

/// Removes a row, and returns it (empty if absent).
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new("local row = redis.call('GET', KEYS[1]) or '' redis.call('DEL', KEYS[1]) return row")
});

/// Swaps the first row and writes the second in the same step. The arguments are the first row as it was read, the
/// new first row and its lifetime, the second row and its lifetime, and the deadline. Lifetimes are in milliseconds.
static SWAP_AND_ADD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        refuse_late!("ARGV[6]"),
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
         redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
         return 1"
    ))
});

pub(super) struct Cells {
    pub(super) connection: Connection,
    pub(super) keys: Keys,
    pub(super) sealer: Sealer,
    pub(super) changes: Arc<Changes>,
    pub(super) age: Arc<Age>,
    pub(super) turns: Turns,
    /// Locked while a call chooses which pushed requests lose their slots, so that only one call does so at a
    /// time.
    pub(super) making_room: tokio::sync::Mutex<()>,
}

/// A value, and the row from which it was read.
pub(super) struct Found<T> {
    pub(super) value: T,
    row: Bytes,
}

impl<T> Found<T> {
    pub(super) fn is_live(&self, now: UnixTime) -> bool {
        !row::is_over(&self.row, now)
    }

    /// The time at which the row expires. Returns `None` if the row does not expire.
    pub(super) fn expiry(&self) -> Option<UnixTime> {
        row::expiry(&self.row)
    }

    /// Whether both are the same version of the value.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.row == other.row
    }
}

/// The expiry of a row together with the current time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    pub(super) until: UnixTime,
    pub(super) now: UnixTime,
}

impl Life {
    pub(super) fn milliseconds(self) -> String {
        let left = self.until.since(self.now).saturating_add(MARGIN).min(MAX_LIFETIME);
        left.as_millis().to_string()
    }
}

fn milliseconds(life: Option<Life>) -> Value {
    life.map_or_else(|| "0".to_owned(), Life::milliseconds).into()
}

fn bytes(row: Vec<u8>) -> Value {
    Value::Bytes(row.into())
}

impl Cells {
    /// Records a change of `key` for this process's caches, so that they need not wait until Redis reports it. It
    /// is called after every write, even if the outcome of the write is unknown.
    fn note(&self, key: &str) {
        if let Some((about, hash)) = self.keys.about(key) {
            self.changes.note_hashed(about, hash);
        }
    }

    /// Waits until no other call in this process changes the rows of this account.
    pub(super) async fn turn(&self, account: &Subject) -> Turn<'_> {
        self.turns.next(account).await
    }

    fn seal<T: Serialize>(&self, key: &str, value: &T, life: Option<Life>) -> Result<Vec<u8>, StoreError> {
        row::seal(&self.sealer, key.as_bytes(), value, life.map(|life| life.until))
    }

    /// The value at `key`, even if it has expired.
    pub(super) async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Found<T>>, StoreError> {
        if self.age.has_to_be_read() {
            self.age_checked().await?;
        }
        self.read_of_any_age(key).await
    }

    pub(super) async fn read_of_any_age<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<Found<T>>, StoreError> {
        let row: Option<Bytes> = self.connection.run("GET", vec![key.into()]).await?;
        row.map(|row| Ok(Found { value: row::open(&self.sealer, key.as_bytes(), &row)?, row })).transpose()
    }

    /// The value at `key`, unless it has expired.
    pub(super) async fn read_live<T: DeserializeOwned>(
        &self,
        key: &str,
        now: UnixTime,
    ) -> Result<Option<Found<T>>, StoreError> {
        Ok(self.read(key).await?.filter(|found| found.is_live(now)))
    }

    /// Like [`Cells::read_live`], for callers that will not change the value.
    pub(super) async fn live<T: DeserializeOwned>(
        &self,
        key: &str,
        now: UnixTime,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.read_live(key, now).await?.map(|found| found.value))
    }

    /// Writes a value, regardless of the previous one.
    pub(super) async fn write<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        life: Life,
    ) -> Result<(), StoreError> {
        let row = self.seal(key, value, Some(life))?;
        let arguments = vec![key.into(), bytes(row), "PX".into(), life.milliseconds().into()];
        let written = self.connection.run("SET", arguments).await;
        self.note(key);
        written
    }

    /// Like [`Cells::write`], but a value without a lifetime never expires.
    pub(super) async fn write_for<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        life: Option<Life>,
    ) -> Result<(), StoreError> {
        let json = serde_json::to_vec(value).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        self.write_json(key, &json, life).await
    }

    /// Like [`Cells::write_for`], for a value that is already JSON.
    pub(super) async fn write_json(
        &self,
        key: &str,
        json: &[u8],
        life: Option<Life>,
    ) -> Result<(), StoreError> {
        let row = row::seal_json(&self.sealer, key.as_bytes(), json, life.map(|life| life.until))?;
        let mut arguments = vec![key.into(), bytes(row)];
        if let Some(life) = life {
            arguments.extend(["PX".into(), life.milliseconds().into()]);
        }
        let written = self.connection.run("SET", arguments).await;
        self.note(key);
        written
    }

    /// The value at `key` as JSON, and its expiry.
    pub(super) async fn json(&self, key: &str) -> Result<Option<(Vec<u8>, Option<UnixTime>)>, StoreError> {
        let row: Option<Bytes> = self.connection.run("GET", vec![key.into()]).await?;
        row.map(|row| Ok((row::open_json(&self.sealer, key.as_bytes(), &row)?, row::expiry(&row))))
            .transpose()
    }

    /// Encrypts the row at `key` with the current key. Returns false if the row has changed in the meantime, and
    /// `None` if there was nothing to do.
    pub(super) async fn resealed(&self, key: &str) -> Result<Option<bool>, StoreError> {
        let row: Option<Bytes> = self.connection.run("GET", vec![key.into()]).await?;
        let Some(row) = row else { return Ok(None) };
        let Some(resealed) = row::resealed(&self.sealer, key.as_bytes(), &row)? else { return Ok(None) };
        self.change(&SWAP_KEEPING, &[key], vec![Value::Bytes(row), bytes(resealed)]).await.map(Some)
    }

    /// Writes a value if the row is still the one that was found. Returns whether it was written.
    pub(super) async fn swap<T: Serialize, U>(
        &self,
        key: &str,
        found: Option<&Found<U>>,
        value: &T,
        life: Option<Life>,
    ) -> Result<bool, StoreError> {
        let row = self.seal(key, value, life)?;
        let before = found.map(|found| found.row.clone()).unwrap_or_default();
        let arguments = vec![Value::Bytes(before), bytes(row), milliseconds(life)];
        self.change(&SWAP, &[key], arguments).await
    }

    /// Like [`Cells::swap`], but nothing is written after the deadline.
    pub(super) async fn swap_in_time<T: Serialize>(
        &self,
        key: &str,
        found: &Found<T>,
        value: &T,
        life: Life,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        let row = self.seal(key, value, Some(life))?;
        let arguments = vec![
            Value::Bytes(found.row.clone()),
            bytes(row),
            life.milliseconds().into(),
            deadline.argument(),
        ];
        self.change(&SWAP_IN_TIME, &[key], arguments).await
    }

    async fn change(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: Vec<Value>,
    ) -> Result<bool, StoreError> {
        let changed = self.connection.script(script, keys, arguments).await;
        for key in keys {
            self.note(key);
        }
        changed
    }

    /// Like [`Cells::swap`], but the row keeps its expiry.
    pub(super) async fn swap_keeping<T: Serialize, U>(
        &self,
        key: &str,
        found: &Found<U>,
        value: &T,
    ) -> Result<bool, StoreError> {
        let row = row::seal(&self.sealer, key.as_bytes(), value, row::expiry(&found.row))?;
        self.change(&SWAP_KEEPING, &[key], vec![Value::Bytes(found.row.clone()), bytes(row)]).await
    }

    /// Like [`Cells::swap`] with a row that never expires, but it succeeds even if Redis has reached `maxmemory`.
    /// It is for changes that take access away, and for changes by the operator.
    pub(super) async fn swap_although_full<T: Serialize>(
        &self,
        key: &str,
        found: &Found<T>,
        value: &T,
    ) -> Result<bool, StoreError> {
        let row = self.seal(key, value, None)?;
        let arguments = vec![Value::Bytes(found.row.clone()), bytes(row)];
        self.change(&SWAP_ALTHOUGH_FULL, &[key, &format!("{key}:none")], arguments).await
    }

    /// Writes two values in one slot if the first row is still the one that was found, and the deadline has
    /// not passed. Returns whether they were written.
    pub(super) async fn swap_and_add<T: Serialize, U: Serialize>(
        &self,
        swapped: (&str, &Found<T>, &T, Life),
        added: (&str, &U, Life),
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        let (key, found, value, life) = swapped;
        let (other_key, other, other_life) = added;
        let arguments = vec![
            Value::Bytes(found.row.clone()),
            bytes(self.seal(key, value, Some(life))?),
            life.milliseconds().into(),
            bytes(self.seal(other_key, other, Some(other_life))?),
            other_life.milliseconds().into(),
            deadline.argument(),
        ];
        self.change(&SWAP_AND_ADD, &[key, other_key], arguments).await
    }

    /// Removes a row if it is still the one that was found. Returns whether it was removed.
    pub(super) async fn remove_found<T>(&self, key: &str, found: &Found<T>) -> Result<bool, StoreError> {
        let arguments = vec![Value::Bytes(found.row.clone()), "".into(), "0".into()];
        self.change(&SWAP, &[key], arguments).await
    }

    /// Removes the row at `key`, and counts this as a change that takes access away. Returns whether there was a
    /// row.
    pub(super) async fn take_away(&self, key: &str) -> Result<bool, StoreError> {
        Ok(try_join(self.remove(key), self.count_change()).await?.0)
    }

    /// Like [`Cells::take_away`], but returns the value that was there. Returns `None` if it cannot be read,
    /// because an unreadable row must be removed as well.
    pub(super) async fn take_out<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let taken = async {
            let row: Result<Bytes, _> = self.connection.script(&TAKE, &[key], Vec::new()).await;
            self.note(key);
            row
        };
        let (row, ()) = try_join(taken, self.count_change()).await?;
        Ok(row::open(&self.sealer, key.as_bytes(), &row).ok())
    }

    /// Removes the row at `key`. Returns whether there was one.
    pub(super) async fn remove(&self, key: &str) -> Result<bool, StoreError> {
        let removed = self.connection.run("DEL", vec![key.into()]).await;
        self.note(key);
        removed
    }
}
