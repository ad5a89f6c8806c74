//! Login sessions.

use async_trait::async_trait;

use crate::domain::account::LoginSession;
use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;

use super::StoreError;

/// Stores login sessions.
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Stores a login session. If its account has too many, the oldest of them is deleted.
    async fn add_session(&self, session: &LoginSession) -> Result<(), StoreError>;
    /// The login session with this cookie hash, unless it has expired.
    async fn session(&self, id: &TokenHash, now: UnixTime) -> Result<Option<LoginSession>, StoreError>;
    /// Deletes a login session.
    async fn end_session(&self, id: &TokenHash) -> Result<(), StoreError>;
}
