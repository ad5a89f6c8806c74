//! Creates the store in an empty Redis, and refuses to create it if remains of another store exist.
//!
//! The row with the identity is the first one that is written, and it shows whether there is a store. If Redis
//! evicts this row, or somebody deletes it, other rows can remain. If a new store were created there, some
//! accounts, clients and tokens of the old store would still be valid, and nobody would notice.

use std::sync::LazyLock;

use fred::types::Value;
use futures_util::stream::TryStreamExt;

use crate::keys::seal::StoreKey;
use crate::store::StoreError;

use super::address::RedisAddress;
use super::cells::{Cells, Found};
use super::connection::Script;
use super::errors::lacks_permission;
use super::store_name::StoreName;
use super::{PREFIX, RedisStore, UNFINISHED, history, identity, permissions, unfit};

/// The error if a command does not find a store.
const NOT_BEGUN: &str = "there is no store of this service in Redis: the service has never been started with it, or Redis has lost \
                         everything. Restore a backup (scripts/restore DUMP), or create a new store by starting the \
                         service. To add the first account before the first start, use `user add --new-store`";
/// The error if the service or a command is started and the row with the identity is missing, but other rows
/// exist.
const LEFT_OVER: &str = "Redis has lost the row with the identity of this store, but not all others, so it is unknown what \
                         else is lost. Check whether it evicts rows (maxmemory-policy) or somebody has deleted some. Stop every \
                         replica, and restore a backup (scripts/restore --replace DUMP). If you know that nothing else is \
                         missing, or have no backup, run `auth-service store adopt`: the remaining rows become valid again. To start \
                         over instead, delete every key whose name begins with `mcp-gate:{`";
/// The error if an adoption is unnecessary.
const NOTHING_TO_ADOPT: &str = "there is nothing to adopt: the store in Redis has its identity, and no replica has reported that \
                                its data is older than before";

/// Whether to create a store in a Redis that has none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NewStore {
    Begin,
    Refuse,
}

/// Whether there is a row of any type at the key.
static IS_THERE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local row = redis.pcall('GET', KEYS[1])
         if row then return 1 end
         return 0",
    )
});

/// Makes sure that there is a store. In an empty Redis, one is created if `new` allows it.
///
/// # Errors
/// Fails if there is no store, if an import is not finished, or if Redis has lost the identity of its store but
/// not all of its rows.
pub(super) async fn find(cells: &Cells, new: NewStore) -> Result<(), StoreError> {
    refuse_unfinished(cells).await?;
    if has_identity(cells).await? {
        return Ok(());
    }
    if has_others(cells).await? {
        // Another process might have created the store in the meantime. The identity is the first row that it
        // writes.
        let is_begun = has_identity(cells).await?;
        return if is_begun { Ok(()) } else { Err(StoreError::NeedsOperator(LEFT_OVER.to_owned())) };
    }
    match new {
        NewStore::Refuse => Err(StoreError::Unavailable(NOT_BEGUN.to_owned())),
        NewStore::Begin => {
            let absent: Option<&Found<String>> = None;
            // If another process has written an identity first, that identity is kept.
            cells
                .swap(
                    &cells.keys.identity(),
                    absent,
                    &identity::new(&cells.connection, &cells.keys, None).await?,
                    None,
                )
                .await?;
            cells.identity().await.map(|_| ())
        }
    }
}

async fn refuse_unfinished(cells: &Cells) -> Result<(), StoreError> {
    let check = cells.read_of_any_age::<String>(&cells.keys.key_check()).await?;
    match check {
        Some(check) if check.value == UNFINISHED => Err(unfit(UNFINISHED)),
        _ => Ok(()),
    }
}

async fn has_identity(cells: &Cells) -> Result<bool, StoreError> {
    Ok(cells.identity().await?.is_some())
}

/// Whether there are rows of a store, not counting those that a process writes as a test.
async fn has_others(cells: &Cells) -> Result<bool, StoreError> {
    let keys = &cells.keys;
    let index = keys.client_index();
    // If the Redis user is not allowed to search for keys, only these keys are looked up. Every store that has
    // ever been in use has at least one of them.
    let known = [
        keys.key_check(),
        keys.clock(),
        keys.keys_mark(),
        keys.taken_away(),
        keys.history(),
        keys.signing_keys(),
        keys.account_index(),
        index.all,
    ];
    for key in known {
        let is_there: u64 = cells.connection.script(&IS_THERE, &[&key], Vec::new()).await?;
        if is_there > 0 {
            return Ok(true);
        }
    }
    // The error from the search itself does not show the missing permission.
    match cells.connection.run::<Value>("SCAN", vec!["0".into(), "COUNT".into(), "1".into()]).await {
        Err(error) if lacks_permission(&error) => return Ok(false),
        tried => tried?,
    };
    let tests = [keys.writable(), keys.trial()];
    let mut pages = cells.connection.scan(keys.all());
    while let Some(page) = pages.try_next().await? {
        if page.iter().any(|key| !tests.contains(key)) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl RedisStore {
    /// Declares the data in Redis valid, although it has lost its identity or is older than before. Running
    /// replicas treat it as a different store, and adopt it as well.
    ///
    /// # Errors
    /// Fails if Redis has no store, or a store that has its identity and is not older than before.
    pub async fn adopt(address: &RedisAddress, key: &StoreKey) -> Result<(), StoreError> {
        let store = Self::unchecked(address, key, PREFIX).await?;
        let cells = &store.cells;
        permissions::check(cells).await?;
        refuse_unfinished(cells).await?;
        let row = cells.keys.identity();
        let found = cells.read_of_any_age::<String>(&row).await?;
        if found.is_none() && !has_others(cells).await? {
            return Err(StoreError::Unavailable(NOT_BEGUN.to_owned()));
        }
        let report = history::report(&cells.connection, &cells.keys, (None, cells.age.process()))
            .await?
            .unwrap_or_default();
        // A claim is no longer valid if this data contains the claimed change, or if this store has replaced the
        // claimed one.
        if found.as_ref().is_some_and(|found| !report.is_disputed(&found.value)) {
            return Err(StoreError::Unavailable(NOTHING_TO_ADOPT.to_owned()));
        }
        // The new identity is later than the identity of every store that a replica is known to have used.
        let before = found.iter().map(|found| StoreName::of(&found.value));
        let begun = before.chain(report.claim.map(|claim| claim.store)).map(|store| store.begun).max();
        if !cells
            .swap(&row, found.as_ref(), &identity::new(&cells.connection, &cells.keys, begun).await?, None)
            .await?
        {
            let reason =
                "another process has created or adopted the store at the same moment; check the store again";
            return Err(StoreError::Unavailable(reason.to_owned()));
        }
        // The claim applies to the store with the previous identity, so it is no longer valid.
        cells.remove(&cells.keys.claim()).await?;
        Ok(())
    }
}
