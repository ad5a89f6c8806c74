//! The rows that describe the database itself: the version of its schema, whether the store key is correct, and the
//! number of the last overlay that became part of it.

use redb::{Database, ReadableDatabase};

use crate::keys::seal::Sealer;
use crate::store::StoreError;

use super::overlay::Overlay;
use super::reserve::APPLIED;
use super::rows::{Reader, Rows, unavailable};
use super::tables::Table;
use super::writable::Writable;

/// The row that shows whether the store key is correct.
pub(super) const KEY_CHECK: &str = "key-check";
const SCHEMA: &str = "schema";
/// The schema version of this release.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// The reason why a database cannot be used as a store.
pub(super) enum Unfit {
    /// The database has this schema version, which is newer than the supported one.
    Newer(u32),
    /// The database cannot be read or written.
    Store(StoreError),
}

impl From<StoreError> for Unfit {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Creates the tables, and checks the key and the schema. This is a single transaction, so an interruption leaves
/// the database unchanged.
pub(super) fn prepare(database: &Database, sealer: &Sealer) -> Result<(), Unfit> {
    if is_ready(database, sealer) {
        return Ok(());
    }
    let transaction = database.begin_write().map_err(unavailable)?;
    for table in Table::ALL {
        transaction.open_table(table.definition()).map_err(unavailable)?;
    }
    let rows = Writable::new(&transaction, sealer);
    match rows.get::<u32>(Table::Meta, SCHEMA)? {
        None => {
            rows.put(Table::Meta, KEY_CHECK, &"right key", None)?;
            rows.put(Table::Meta, SCHEMA, &SCHEMA_VERSION, None)?;
        }
        Some(SCHEMA_VERSION) => {}
        Some(other) => return Err(Unfit::Newer(other)),
    }
    Ok(transaction.commit().map_err(unavailable)?)
}

/// Whether there is nothing to prepare. This does not write, so that a store on a full disk can be opened and
/// read.
fn is_ready(database: &Database, sealer: &Sealer) -> bool {
    let Ok(transaction) = database.begin_read() else { return false };
    let overlay = Overlay::default();
    let rows = Reader::new(&transaction, sealer, &overlay);
    Table::ALL.into_iter().all(|table| transaction.open_table(table.definition()).is_ok())
        && matches!(rows.get(Table::Meta, SCHEMA), Ok(Some(SCHEMA_VERSION)))
}

/// The number of the last overlay that became part of the database. Returns 0 if there was none.
pub(super) fn number_of_overlay(database: &Database, sealer: &Sealer) -> Result<u64, StoreError> {
    let transaction = database.begin_read().map_err(unavailable)?;
    let overlay = Overlay::default();
    Ok(Reader::new(&transaction, sealer, &overlay).get(Table::Meta, APPLIED)?.unwrap_or(0))
}
