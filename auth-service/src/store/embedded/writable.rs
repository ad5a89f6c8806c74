//! Access to rows in a write transaction, or in an overlay while the database cannot be written.

use std::cell::RefCell;

use redb::{ReadableTable, ReadableTableMetadata, TableError, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::clock::UnixTime;
use crate::keys::seal::Sealer;
use crate::store::changes::About;
use crate::store::records::Resealed;
use crate::store::{StoreError, row};

use super::overlay::Overlay;
use super::rows::{Reader, Rows, open, place, unavailable};
use super::tables::Table;

/// Rows that can be written, with the list of cached rows that were changed.
pub(super) struct Writable<'a> {
    target: Target<'a>,
    sealer: &'a Sealer,
    touched: RefCell<Vec<(About, String)>>,
}

enum Target<'a> {
    Database(&'a WriteTransaction),
    /// The changes are collected in an overlay. Rows that were not changed are read from the database.
    Overlay {
        before: &'a Reader<'a>,
        changed: RefCell<Overlay>,
    },
}

type OpenTable<'a> = redb::Table<'a, &'static str, &'static [u8]>;

impl<'a> Writable<'a> {
    pub(super) fn new(transaction: &'a WriteTransaction, sealer: &'a Sealer) -> Self {
        Self { target: Target::Database(transaction), sealer, touched: RefCell::default() }
    }

    /// Creates access that collects changes instead of writing them. Only single rows can be read and
    /// changed.
    pub(super) fn beside(before: &'a Reader<'a>, sealer: &'a Sealer) -> Self {
        let target = Target::Overlay { before, changed: RefCell::default() };
        Self { target, sealer, touched: RefCell::default() }
    }

    /// Whether changes are collected because the database cannot be written.
    pub(super) fn is_beside(&self) -> bool {
        matches!(self.target, Target::Overlay { .. })
    }

    /// The changes that were collected for the overlay. The result is empty if they went to the database.
    pub(super) fn changed(&self) -> Overlay {
        match &self.target {
            Target::Database(_) => Overlay::default(),
            Target::Overlay { changed, .. } => changed.borrow().clone(),
        }
    }

    /// Writes the rows of an overlay.
    pub(super) fn lay(&self, overlay: &Overlay) -> Result<(), StoreError> {
        for (table, key, row) in overlay.rows() {
            self.set(table, key, row)?;
        }
        Ok(())
    }

    /// The cached rows written so far.
    pub(super) fn touched(self) -> Vec<(About, String)> {
        self.touched.into_inner()
    }

    fn touch(&self, table: Table, key: &str) {
        if let Some(about) = table.about() {
            self.touched.borrow_mut().push((about, key.to_owned()));
        }
    }

    fn table(&self, table: Table) -> Result<OpenTable<'a>, StoreError> {
        match self.target {
            Target::Database(transaction) => {
                transaction.open_table(table.definition()).map_err(|error: TableError| unavailable(error))
            }
            Target::Overlay { .. } => Err(unavailable("the database cannot be written")),
        }
    }

    /// Replaces an encrypted row, or removes it.
    fn set(&self, table: Table, key: &str, row: Option<&[u8]>) -> Result<(), StoreError> {
        self.touch(table, key);
        if let Target::Overlay { changed, .. } = &self.target {
            changed.borrow_mut().set(table, key, row.map(<[u8]>::to_vec));
            return Ok(());
        }
        let mut rows = self.table(table)?;
        match row {
            Some(row) => rows.insert(key, row).map(|_| ()),
            None => rows.remove(key).map(|_| ()),
        }
        .map_err(unavailable)
    }

    /// Writes a value that can be swept from `expires_at` on.
    pub(super) fn put<T: Serialize>(
        &self,
        table: Table,
        key: &str,
        value: &T,
        expires_at: Option<UnixTime>,
    ) -> Result<(), StoreError> {
        let row = row::seal(self.sealer, &place(table, key), value, expires_at)?;
        self.set(table, key, Some(&row))
    }

    /// Like [`Writable::put`], for a value that is already JSON.
    pub(super) fn put_json(
        &self,
        table: Table,
        key: &str,
        json: &[u8],
        expires_at: Option<UnixTime>,
    ) -> Result<(), StoreError> {
        let row = row::seal_json(self.sealer, &place(table, key), json, expires_at)?;
        self.set(table, key, Some(&row))
    }

    /// Encrypts the rows at `keys`, if they still exist, with the current key.
    pub(super) fn reseal(&self, table: Table, keys: &[String]) -> Result<Resealed, StoreError> {
        let mut resealed = Resealed::default();
        for key in keys {
            let Some(row) = self.raw(table, key)? else { continue };
            resealed.rows += 1;
            if let Some(row) = row::resealed(self.sealer, &place(table, key), &row)? {
                self.table(table)?.insert(key.as_str(), row.as_slice()).map_err(unavailable)?;
                resealed.changed += 1;
            }
        }
        Ok(resealed)
    }

    /// Replaces a value but keeps its expiry.
    pub(super) fn replace<T: Serialize>(&self, table: Table, key: &str, value: &T) -> Result<(), StoreError> {
        let expires_at = self.end(table, key)?;
        self.put(table, key, value, expires_at)
    }

    /// The number of rows in a table, including expired ones that have not been swept.
    pub(super) fn count(&self, table: Table) -> Result<u64, StoreError> {
        self.table(table)?.len().map_err(unavailable)
    }

    /// The first `most` rows, ordered by key.
    pub(super) fn first_few<T: DeserializeOwned>(
        &self,
        table: Table,
        most: u64,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let rows = self.table(table)?;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let read = |row: Result<_, redb::StorageError>| {
            let (key, value) = row.map_err(unavailable)?;
            let key: String = redb::AccessGuard::<&str>::value(&key).to_owned();
            let content = open(self.sealer, table, &key, redb::AccessGuard::<&[u8]>::value(&value))?;
            Ok((key, content))
        };
        rows.iter().map_err(unavailable)?.take(most).map(read).collect()
    }

    /// Removes a row, if it exists.
    pub(super) fn remove(&self, table: Table, key: &str) -> Result<(), StoreError> {
        self.set(table, key, None)
    }

    /// Removes the rows at `keys` that have expired. Returns their number.
    pub(super) fn remove_expired(
        &self,
        table: Table,
        keys: &[String],
        now: UnixTime,
    ) -> Result<u64, StoreError> {
        let mut rows = self.table(table)?;
        let mut removed = 0;
        for key in keys {
            let gone = rows
                .get(key.as_str())
                .map_err(unavailable)?
                .is_some_and(|row| row::is_over(row.value(), now));
            if gone {
                self.touch(table, key);
                rows.remove(key.as_str()).map_err(unavailable)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Rows for Writable<'_> {
    fn raw(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        if let Target::Overlay { before, changed } = &self.target {
            return match changed.borrow().row(table, key) {
                Some(row) => Ok(row.clone()),
                None => before.raw(table, key),
            };
        }
        let rows = self.table(table)?;
        Ok(rows.get(key).map_err(unavailable)?.map(|row| row.value().to_vec()))
    }

    fn sealer(&self) -> &Sealer {
        self.sealer
    }
}
