//! Tables and rows. A row is a format version, the second at which it may be swept, and the sealed JSON of a
//! domain value. Table, key and expiry are authenticated with it, so rows cannot be swapped.

use redb::{Database, ReadTransaction, ReadableTable, TableDefinition, TableError, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::clock::UnixTime;
use crate::keys::seal::Sealer;
use crate::store::StoreError;

type Definition = TableDefinition<'static, &'static str, &'static [u8]>;

/// What is kept where.
#[derive(Debug, Clone, Copy)]
pub(super) enum Table {
    /// Client id → client.
    Clients,
    /// Subject → account.
    Accounts,
    /// User name → subject.
    Usernames,
    /// Cookie hash → login session.
    Sessions,
    /// Consent approval → code hash: one code an approval.
    Approvals,
    /// Code hash → code.
    Codes,
    /// Grant id → grant.
    Grants,
    /// Refresh token hash → grant id, for live and used tokens.
    RefreshTokens,
    /// Signing keys.
    Keys,
    /// The store's own facts.
    Meta,
}

impl Table {
    const ALL: [Self; 10] = [
        Self::Clients,
        Self::Accounts,
        Self::Usernames,
        Self::Sessions,
        Self::Approvals,
        Self::Codes,
        Self::Grants,
        Self::RefreshTokens,
        Self::Keys,
        Self::Meta,
    ];
    /// The tables whose rows end.
    pub(super) const EXPIRING: [Self; 5] =
        [Self::Sessions, Self::Approvals, Self::Codes, Self::Grants, Self::RefreshTokens];

    const fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Accounts => "accounts",
            Self::Usernames => "usernames",
            Self::Sessions => "sessions",
            Self::Approvals => "approvals",
            Self::Codes => "codes",
            Self::Grants => "grants",
            Self::RefreshTokens => "refresh_tokens",
            Self::Keys => "keys",
            Self::Meta => "meta",
        }
    }

    const fn definition(self) -> Definition {
        TableDefinition::new(self.name())
    }
}

/// The row that tells whether the key is the right one.
pub(super) const KEY_CHECK: &str = "key-check";
const SCHEMA: &str = "schema";
const SCHEMA_VERSION: u32 = 1;

const ROW_VERSION: u8 = 1;
const NEVER: u64 = u64::MAX;

/// Any failure of redb, as its text.
#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
pub(super) fn unavailable(error: impl ToString) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Makes the tables, and checks key and schema.
pub(super) fn prepare(database: &Database, sealer: &Sealer) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(unavailable)?;
    for table in Table::ALL {
        transaction.open_table(table.definition()).map_err(unavailable)?;
    }
    let rows = Writable::new(&transaction, sealer);
    match rows.get::<u32>(Table::Meta, SCHEMA)? {
        None => {
            rows.put(Table::Meta, SCHEMA, &SCHEMA_VERSION, None)?;
            rows.put(Table::Meta, KEY_CHECK, &"right key", None)?;
        }
        Some(SCHEMA_VERSION) => {}
        Some(other) => {
            let reason =
                format!("its schema is version {other}, and this release reads version {SCHEMA_VERSION}");
            return Err(StoreError::Unavailable(reason));
        }
    }
    transaction.commit().map_err(unavailable)
}

/// Reading, in either kind of transaction.
pub(super) trait Rows {
    fn raw(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError>;
    fn sealer(&self) -> &Sealer;

    /// The value at `key`.
    fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>, StoreError> {
        self.raw(table, key)?.map(|row| open(self.sealer(), table, key, &row)).transpose()
    }
}

fn name(table: Table, key: &str, header: &[u8]) -> Vec<u8> {
    [table.name().as_bytes(), b"\0", key.as_bytes(), b"\0", header].concat()
}

fn open<T: DeserializeOwned>(sealer: &Sealer, table: Table, key: &str, row: &[u8]) -> Result<T, StoreError> {
    let (header, body) = row.split_at_checked(9).ok_or(StoreError::Unreadable)?;
    let plain = sealer.open(&name(table, key, header), body).map_err(|_| StoreError::Unreadable)?;
    serde_json::from_slice(&plain).map_err(|_| StoreError::Unreadable)
}

fn expiry(row: &[u8]) -> u64 {
    row.get(1..9).and_then(|bytes| bytes.try_into().ok()).map_or(NEVER, u64::from_be_bytes)
}

/// A view of the committed state.
pub(super) struct Reader<'a> {
    transaction: &'a ReadTransaction,
    sealer: &'a Sealer,
}

