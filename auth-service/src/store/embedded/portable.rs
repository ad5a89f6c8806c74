//! Export, import and re-encryption of the whole store.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redb::{ReadableDatabase, ReadableTableMetadata};
use tokio::sync::mpsc::error::TrySendError;

use crate::domain::account::Account;
use crate::domain::client::Client;
use crate::domain::clock::UnixTime;
use crate::domain::consent::Consent;
use crate::domain::grant::Grant;
use crate::keys::seal::StoreKey;
use crate::store::records::{BATCH, Kind, Portable, Record, Resealed, Sink, nobody_receives};
use crate::store::transfer::{Target, TargetError};
use crate::store::{Store, StoreError};
use crate::threads;

use super::files::{self, OpenError};
use super::holdings::{self, New};
use super::reserve::Reserve;
use super::rows::{self, Reader};
use super::tables::Table;
use super::writable::Writable;
use super::{EmbeddedStore, clients, name_key, sole_clients};

/// How long an export waits for its receiver to accept a batch. While an export reads, redb cannot reuse free
/// pages, so the file grows with every change.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between attempts to send a batch.
const PAUSE: Duration = Duration::from_millis(5);

#[async_trait]
impl Portable for EmbeddedStore {
    async fn export(&self, now: UnixTime, to: Sink) -> Result<(), StoreError> {
        let overlay = self.overlay.get();
        let (disk, sealer) = (Arc::clone(&self.disk), Arc::clone(&self.sealer));
        let export = move || -> Result<(), StoreError> {
            let (database, is_closed) = disk.database_for_long()?;
            // The export reads in one transaction, so it does not see later writes.
            let transaction = database.begin_read().map_err(rows::unavailable)?;
            let reader = Reader::new(&transaction, &sealer, &overlay);
            let mut batch = Vec::with_capacity(BATCH);
            for table in Table::ALL {
                let Some(kind) = table.kind() else { continue };
                reader.each_live(table, now, |name, until, json| {
                    batch.push(Record::new(kind, name, until, json)?);
                    if batch.len() >= BATCH {
                        send(&to, std::mem::take(&mut batch), &is_closed)?;
                    }
                    Ok(())
                })?;
            }
            if batch.is_empty() { Ok(()) } else { send(&to, batch, &is_closed) }
        };
        threads::beside("export", "an export of the store", export).await.map_err(rows::unavailable)?
    }

    async fn reseal(&self) -> Result<Resealed, StoreError> {
        let mut resealed = Resealed::default();
        for table in Table::ALL {
            let keys = self.read(|rows| rows.keys(table))?;
            for keys in keys.chunks(BATCH) {
                let keys = keys.to_vec();
                let done = self.writer.write(move |rows| rows.reseal(table, &keys)).await?;
                resealed.rows += done.rows;
                resealed.changed += done.changed;
            }
        }
        Ok(resealed)
    }

    fn key(&self) -> &StoreKey {
        &self.key
    }
}

/// Sends a batch of an export.
///
/// # Errors
/// Fails if the receiver does not accept it in time, or if the database must be opened again. An export that kept
/// the database open would block all checks of tokens.
fn send(to: &Sink, mut batch: Vec<Record>, is_closed: &impl Fn() -> bool) -> Result<(), StoreError> {
    let end = Instant::now() + PATIENCE;
    loop {
        if is_closed() {
            return Err(StoreError::Unavailable(
                "a write to the disk failed during the export, so the store was opened again; repeat the command"
                    .to_owned(),
            ));
        }
        match to.try_send(batch) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(unsent)) => return Err(nobody_receives(unsent)),
            Err(TrySendError::Full(unsent)) => batch = unsent,
        }
        if Instant::now() >= end {
            let patience = PATIENCE.as_secs();
            return Err(StoreError::Unavailable(format!(
                "the exported data could not be written for {patience} s"
            )));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Writes a record, and the rows that point to it.
fn put(rows: &Writable<'_>, record: &Record, now: UnixTime) -> Result<(), StoreError> {
    let table = Table::of(record.kind);
    rows.put_json(table, &record.name, record.value.get().as_bytes(), record.until)?;
    match record.kind {
        Kind::Account => {
            let account: Account = record.read()?;
            rows.put(Table::Usernames, &name_key(&account.username), &account.subject, None)
        }
        Kind::Client => {
            let client: Client = record.read()?;
            if client.last_used_at.is_some() || client.stays() {
                return sole_clients::add(rows, &client, record.until);
            }
            rows.put(Table::UnusedClients, &clients::unused_key(&client), &client.id, record.until)
        }
        Kind::Grant => {
            let grant: Grant = record.read()?;
            super::grants::put(rows, &grant)?;
            if grant.refresh.is_none() {
                return Ok(());
            }
            holdings::enter(rows, &New::grant(&grant, grant.last_used_at()), now)
        }
        Kind::Session => holdings::enter(rows, &New::session(&record.read()?), now),
        Kind::Consent => {
            let consent: Consent = record.read()?;
            let until = record.until.unwrap_or(now);
            holdings::enter(rows, &New::consent(&record.name, &consent.subject, now, until), now)
        }
        _ => Ok(()),
    }
}

/// A store that is built next to the existing one, and replaces it when it is complete.
pub struct EmbeddedTarget {
    directory: PathBuf,
    /// The existing store is kept open, so that no other process uses it while it is being replaced.
    before: Option<EmbeddedStore>,
    made: Option<EmbeddedStore>,
}

const BESIDE: &str = "store.redb.import";
const REPLACED: &str = "store.redb.replaced";
const RESERVE_REPLACED: &str = "reserve.replaced";

impl EmbeddedTarget {
    /// Prepares a target in `directory` whose values are encrypted with `key`.
    ///
    /// # Errors
    /// Fails if there is a store with content and `replace` is not set, and in the cases of
    /// [`EmbeddedStore::open`].
    pub fn new(directory: &Path, key: &StoreKey, replace: bool) -> Result<Self, TargetError> {
        let open = |path: &Path| EmbeddedStore::open_file(path, key);
        let path = directory.join(files::DATABASE);
        let before =
            match files::exists(directory).map_err(TargetError::Open)?.then(|| open(&path)).transpose() {
                Ok(before) => before,
                // The existing file is replaced, even if it cannot be read.
                Err(
                    OpenError::WrongKey(_)
                    | OpenError::Damaged(..)
                    | OpenError::Newer { .. }
                    | OpenError::ReserveLost(_),
                ) if replace => None,
                Err(error) => return Err(TargetError::Open(error)),
            };
        if let Some(before) = &before
            && !replace
            && !before.is_empty()?
        {
            return Err(TargetError::NotEmpty(path.display().to_string()));
        }
        let beside = directory.join(BESIDE);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            // A file of an interrupted import is removed.
            _ => {}
        }
        Reserve::remove(&beside)?;
        files::make_file(directory, &beside).map_err(TargetError::Open)?;
        let made = open(&beside).map_err(TargetError::Open)?;
        Ok(Self { directory: directory.to_owned(), before, made: Some(made) })
    }

    fn made(&self) -> Result<&EmbeddedStore, StoreError> {
        self.made.as_ref().ok_or_else(|| StoreError::Unavailable("the import has ended".to_owned()))
    }
}

