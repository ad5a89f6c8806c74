//! Tables of rows ([`row`]). A row's place is its table and key.

use std::cell::RefCell;
use std::ops::Bound;

use redb::{
    Database, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::keys::seal::Sealer;
use crate::store::changes::About;
use crate::store::records::{Kind, Resealed};
use crate::store::{StoreError, row};

type Definition = TableDefinition<'static, &'static str, &'static [u8]>;

/// What is kept where.
#[derive(Debug, Clone, Copy)]
pub(super) enum Table {
    /// Client id → client.
    Clients,
    /// Registration time and client id → client id, for clients that were never used.
    UnusedClients,
    /// SHA-256 of names that may come once.
    Once,
    /// Subject → account.
    Accounts,
    /// SHA-256 of a user name → subject.
    Usernames,
    /// Cookie hash → login session.
    Sessions,
    /// SHA-256 of a consent approval → code hash: one code an approval.
    Approvals,
    /// Code hash → code.
    Codes,
    /// Grant id → grant.
    Grants,
    /// Refresh token hash → grant id, for live and used tokens.
    RefreshTokens,
    /// Device code hash → device authorization.
    Devices,
    /// SHA-256 of a user code → device code hash.
    UserCodes,
    /// Handle hash → pushed authorization request.
    PushedRequests,
    /// SHA-256 of subject and client id → consent.
    Consents,
    /// SHA-256 of another issuer and its subject → subject.
    Links,
    /// SHA-256 of another issuer and our subject → its subject.
    LinksBack,
    /// Signing keys.
    Keys,
    /// The store's own facts.
    Meta,
}

impl Table {
    pub(super) const ALL: [Self; 18] = [
        Self::Clients,
        Self::UnusedClients,
        Self::Once,
        Self::Accounts,
        Self::Usernames,
        Self::Sessions,
        Self::Approvals,
        Self::Codes,
        Self::Grants,
        Self::RefreshTokens,
        Self::Devices,
        Self::UserCodes,
        Self::PushedRequests,
        Self::Consents,
        Self::Links,
        Self::LinksBack,
        Self::Keys,
        Self::Meta,
    ];
    /// The tables whose rows end.
    pub(super) const EXPIRING: [Self; 12] = [
        Self::Clients,
        Self::UnusedClients,
        Self::Once,
        Self::Sessions,
        Self::Approvals,
        Self::Codes,
        Self::Grants,
        Self::RefreshTokens,
        Self::Devices,
        Self::UserCodes,
        Self::PushedRequests,
        Self::Consents,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::UnusedClients => "unused_clients",
            Self::Once => "once",
            Self::Accounts => "accounts",
            Self::Usernames => "usernames",
            Self::Sessions => "sessions",
            Self::Approvals => "approvals",
            Self::Codes => "codes",
            Self::Grants => "grants",
            Self::RefreshTokens => "refresh_tokens",
            Self::Devices => "devices",
            Self::UserCodes => "user_codes",
            Self::PushedRequests => "pushed_requests",
            Self::Consents => "consents",
            Self::Links => "links",
            Self::LinksBack => "links_back",
            Self::Keys => "keys",
            Self::Meta => "meta",
        }
    }

    /// What copies are made from, when it is kept here.
    const fn about(self) -> Option<About> {
        match self {
            Self::Grants => Some(About::Grant),
            Self::Clients => Some(About::Client),
            Self::Accounts => Some(About::Account),
            _ => None,
        }
    }

    /// What an export calls its rows; none for rows that only lead to others, and the store's own.
    pub(super) const fn kind(self) -> Option<Kind> {
        Some(match self {
            Self::Clients => Kind::Client,
            Self::Once => Kind::Once,
            Self::Accounts => Kind::Account,
            Self::Sessions => Kind::Session,
            Self::Approvals => Kind::Approval,
            Self::Codes => Kind::Code,
            Self::Grants => Kind::Grant,
            Self::RefreshTokens => Kind::RefreshToken,
            Self::Devices => Kind::Device,
            Self::UserCodes => Kind::UserCode,
            Self::PushedRequests => Kind::PushedRequest,
            Self::Consents => Kind::Consent,
            Self::Links => Kind::Link,
            Self::LinksBack => Kind::LinkBack,
            Self::Keys => Kind::SigningKeys,
            Self::UnusedClients | Self::Usernames | Self::Meta => return None,
        })
    }

    /// Where records of that kind are kept.
    pub(super) const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Client => Self::Clients,
            Kind::Once => Self::Once,
            Kind::Account => Self::Accounts,
            Kind::Session => Self::Sessions,
            Kind::Approval => Self::Approvals,
            Kind::Code => Self::Codes,
            Kind::Grant => Self::Grants,
            Kind::RefreshToken => Self::RefreshTokens,
            Kind::Device => Self::Devices,
            Kind::UserCode => Self::UserCodes,
            Kind::PushedRequest => Self::PushedRequests,
            Kind::Consent => Self::Consents,
            Kind::Link => Self::Links,
            Kind::LinkBack => Self::LinksBack,
            Kind::SigningKeys => Self::Keys,
        }
    }

    pub(super) const fn definition(self) -> Definition {
        TableDefinition::new(self.name())
    }
}

