//! Checks that the data in Redis is not older than before, counts changes that take access away, and writes
//! heartbeats. [`super::age`] interprets the reports from Redis.

use futures_util::future::BoxFuture;

use crate::store::StoreError;

use super::age_report::{AgeReport, Claim, KnownBefore};
use super::cells::Cells;
use super::errors::lacks_permission;
use super::{heartbeat_rows, history};

impl Cells {
    /// Checks that the data in Redis is not older than before, and that Redis has not been emptied.
    pub(super) async fn check_age(&self) -> Result<(), StoreError> {
        let asked = self.age.known_now();
        let told = history::report(&self.connection, &self.keys, (asked.mark, self.age.process())).await?;
        let was_emptied = told.is_none() && self.age.has_seen_anything();
        let told = told.unwrap_or_default();
        if was_emptied || self.age.has_to_be_identified() || self.age.is_older(asked, told) {
            let identity = self.identity_found().await;
            if let Err(error @ StoreError::NeedsOperator(_)) = identity {
                return self.told_others(asked, told, Err(error)).await;
            }
            if identity?.is_none() {
                let absence = self.dropping_what_is_cached(self.age.note_absence());
                // Even a store that never had an identity can have older data.
                if was_emptied || absence.is_err() {
                    return absence;
                }
            }
            if !self.age.is_same_store(asked) {
                return Ok(());
            }
        }
        let compared = self.age.compare(asked, told);
        self.told_others(asked, told, compared).await
    }

    /// If the data is older than what this process has seen, leaves a claim in Redis for processes that have seen
    /// less.
    async fn told_others(
        &self,
        asked: KnownBefore,
        told: AgeReport,
        compared: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if compared.is_err()
            && let Some(claim) = self.age.claim(asked, told)
            && !Box::pin(self.concerns_other_installation(&claim)).await
        {
            // If the claim cannot be written, the next comparison tries again.
            let _ = Box::pin(history::leave(&self.connection, &self.keys, claim)).await;
        }
        self.dropping_what_is_cached(compared)
    }

    /// Whether the claim would be written into the data of another installation. An earlier store that was in use when
    /// the later one was created, and still is, has not been replaced by the later one.
    async fn concerns_other_installation(&self, claim: &Claim) -> bool {
        if !self.age.has_earlier_store() {
            return false;
        }
        match heartbeat_rows::times_of_use(&self.connection, &self.keys).await {
            Ok(Some(times)) => times.include_beginning_of(claim.store.begun, self.age.pace()),
            _ => false,
        }
    }

    /// Writes a heartbeat if one is due, unless the data might be older than before.
    pub(super) async fn leave_heartbeat(&self) -> Result<(), StoreError> {
        let Some(asked) = self.age.heartbeat_due() else { return Ok(()) };
        let (connection, keys) = (&self.connection, &self.keys);
        let (process, pace) = (self.age.process(), self.age.pace());
        match heartbeat_rows::write(connection, keys, process, asked.heartbeat, pace).await? {
            Some(written) => self.age.note_heartbeat(asked, written),
            // Redis has older data.
            None => self.check_age().await?,
        }
        Ok(())
    }

    /// Invalidates all cached values if the data in Redis is older than before, because cached values are used
    /// without a query to Redis. The signing keys are also read again, because the older data can contain other keys.
    fn dropping_what_is_cached(&self, compared: Result<(), StoreError>) -> Result<(), StoreError> {
        compared.inspect_err(|_| {
            self.changes.note_everything();
            self.changes.note_signing_keys();
        })
    }

    /// Like [`Cells::check_age`], for callers that rarely need it. Its future is boxed, so that the futures
    /// of all callers that read a row stay small.
    pub(super) fn age_checked(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.check_age())
    }

    /// Like [`Cells::identity`], with a boxed future.
    fn identity_found(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        Box::pin(self.identity())
    }

    /// Returns the result for a row that does not exist. A client gives up when it receives this result, so an
    /// error is returned instead if Redis has been emptied.
    pub(super) async fn absent<T>(&self, answer: T) -> Result<T, StoreError> {
        self.age_checked().await?;
        Ok(answer)
    }

    /// The identity of the store, regardless of how old the data in Redis is.
    ///
    /// # Errors
    /// Fails if Redis has a store other than the one that this process uses.
    pub(super) async fn identity(&self) -> Result<Option<String>, StoreError> {
        let mut found = self.identity_of_any_age().await?;
        let mut noted = self.age.note_identity(found.as_deref());
        if noted.is_err() {
            // This response might be older than one that another call has already recorded. A second response is
            // newer.
            found = self.identity_of_any_age().await?;
            noted = self.age.note_identity(found.as_deref());
        }
        self.dropping_what_is_cached(self.age.note_other(noted.err()))?;
        Ok(found)
    }

    async fn identity_of_any_age(&self) -> Result<Option<String>, StoreError> {
        Ok(self.read_of_any_age::<String>(&self.keys.identity()).await?.map(|found| found.value))
    }

    /// Counts a change that took access away, after or together with the change itself. If the Redis user has no
    /// permission for this, the change is counted later, because it has been made and must not be reported as
    /// failed.
    pub(super) async fn count_change(&self) -> Result<(), StoreError> {
        let asked = self.age.known_now();
        match history::count(&self.connection, &self.keys, (asked.mark, self.age.process())).await {
            Ok((before, token)) => {
                let compared = self.age.compare_counted(asked, before, token);
                self.told_others(asked, before, compared).await
            }
            Err(error) if lacks_permission(&error) => {
                self.age.owe();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Counts the changes that could not be counted when they were made. Incrementing the number once is
    /// enough for all of them.
    pub(super) async fn count_owed(&self) -> Result<(), StoreError> {
        if !self.age.take_owed() {
            return Ok(());
        }
        let counted = self.count_change().await;
        if counted.is_err() {
            self.age.owe();
        }
        counted
    }
}
