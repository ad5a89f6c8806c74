//! Export, import and re-encryption of the whole store. These search for keys (`SCAN`), as does the creation of a
//! store in an empty Redis.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use async_trait::async_trait;
use fred::types::Value;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::domain::account::{Account, Subject};
use crate::domain::client::Client;
use crate::domain::clock::UnixTime;
use crate::domain::clock_watch::TOLERANCE;
use crate::domain::consent::Consent;
use crate::domain::device::DeviceAuthorization;
use crate::domain::grant::Grant;
use crate::keys::seal::StoreKey;
use crate::store::records::{BATCH, Kind, Portable, Record, Resealed, Sink, nobody_receives};
use crate::store::rules::CodeRow;
use crate::store::transfer::{Target, TargetError};
use crate::store::{Installation as _, Store, StoreError};

use super::address::RedisAddress;
use super::cells::{Cells, Found, Life};
use super::holdings::{self, New};
use super::keys::Named;
use super::store_name::StoreName;
use super::tries::Tries;
use super::{KEY_CHECK, RedisStore, UNFINISHED, clients, identity, sole_clients};

/// Number of rows that are read or written at the same time.
const AT_ONCE: usize = 64;
/// How many times a write of an import is tried. Writing a record twice does no harm.
const WRITES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(250);

#[async_trait]
impl Portable for RedisStore {
    async fn export(&self, now: UnixTime, to: Sink) -> Result<(), StoreError> {
        let cells = &self.cells;
        // A scan can return a key twice. Keys are distinguished by 64 bits of their hash. Two different keys have
        // the same bits with a probability of about 10^-19.
        let mut seen = HashSet::new();
        let mut batch = Vec::with_capacity(BATCH);
        let mut pages = cells.connection.scan(cells.keys.all());
        while let Some(mut page) = pages.try_next().await? {
            page.retain(|key| seen.insert(short(key)));
            let mut records = stream::iter(page).map(|key| record(cells, key, now)).buffer_unordered(AT_ONCE);
            while let Some(record) = records.try_next().await? {
                batch.extend(record);
            }
            if batch.len() >= BATCH {
                to.send(std::mem::take(&mut batch)).await.map_err(nobody_receives)?;
            }
        }
        if batch.is_empty() { Ok(()) } else { to.send(batch).await.map_err(nobody_receives) }
    }

    async fn reseal(&self) -> Result<Resealed, StoreError> {
        let cells = &self.cells;
        let check = cells.keys.key_check();
        let mut resealed = Resealed::default();
        let mut seen = HashSet::new();
        let mut pages = cells.connection.scan(cells.keys.all());
        while let Some(mut page) = pages.try_next().await? {
            page.retain(|key| {
                !matches!(cells.keys.named(key), Some(Named::Index))
                    && *key != check
                    && seen.insert(short(key))
            });
            let mut rows = stream::iter(page).map(|key| reseal(cells, key)).buffer_unordered(AT_ONCE);
            while let Some(changed) = rows.try_next().await? {
                resealed.rows += 1;
                resealed.changed += u64::from(changed);
            }
        }
        // The key-check row is last. As long as it is encrypted with the previous key, that key is still
        // needed.
        resealed.rows += 1;
        resealed.changed += u64::from(reseal(cells, check).await?);
        Ok(resealed)
    }

    fn key(&self) -> &StoreKey {
        &self.key
    }
}

fn short(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

async fn reseal(cells: &Cells, key: String) -> Result<bool, StoreError> {
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        match cells.resealed(&key).await? {
            Some(true) => return Ok(true),
            Some(false) => {}
            None => return Ok(false),
        }
    }
}

/// The record at a key. Returns `None` for rows that only point to other rows, and for expired ones.
async fn record(cells: &Cells, key: String, now: UnixTime) -> Result<Option<Record>, StoreError> {
    let (kind, name) = match cells.keys.named(&key) {
        Some(Named::Record(kind, name)) => (kind, name.to_owned()),
        Some(Named::Pointer | Named::Index) => return Ok(None),
        None => {
            return Err(StoreError::Unavailable(format!(
                "this release does not support the key {key}: export with the release that created it"
            )));
        }
    };
    let Some((json, until)) = cells.json(&key).await? else { return Ok(None) };
    if until.is_some_and(|until| until <= now) {
        return Ok(None);
    }
    let record = Record::new(kind, name, until, json)?;
    // The keys of these kinds contain only the hash of the name.
    let name = match kind {
        Kind::Client => record.read::<Client>()?.id.as_str().to_owned(),
        Kind::Grant => record.read::<Grant>()?.id.as_str().to_owned(),
        Kind::Account => {
            let account: Account = record.read()?;
            let led_to = cells.read::<Subject>(&cells.keys.username(&account.username)).await?;
            if led_to.is_none_or(|found| found.value != account.subject) {
                // No user name points to this account, so it does not exist.
                return Ok(None);
            }
            account.subject.as_str().to_owned()
        }
        _ => return Ok(Some(record)),
    };
    Ok(Some(Record { name, ..record }))
}