/// The row that tells whether the key is the right one.
pub(super) const KEY_CHECK: &str = "key-check";
const SCHEMA: &str = "schema";
/// 1: the first release. 2: names that come once, and approvals, are keys as their SHA-256.
pub(super) const SCHEMA_VERSION: u32 = 2;

/// Any failure of redb, as its text.
#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
pub(super) fn unavailable(error: impl ToString) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Why a database is no store of ours.
pub(super) enum Unfit {
    /// It has this schema, which is newer than ours.
    Newer(u32),
    /// As it says.
    Store(StoreError),
}

impl From<StoreError> for Unfit {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Makes the tables, checks key and schema, and brings what an earlier release left up to date. It is one transaction:
/// broken off, it has not begun.
pub(super) fn prepare(database: &Database, sealer: &Sealer) -> Result<(), Unfit> {
    let transaction = database.begin_write().map_err(unavailable)?;
    for table in Table::ALL {
        transaction.open_table(table.definition()).map_err(unavailable)?;
    }
    let rows = Writable::new(&transaction, sealer);
    match rows.get::<u32>(Table::Meta, SCHEMA)? {
        None => rows.put(Table::Meta, KEY_CHECK, &"right key", None)?,
        Some(SCHEMA_VERSION) => return Ok(transaction.commit().map_err(unavailable)?),
        Some(1) => {
            for table in [Table::Once, Table::Approvals] {
                let renamed = rows.rename(table, |name| TokenHash::of(name.as_bytes()).text())?;
                tracing::info!(table = table.name(), rows = renamed, "the store was brought up to date");
            }
        }
        Some(other) => return Err(Unfit::Newer(other)),
    }
    rows.put(Table::Meta, SCHEMA, &SCHEMA_VERSION, None)?;
    Ok(transaction.commit().map_err(unavailable)?)
}

/// Reading, in either kind of transaction.
pub(super) trait Rows {
    fn raw(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError>;
    fn sealer(&self) -> &Sealer;

    /// The value at `key`.
    fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>, StoreError> {
        self.raw(table, key)?.map(|row| open(self.sealer(), table, key, &row)).transpose()
    }

    /// The value at `key`, unless its time is over.
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

fn place(table: Table, key: &str) -> Vec<u8> {
    [table.name().as_bytes(), b"\0", key.as_bytes()].concat()
}

fn open<T: DeserializeOwned>(sealer: &Sealer, table: Table, key: &str, row: &[u8]) -> Result<T, StoreError> {
    row::open(sealer, &place(table, key), row)
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

    /// Up to `most` live values by key, from the one after `after` on.
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
            if !row::is_over(value.value(), now) {
                values.push(open(self.sealer, table, key.value(), value.value())?);
            }
            if values.len() == most {
                break;
            }
        }
        Ok(values)
    }

    /// Shows every live row of a table: its key, when its time is over, and its value in JSON.
    pub(super) fn each_live(
        &self,
        table: Table,
        now: UnixTime,
        mut show: impl FnMut(&str, Option<UnixTime>, Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        for row in rows.iter().map_err(unavailable)? {
            let (key, row) = row.map_err(unavailable)?;
            let (key, row) = (key.value(), row.value());
            if !row::is_over(row, now) {
                show(key, row::expiry(row), row::open_json(self.sealer, &place(table, key), row)?)?;
            }
        }
        Ok(())
    }

    /// Every key of a table.
    pub(super) fn keys(&self, table: Table) -> Result<Vec<String>, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        let keys = rows.iter().map_err(unavailable)?;
        keys.map(|row| Ok(row.map_err(unavailable)?.0.value().to_owned())).collect()
    }

