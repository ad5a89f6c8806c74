//! The signing keys, and a separate record about them, which shows whether keys were lost or replaced with older ones.

use async_trait::async_trait;

use crate::keys::set::KeySet;
use crate::store::records::SIGNING;
use crate::store::{KeysMark, Replacement, SigningKeyStore, StoreError};

use super::EmbeddedStore;
use super::rows::Rows;
use super::tables::Table;

const KEYS: &str = "keys";

#[async_trait]
impl SigningKeyStore for EmbeddedStore {
    async fn signing_keys(&self) -> Result<Option<KeySet>, StoreError> {
        self.read(|rows| rows.get(Table::Keys, SIGNING))
    }

    async fn replace_signing_keys(
        &self,
        seen: Option<u64>,
        changed: &KeySet,
    ) -> Result<Replacement, StoreError> {
        let changed = changed.clone();
        self.writer
            .take_away(move |rows| {
                let found: Option<KeySet> = rows.get(Table::Keys, SIGNING)?;
                if found.map(|set| set.revision()) != seen {
                    return Ok(Replacement::Outdated);
                }
                rows.put(Table::Keys, SIGNING, &changed, None)?;
                Ok(Replacement::Replaced)
            })
            .await
    }

    async fn keys_mark(&self) -> Result<Option<KeysMark>, StoreError> {
        self.read(|rows| rows.get(Table::Meta, KEYS))
    }

    async fn set_keys_mark(&self, mark: KeysMark) -> Result<(), StoreError> {
        self.writer.write_even_late(move |rows| rows.put(Table::Meta, KEYS, &mark, None)).await
    }
}
