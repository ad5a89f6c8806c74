//! The accounts of users, and of clients that act for themselves.

use async_trait::async_trait;

use crate::domain::account::{Account, Group, StoredPassword, Subject, Username};

use super::{Addition, Change, Deletion, StoreError};

/// Stores accounts.
#[async_trait]
pub trait AccountStore: Send + Sync {
    /// Adds an account. Its user name must not be taken.
    async fn add_account(&self, account: &Account) -> Result<Addition, StoreError>;
    /// Deletes an account.
    async fn remove_account(&self, subject: &Subject) -> Result<Deletion, StoreError>;
    /// The account with this user name.
    async fn account_named(&self, username: &Username) -> Result<Option<Account>, StoreError>;
    /// The account with this subject.
    async fn account(&self, subject: &Subject) -> Result<Option<Account>, StoreError>;
    /// All accounts, sorted by user name.
    async fn accounts(&self) -> Result<Vec<Account>, StoreError>;
    /// Replaces a password and ends all login sessions. Returns the updated account, or `None` if the password is
    /// no longer `old` or there is no account.
    async fn replace_password(
        &self,
        subject: &Subject,
        old: &StoredPassword,
        new: &StoredPassword,
    ) -> Result<Option<Account>, StoreError>;
    /// Disables or enables an account. Disabling it ends all login sessions, and its tokens are not valid while
    /// it is disabled.
    async fn set_account_disabled(&self, subject: &Subject, disabled: bool) -> Result<Change, StoreError>;
    /// Replaces the groups of an account.
    async fn set_account_groups(&self, subject: &Subject, groups: &[Group]) -> Result<Change, StoreError>;
    /// Replaces the email address of an account.
    async fn set_account_email(&self, subject: &Subject, email: Option<&str>) -> Result<Change, StoreError>;
}
