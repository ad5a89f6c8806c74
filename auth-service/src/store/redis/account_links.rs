//! The links between accounts and the users of other issuers.

use async_trait::async_trait;

use crate::domain::account::Subject;
use crate::store::{AccountLinkStore, Deletion, Linking, StoreError};

use super::RedisStore;
use super::cells::Found;

#[async_trait]
impl AccountLinkStore for RedisStore {
    async fn linked_account(&self, issuer: &str, sub: &str) -> Result<Option<Subject>, StoreError> {
        Ok(self.cells.read(&self.cells.keys.link(issuer, sub)).await?.map(|found| found.value))
    }

    async fn link_account(&self, issuer: &str, sub: &str, subject: &Subject) -> Result<Linking, StoreError> {
        let cells = &self.cells;
        let (there, back) = (cells.keys.link(issuer, sub), cells.keys.link_back(issuer, subject));
        // The row that maps the account to the user is written first and decides between concurrent calls, so that
        // an account is linked to only one user of an issuer.
        let text = sub.to_owned();
        if !cells.swap(&back, None::<&Found<()>>, &text, None).await?
            && cells.read::<String>(&back).await?.is_none_or(|found| found.value != text)
        {
            return Ok(Linking::OtherLink);
        }
        if cells.swap(&there, None::<&Found<()>>, subject, None).await? {
            return Ok(Linking::Linked);
        }
        if cells.read::<Subject>(&there).await?.is_some_and(|found| found.value == *subject) {
            return Ok(Linking::Linked);
        }
        cells.remove(&back).await?;
        Ok(Linking::OtherLink)
    }

    async fn unlink_account(&self, issuer: &str, subject: &Subject) -> Result<Deletion, StoreError> {
        let back = self.cells.keys.link_back(issuer, subject);
        let Some(found) = self.cells.read::<String>(&back).await? else { return Ok(Deletion::Missing) };
        self.cells.remove(&self.cells.keys.link(issuer, &found.value)).await?;
        let is_deleted = self.cells.remove_found(&back, &found).await?;
        self.cells.count_change().await?;
        Ok(if is_deleted { Deletion::Deleted } else { Deletion::Missing })
    }
}