    /// The keys of rows that may go.
    pub(super) fn expired(&self, table: Table, now: UnixTime) -> Result<Vec<String>, StoreError> {
        let rows = self.transaction.open_table(table.definition()).map_err(unavailable)?;
        let mut keys = Vec::new();
        for row in rows.iter().map_err(unavailable)? {
            let (key, value) = row.map_err(unavailable)?;
            if row::is_over(value.value(), now) {
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
    touched: RefCell<Vec<(About, String)>>,
}

type OpenTable<'a> = redb::Table<'a, &'static str, &'static [u8]>;

impl<'a> Writable<'a> {
    pub(super) fn new(transaction: &'a WriteTransaction, sealer: &'a Sealer) -> Self {
        Self { transaction, sealer, touched: RefCell::default() }
    }

    /// The rows written so far that copies are made from.
    pub(super) fn touched(self) -> Vec<(About, String)> {
        self.touched.into_inner()
    }

    fn touch(&self, table: Table, key: &str) {
        if let Some(about) = table.about() {
            self.touched.borrow_mut().push((about, key.to_owned()));
        }
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
        let row = row::seal(self.sealer, &place(table, key), value, expires_at)?;
        self.touch(table, key);
        self.table(table)?.insert(key, row.as_slice()).map_err(unavailable)?;
        Ok(())
    }

    /// As [`Writable::put`], of a value that is in JSON already.
    pub(super) fn put_json(
        &self,
        table: Table,
        key: &str,
        json: &[u8],
        expires_at: Option<UnixTime>,
    ) -> Result<(), StoreError> {
        let row = row::seal_json(self.sealer, &place(table, key), json, expires_at)?;
        self.touch(table, key);
        self.table(table)?.insert(key, row.as_slice()).map_err(unavailable)?;
        Ok(())
    }

    /// Gives every row of a table another key; how many there were. It also changes what each is sealed to.
    fn rename(&self, table: Table, name: impl Fn(&str) -> String) -> Result<u64, StoreError> {
        let mut renamed = Vec::new();
        {
            let rows = self.table(table)?;
            for row in rows.iter().map_err(unavailable)? {
                let (key, row) = row.map_err(unavailable)?;
                let (key, row) = (key.value(), row.value());
                let json = row::open_json(self.sealer, &place(table, key), row)?;
                renamed.push((key.to_owned(), json, row::expiry(row)));
            }
        }
        for (before, json, expires_at) in &renamed {
            self.remove(table, before)?;
            self.put_json(table, &name(before), json, *expires_at)?;
        }
        Ok(renamed.len() as u64)
    }

    /// Seals those of `keys` that are still there with the key that seals now.
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

    /// Replaces a value and leaves its expiry as it is.
    pub(super) fn replace<T: Serialize>(&self, table: Table, key: &str, value: &T) -> Result<(), StoreError> {
        let expires_at = self.raw(table, key)?.and_then(|row| row::expiry(&row));
        self.put(table, key, value, expires_at)
    }

    /// How many rows a table has, those included whose time is over and that wait to be swept.
    pub(super) fn count(&self, table: Table) -> Result<u64, StoreError> {
        self.table(table)?.len().map_err(unavailable)
    }

    /// The first row by key.
    pub(super) fn first<T: DeserializeOwned>(&self, table: Table) -> Result<Option<(String, T)>, StoreError> {
        let rows = self.table(table)?;
        let Some((key, value)) = rows.first().map_err(unavailable)? else {
            return Ok(None);
        };
        let key = key.value().to_owned();
        let content = open(self.sealer, table, &key, value.value())?;
        Ok(Some((key, content)))
    }

    /// Removes a row, if it is there.
    pub(super) fn remove(&self, table: Table, key: &str) -> Result<(), StoreError> {
        self.touch(table, key);
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
        let rows = self.table(table)?;
        Ok(rows.get(key).map_err(unavailable)?.map(|row| row.value().to_vec()))
    }

    fn sealer(&self) -> &Sealer {
        self.sealer
    }
}
