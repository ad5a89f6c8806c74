//! Access to the rows of all tables (see [`row`]). The place of a row is its table and key.

use std::ops::Bound;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use serde::de::DeserializeOwned;

use crate::domain::clock::UnixTime;
use crate::keys::seal::Sealer;
use crate::store::{StoreError, row};

use super::overlay::Overlay;
use super::tables::Table;

/// Turns any failure of redb into a store error.
#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
pub(super) fn unavailable(error: impl ToString) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Read access, in a read or write transaction.
pub(super) trait Rows {
    fn raw(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError>;
    fn sealer(&self) -> &Sealer;

    /// The value at `key`, even if it has expired.
    fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>, StoreError> {
        self.raw(table, key)?.map(|row| open(self.sealer(), table, key, &row)).transpose()
    }

    /// The time at which the row at `key` expires. Returns `None` if the row does not expire, or does not
    /// exist.
    fn end(&self, table: Table, key: &str) -> Result<Option<UnixTime>, StoreError> {
        Ok(self.raw(table, key)?.and_then(|row| row::expiry(&row)))
    }

    /// The value at `key`, unless it has expired.
    fn get_live<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &str,
        now: UnixTime,
    ) -> Result<Option<T>, StoreError> {
        let row = self.raw(table, key)?.filter(|row| !row::is_over(row, now));
        row.map(|row| open(self.sealer(), table, key, &row)).transpose()
    }
}

pub(super) fn place(table: Table, key: &str) -> Vec<u8> {
    [table.name().as_bytes(), b"\0", key.as_bytes()].concat()
}

pub(super) fn open<T: DeserializeOwned>(
    sealer: &Sealer,
    table: Table,
    key: &str,
    row: &[u8],
) -> Result<T, StoreError> {
    row::open(sealer, &place(table, key), row)
}

/// A read transaction, which sees the committed state, with the rows of an overlay instead of the corresponding
/// rows in the database.
pub(super) struct Reader<'a> {
    transaction: &'a ReadTransaction,
    sealer: &'a Sealer,
    overlay: &'a Overlay,
}

impl<'a> Reader<'a> {
    pub(super) fn new(transaction: &'a ReadTransaction, sealer: &'a Sealer, overlay: &'a Overlay) -> Self {
        Self { transaction, sealer, overlay }
    }

    /// The current content of a row of the database, which the overlay might replace. Returns `None` if the
    /// overlay removes it.
    fn row_now<'r>(&'r self, table: Table, key: &str, row: &'r [u8]) -> Option<&'r [u8]> {
        self.overlay.row(table, key).map_or(Some(row), Option::as_deref)
    }

    /// All values of a table, including expired ones.
    pub(super) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<T>, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        let mut values = Vec::new();
        for row in rows.iter().map_err(unavailable)? {
            let (key, value) = row.map_err(unavailable)?;
            if let Some(row) = self.row_now(table, key.value(), value.value()) {
                values.push(open(self.sealer, table, key.value(), row)?);
            }
        }
        Ok(values)
    }

    /// All values of a table with their keys, including expired ones.
    pub(super) fn all_with_keys<T: DeserializeOwned>(
        &self,
        table: Table,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let mut values = Vec::new();
        for key in self.keys(table)? {
            if let Some(value) = self.get(table, &key)? {
                values.push((key, value));
            }
        }
        Ok(values)
    }

    /// Returns at most `most` live values, ordered by key and starting after `after`.
    pub(super) fn page<T: DeserializeOwned>(
        &self,
        table: Table,
        after: Option<&str>,
        most: usize,
        now: UnixTime,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut values = Vec::new();
        for row in rows.range::<&str>((from, Bound::Unbounded)).map_err(unavailable)? {
            let (key, value) = row.map_err(unavailable)?;
            let row = self.row_now(table, key.value(), value.value());
            if let Some(row) = row.filter(|row| !row::is_over(row, now)) {
                values.push(open(self.sealer, table, key.value(), row)?);
            }
            if values.len() == most {
                break;
            }
        }
        Ok(values)
    }

    /// Calls `show` for every live row of a table, with its key, its expiry and its value as JSON.
    pub(super) fn each_live(
        &self,
        table: Table,
        now: UnixTime,
        mut show: impl FnMut(&str, Option<UnixTime>, Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        for row in rows.iter().map_err(unavailable)? {
            let (key, row) = row.map_err(unavailable)?;
            let (key, row) = (key.value(), self.row_now(table, key.value(), row.value()));
            if let Some(row) = row.filter(|row| !row::is_over(row, now)) {
                show(key, row::expiry(row), row::open_json(self.sealer, &place(table, key), row)?)?;
            }
        }
        Ok(())
    }

    pub(super) fn keys(&self, table: Table) -> Result<Vec<String>, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        let keys = rows.iter().map_err(unavailable)?;
        keys.map(|row| Ok(row.map_err(unavailable)?.0.value().to_owned())).collect()
    }

    /// The number of rows in a table, including expired ones that have not been swept.
    pub(super) fn count(&self, table: Table) -> Result<u64, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        rows.len().map_err(unavailable)
    }

    /// The keys of the rows for whose expiry `wanted` returns true.
    pub(super) fn keys_by_end(
        &self,
        table: Table,
        wanted: impl Fn(UnixTime) -> bool,
    ) -> Result<Vec<String>, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        let mut keys = Vec::new();
        for row in rows.iter().map_err(unavailable)? {
            let (key, value) = row.map_err(unavailable)?;
            if row::expiry(value.value()).is_some_and(&wanted) {
                keys.push(key.value().to_owned());
            }
        }
        Ok(keys)
    }
}

impl Rows for Reader<'_> {
    fn raw(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(row) = self.overlay.row(table, key) {
            return Ok(row.clone());
        }
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        Ok(rows.get(key).map_err(unavailable)?.map(|row| row.value().to_vec()))
    }

    fn sealer(&self) -> &Sealer {
        self.sealer
    }
}
