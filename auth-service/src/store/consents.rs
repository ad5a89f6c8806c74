//! The consents that are remembered, so that users are not asked again.

use async_trait::async_trait;

use crate::domain::account::Subject;
use crate::domain::client::ClientId;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::consent::{Approval, Consent};

use super::StoreError;

/// Stores what users have allowed clients.
#[async_trait]
pub trait ConsentStore: Send + Sync {
    /// What a user has allowed a client. The caller must check with [`Consent::is_to`] whether it is still the
    /// same client.
    async fn consent(
        &self,
        subject: &Subject,
        client: &ClientId,
        now: UnixTime,
    ) -> Result<Option<Consent>, StoreError>;
    /// Adds `approval` to the consent of the user in `used` to the client in `used`, which has the metadata that the
    /// user was shown. The whole consent is kept until `until` ([`ClientUse::extend`]). If the user has consented
    /// to too many clients, the oldest consent is deleted.
    async fn add_consent(
        &self,
        approval: &Approval,
        used: &ClientUse,
        until: UnixTime,
    ) -> Result<(), StoreError>;
    /// Deletes a consent, so that the user will be asked for it again.
    async fn forget_consent(&self, subject: &Subject, client: &ClientId) -> Result<(), StoreError>;
}
