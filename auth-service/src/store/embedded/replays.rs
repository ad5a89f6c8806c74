//! Names that can be used only once, such as the `jti` of an assertion, so that replays are detected.

use async_trait::async_trait;

use crate::domain::clock::UnixTime;
use crate::store::{OneTimeUse, ReplayStore, StoreError};

use super::rows::Rows;
use super::tables::Table;
use super::{EmbeddedStore, hashed};

#[async_trait]
impl ReplayStore for EmbeddedStore {
    async fn remember_once(
        &self,
        name: &str,
        until: UnixTime,
        now: UnixTime,
    ) -> Result<OneTimeUse, StoreError> {
        let name = hashed(name);
        self.writer
            .write(move |rows| {
                if rows.get_live::<bool>(Table::Once, &name, now)?.is_some() {
                    return Ok(OneTimeUse::Replayed);
                }
                rows.put(Table::Once, &name, &true, Some(until))?;
                Ok(OneTimeUse::First)
            })
            .await
    }
}
