//! Information about the embedded store itself.

use async_trait::async_trait;

use crate::domain::clock::UnixTime;
use crate::domain::clock_watch::ClockMark;
use crate::store::Installation;
use crate::store::{Replacement, StoreError};

use super::EmbeddedStore;
use super::reserve::Reserve;
use super::rows::Rows;
use super::tables::Table;

const IDENTITY: &str = "identity";
const CLOCK: &str = "clock";

#[async_trait]
impl Installation for EmbeddedStore {
    async fn identity(&self) -> Result<Option<String>, StoreError> {
        self.read(|rows| rows.get(Table::Meta, IDENTITY))
    }

    async fn identify(&self, identity: &str) -> Result<(), StoreError> {
        let identity = identity.to_owned();
        self.writer
            .write(move |rows| match rows.get::<String>(Table::Meta, IDENTITY)? {
                Some(_) => Ok(()),
                None => rows.put(Table::Meta, IDENTITY, &identity, None),
            })
            .await
    }

    async fn clock_mark(&self) -> Result<Option<ClockMark>, StoreError> {
        self.read(|rows| rows.get(Table::Meta, CLOCK))
    }

    async fn set_clock_mark(
        &self,
        seen: Option<ClockMark>,
        mark: ClockMark,
    ) -> Result<Replacement, StoreError> {
        self.writer
            .write(move |rows| {
                if rows.get::<ClockMark>(Table::Meta, CLOCK)? != seen {
                    return Ok(Replacement::Outdated);
                }
                rows.put(Table::Meta, CLOCK, &mark, None)?;
                Ok(Replacement::Replaced)
            })
            .await
    }

    /// Returns `None`, because the embedded store has no clock.
    async fn own_time(&self) -> Result<Option<UnixTime>, StoreError> {
        Ok(None)
    }

    /// The only danger is a full disk. `ping` tests the disk itself, so this only checks `store.reserve`, the
    /// file that is used when the disk is full.
    async fn dangers(&self) -> Result<Vec<String>, StoreError> {
        Ok(match self.overlay.make_file() {
            Ok(()) => Vec::new(),
            Err(error) => vec![format!("{}: {error}", Reserve::missing())],
        })
    }
}
