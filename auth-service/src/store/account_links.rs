//! The links between accounts and the users of other issuers.

use async_trait::async_trait;

use crate::domain::account::Subject;

use super::{Deletion, Linking, StoreError};

/// Stores the links between accounts and the users of other issuers.
#[async_trait]
pub trait AccountLinkStore: Send + Sync {
    /// The account that is linked to a user of another issuer.
    async fn linked_account(&self, issuer: &str, sub: &str) -> Result<Option<Subject>, StoreError>;
    /// Links a user of another issuer to an account, unless one of the two already has a different link. Each user of
    /// an issuer has at most one account.
    async fn link_account(&self, issuer: &str, sub: &str, subject: &Subject) -> Result<Linking, StoreError>;
    /// Deletes the link between an account and a user of that issuer.
    async fn unlink_account(&self, issuer: &str, subject: &Subject) -> Result<Deletion, StoreError>;
}