/// Writes a record, and the rows that point to it.
async fn put(cells: &Cells, record: &Record, now: UnixTime) -> Result<(), StoreError> {
    let life = record.until.map(|until| Life { until, now });
    let name = record.name.as_str();
    let json = record.value.get().as_bytes();
    let mut key = cells.keys.of(record.kind, name);
    match record.kind {
        Kind::Code => {
            let grant = record.read::<CodeRow>()?.code.grant_id;
            key = cells.keys.code_below(&grant, name);
            cells.write_for(&cells.keys.of_code(name), &grant, life).await?;
        }
        Kind::Device => {
            let grant = record.read::<DeviceAuthorization>()?.grant_id;
            key = cells.keys.device_below(&grant, name);
            cells.write_for(&cells.keys.of_device(name), &grant, life).await?;
        }
        Kind::Grant => {
            let grant: Grant = record.read()?;
            if life.is_some() && grant.refresh.is_some() {
                holdings::enter(cells, &New::grant(&grant, grant.last_used_at()), now).await?;
            }
        }
        Kind::Session if life.is_some() => {
            holdings::enter(cells, &New::session(&record.read()?), now).await?;
        }
        Kind::Consent => {
            let consent: Consent = record.read()?;
            if let Some(life) = life {
                holdings::enter(cells, &New::consent(name, &consent.subject, life), now).await?;
            }
        }
        Kind::Account => {
            let account: Account = record.read()?;
            let member: Value = account.subject.as_str().into();
            cells.connection.run::<()>("SADD", vec![cells.keys.account_index().into(), member]).await?;
            cells.write_for(&cells.keys.username(&account.username), &account.subject, None).await?;
        }
        Kind::Client => {
            cells.write_json(&key, json, life).await?;
            let client: Client = record.read()?;
            clients::settle(cells, &client.id).await?;
            return sole_clients::add(cells, &client, life).await;
        }
        _ => {}
    }
    cells.write_json(&key, json, life).await
}

async fn put_surely(cells: &Cells, record: Record, now: UnixTime) -> Result<(), StoreError> {
    let mut tries = 1;
    loop {
        match put(cells, &record, now).await {
            Err(StoreError::Unavailable(_)) if tries < WRITES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// A Redis server that is being filled by an import. Until the import is finished, it is marked as unfinished, so
/// that no service starts with it or reports itself ready.
pub struct RedisTarget {
    store: RedisStore,
    /// When the store that is being replaced was created, if there is one.
    replaced: Option<u64>,
}

impl RedisTarget {
    /// Prepares the Redis at `address` as a target whose values are encrypted with `key`. `now` is the time
    /// of this machine's clock.
    ///
    /// # Errors
    /// Fails if Redis has content, unless `replace` is set or the content is from an interrupted import, in which
    /// case it is removed. Also fails if the clock of Redis shows a different time, or if Redis cannot be reached
    /// or used.
    pub async fn new(
        address: &RedisAddress,
        key: &StoreKey,
        replace: bool,
        now: UnixTime,
    ) -> Result<Self, TargetError> {
        Self::below(address, key, super::PREFIX, replace, now).await
    }

    /// Like [`RedisTarget::new`], but with a prefix as in [`RedisStore::connect_below`].
    pub async fn below(
        address: &RedisAddress,
        key: &StoreKey,
        prefix: &str,
        replace: bool,
        now: UnixTime,
    ) -> Result<Self, TargetError> {
        let store = RedisStore::unchecked(address, key, prefix).await?;
        let is_apart = |own: &UnixTime| own.distance(now) > TOLERANCE;
        if let Some(own) = store.own_time().await?.filter(is_apart) {
            return Err(TargetError::Clock { store: own, here: now });
        }
        let cells = &store.cells;
        cells.age.replace();
        let check = cells.keys.key_check();
        let begun = match cells.read::<String>(&check).await {
            Ok(found) => found.is_some_and(|found| found.value == UNFINISHED),
            Err(StoreError::Unreadable) if replace => false,
            Err(error) => return Err(error.into()),
        };
        let mut pages = cells.connection.scan(cells.keys.all());
        let mut all = Vec::new();
        while let Some(page) = pages.try_next().await? {
            // The row that a service writes as a test does not count as content, and neither does the identity of
            // a store in which nothing has been stored.
            let others = page.into_iter().filter(|key| *key != check && *key != cells.keys.writable());
            all.extend(others);
            let has_content = all.iter().any(|key| *key != cells.keys.identity());
            if has_content && !begun && !replace {
                return Err(TargetError::NotEmpty(address.to_string()));
            }
        }
        // An identity that was encrypted with a different key cannot be read, but no replica with this key has
        // used that store.
        let replaced = cells.read_of_any_age::<String>(&cells.keys.identity()).await.ok().flatten();
        let replaced = replaced.map(|found| StoreName::of(&found.value).begun);
        cells.write_for(&check, &UNFINISHED, None).await?;
        let removed = stream::iter(all).map(|key| async move { cells.remove(&key).await });
        removed.buffer_unordered(AT_ONCE).try_for_each(|_| std::future::ready(Ok(()))).await?;
        Ok(Self { store, replaced })
    }
}

#[async_trait]
impl Target for RedisTarget {
    async fn put(&mut self, records: Vec<Record>, now: UnixTime) -> Result<(), StoreError> {
        let cells = &self.store.cells;
        let live = records.into_iter().filter(|record| record.until.is_none_or(|until| until > now));
        let writes = stream::iter(live).map(|record| put_surely(cells, record, now));
        writes.buffer_unordered(AT_ONCE).try_for_each(|()| std::future::ready(Ok(()))).await
    }

    fn content(&self) -> Result<&dyn Store, StoreError> {
        Ok(&self.store)
    }

    fn removes_expired(&self) -> bool {
        true
    }

    async fn finish(self) -> Result<(), TargetError> {
        let cells = &self.store.cells;
        let check = cells.keys.key_check();
        let found: Option<Found<String>> = cells.read(&check).await?;
        if found.as_ref().is_none_or(|found| found.value != UNFINISHED) {
            let reason = "Redis was emptied or filled by another process during the import".to_owned();
            return Err(StoreError::Unavailable(reason).into());
        }
        cells
            .write_for(
                &cells.keys.identity(),
                &identity::new(&cells.connection, &cells.keys, self.replaced).await?,
                None,
            )
            .await?;
        cells.swap(&check, found.as_ref(), &KEY_CHECK, None).await?;
        Ok(())
    }
}