impl<'a> Reader<'a> {
    pub(super) fn new(transaction: &'a ReadTransaction, sealer: &'a Sealer) -> Self {
        Self { transaction, sealer }
    }

    /// All values of a table.
    pub(super) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<T>, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        rows.iter()
            .map_err(unavailable)?
            .map(|row| {
                let (key, value) = row.map_err(unavailable)?;
                open(self.sealer, table, key.value(), value.value())
            })
            .collect()
    }

    /// The keys of rows that may go.
    pub(super) fn expired(&self, table: Table, now: UnixTime) -> Result<Vec<String>, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        let mut keys = Vec::new();
        for row in rows.iter().map_err(unavailable)? {
            let (key, value) = row.map_err(unavailable)?;
            if expiry(value.value()) <= now.0 {
                keys.push(key.value().to_owned());
            }
        }
        Ok(keys)
    }
}

impl Rows for Reader<'_> {
    fn raw(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        Ok(rows.get(key).map_err(unavailable)?.map(|row| row.value().to_vec()))
    }

    fn sealer(&self) -> &Sealer {
        self.sealer
    }
}

/// A write in progress.
pub(super) struct Writable<'a> {
    transaction: &'a WriteTransaction,
    sealer: &'a Sealer,
}

type OpenTable<'a> = redb::Table<'a, &'static str, &'static [u8]>;

impl<'a> Writable<'a> {
    pub(super) fn new(transaction: &'a WriteTransaction, sealer: &'a Sealer) -> Self {
        Self { transaction, sealer }
    }

    fn table(&self, table: Table) -> Result<OpenTable<'a>, StoreError> {
        self.transaction.open_table(table.definition()).map_err(|error: TableError| unavailable(error))
    }

    /// Writes a value that may be swept from `expires_at` on.
    pub(super) fn put<T: Serialize>(
        &self,
        table: Table,
        key: &str,
        value: &T,
        expires_at: Option<UnixTime>,
    ) -> Result<(), StoreError> {
        let mut row = vec![ROW_VERSION];
        row.extend_from_slice(&expires_at.map_or(NEVER, |at| at.0).to_be_bytes());
        let plain = serde_json::to_vec(value).map_err(unavailable)?;
        let sealed = self.sealer.seal(&name(table, key, &row), &plain).map_err(unavailable)?;
        row.extend_from_slice(&sealed);
        self.table(table)?.insert(key, row.as_slice()).map_err(unavailable)?;
        Ok(())
    }

    /// Removes a row, if it is there.
    pub(super) fn remove(&self, table: Table, key: &str) -> Result<(), StoreError> {
        self.table(table)?.remove(key).map_err(unavailable)?;
        Ok(())
    }

    /// Removes those of `keys` that still are expired; how many.
    pub(super) fn remove_expired(
        &self,
        table: Table,
        keys: &[String],
        now: UnixTime,
    ) -> Result<u64, StoreError> {
        let mut rows = self.table(table)?;
        let mut removed = 0;
        for key in keys {
            let gone =
                rows.get(key.as_str()).map_err(unavailable)?.is_some_and(|row| expiry(row.value()) <= now.0);
            if gone {
                rows.remove(key.as_str()).map_err(unavailable)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Rows for Writable<'_> {
    fn raw(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let rows = self.table(table)?;
        Ok(rows.get(key).map_err(unavailable)?.map(|row| row.value().to_vec()))
    }

    fn sealer(&self) -> &Sealer {
        self.sealer
    }
}
