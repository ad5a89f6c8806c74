//! Removes expired rows, shortens the lifetime of rows that were stored while the clock was ahead, and tests the disk.

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::domain::account::LoginSession;
use crate::domain::clock::UnixTime;
use crate::domain::grant::Grant;
use crate::store::{LatestEnds, Maintenance, StoreError};

use super::EmbeddedStore;
use super::rows::Rows;
use super::schema;
use super::tables::Table;

/// Number of rows that are changed in one transaction.
const BATCH: usize = 1000;

#[async_trait]
impl Maintenance for EmbeddedStore {
    async fn sweep(&self, now: UnixTime) -> Result<u64, StoreError> {
        let mut removed = 0;
        for table in Table::EXPIRING {
            removed += self.sweep_table(table, now).await?;
        }
        Ok(removed)
    }

    async fn shorten(&self, ends: &LatestEnds) -> Result<u64, StoreError> {
        self.shorten_all(ends).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.read(|rows| rows.get::<String>(Table::Meta, schema::KEY_CHECK).map(|_| ()))?;
        // A full disk can still be read, so a write must be tried as well.
        self.writer.ping().await
    }
}

impl EmbeddedStore {
    pub(super) async fn sweep_table(&self, table: Table, now: UnixTime) -> Result<u64, StoreError> {
        let mut removed = 0;
        let expired = self.read(|rows| rows.keys_by_end(table, |end| end <= now))?;
        for keys in expired.chunks(BATCH) {
            let keys = keys.to_vec();
            removed += self.writer.write(move |rows| rows.remove_expired(table, &keys, now)).await?;
        }
        Ok(removed)
    }

    /// Shortens the lifetime of rows in all tables to `ends`. Codes, device codes and pushed requests are valid
    /// for only minutes, so those that seem to come from the future are not changed: they are refused, or expire.
    pub(super) async fn shorten_all(&self, ends: &LatestEnds) -> Result<u64, StoreError> {
        let mut shortened = 0;
        for table in [Table::Clients, Table::UnusedClients, Table::SoleClients, Table::Fingerprints] {
            shortened += self.shorten_table(table, ends.client, |_: &mut Box<RawValue>, _| {}).await?;
        }
        shortened += self.shorten_table(Table::Consents, ends.grant, |_: &mut Box<RawValue>, _| {}).await?;
        let session = |session: &mut LoginSession, end| session.expires_at = end;
        shortened += self.shorten_table(Table::Sessions, ends.session, session).await?;
        let grant = |grant: &mut Grant, end| grant.expires_at = end;
        Ok(shortened + self.shorten_table(Table::Grants, ends.grant, grant).await?)
    }

    async fn shorten_table<T: Serialize + DeserializeOwned + 'static>(
        &self,
        table: Table,
        latest: UnixTime,
        set_end: fn(&mut T, UnixTime),
    ) -> Result<u64, StoreError> {
        let later = self.read(|rows| rows.keys_by_end(table, |end| end > latest))?;
        let mut shortened = 0;
        for keys in later.chunks(BATCH) {
            let keys = keys.to_vec();
            shortened += self
                .writer
                .write(move |rows| {
                    let mut shortened = 0;
                    for key in &keys {
                        let is_later = rows.end(table, key)?.is_some_and(|end| end > latest);
                        if let Some(mut value) = rows.get::<T>(table, key)?.filter(|_| is_later) {
                            set_end(&mut value, latest);
                            rows.put(table, key, &value, Some(latest))?;
                            shortened += 1;
                        }
                    }
                    Ok(shortened)
                })
                .await?;
        }
        Ok(shortened)
    }
}