#[async_trait]
impl Target for EmbeddedTarget {
    async fn put(&mut self, records: Vec<Record>, now: UnixTime) -> Result<(), StoreError> {
        let put_all = move |rows: &Writable<'_>| records.iter().try_for_each(|record| put(rows, record, now));
        self.made()?.writer.write(put_all).await
    }

    fn content(&self) -> Result<&dyn Store, StoreError> {
        self.made().map(|made| made as &dyn Store)
    }

    fn removes_expired(&self) -> bool {
        false
    }

    async fn finish(mut self) -> Result<(), TargetError> {
        // When the new store is closed, it is complete on disk.
        self.made.take();
        let place = self.directory.join(files::DATABASE);
        // Changes that were saved next to the previous store do not apply to this one.
        files::mark_replaced(&self.directory).map_err(TargetError::Open)?;
        if place.exists() {
            fs::rename(&place, self.directory.join(REPLACED))?;
        }
        // `store.reserve` belongs to the previous store, and is needed if the operator puts that store back.
        Reserve::rename(&place, RESERVE_REPLACED)?;
        fs::rename(self.directory.join(BESIDE), &place)?;
        Reserve::remove(&self.directory.join(BESIDE))?;
        File::open(&self.directory)?.sync_all()?;
        self.before.take();
        Ok(())
    }
}

impl Drop for EmbeddedTarget {
    fn drop(&mut self) {
        if self.made.take().is_some() {
            // An incomplete store is useless. If it cannot be removed now, the next import removes it.
            let beside = self.directory.join(BESIDE);
            let _ = fs::remove_file(&beside).and_then(|()| Reserve::remove(&beside));
        }
    }
}

impl EmbeddedStore {
    fn is_empty(&self) -> Result<bool, StoreError> {
        let database = self.disk.database()?;
        let transaction = database.begin_read().map_err(rows::unavailable)?;
        for table in Table::ALL {
            if table.kind().is_some() {
                let rows = transaction.open_table(table.definition()).map_err(rows::unavailable)?;
                if rows.len().map_err(rows::unavailable)? > 0 {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn an_export_that_nobody_takes_does_not_keep_the_store_from_being_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(directory.path(), &StoreKey::new([7; 32])).unwrap();
        let rows = move |rows: &Writable<'_>| {
            (0..3 * BATCH).try_for_each(|n| rows.put(Table::Once, &n.to_string(), &n, Some(UnixTime(10))))
        };
        store.writer.write(rows).await.unwrap();
        let (to, mut taken) = mpsc::channel::<Vec<Record>>(1);
        let store = Arc::new(store);
        let exporting = Arc::clone(&store);
        let export = tokio::spawn(async move { exporting.export(UnixTime(0), to).await });
        while taken.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        store.disk.failed(&StoreError::Unavailable("a write failed".to_owned()));
        assert!(store.disk.database().is_ok(), "the database is not open");
        let error = export.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("repeat the command"), "{error}");
        taken.recv().await.unwrap();
        // The next export starts from the beginning.
        let (to, mut taken) = mpsc::channel::<Vec<Record>>(1);
        let counting = async {
            let mut all = 0;
            while let Some(batch) = taken.recv().await {
                all += batch.len();
            }
            all
        };
        let (exported, all) = tokio::join!(store.export(UnixTime(0), to), counting);
        assert_eq!((exported.is_ok(), all), (true, 3 * BATCH));
    }
}
