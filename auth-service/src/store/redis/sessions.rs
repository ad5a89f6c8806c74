//! Login sessions.

use async_trait::async_trait;

use crate::domain::account::LoginSession;
use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::store::{SessionStore, StoreError};

use super::cells::Life;
use super::{RedisStore, holdings};

#[async_trait]
impl SessionStore for RedisStore {
    async fn add_session(&self, session: &LoginSession) -> Result<(), StoreError> {
        // Sessions are added within a second of the login, so the time of login is the current time.
        let life = Life { until: session.expires_at, now: session.authenticated_at };
        let key = self.cells.keys.session(&session.id);
        let turn = self.cells.turn(&session.subject).await;
        self.cells.write(&key, session, life).await?;
        let held = holdings::try_hold(&self.cells, &holdings::New::session(session), &turn).await;
        if held.is_err() {
            // The login is refused, so its session is removed. The session might be in no list, and would
            // then not count against the limit of its account.
            let _ = self.cells.remove(&key).await;
        }
        held.map(|_| ())
    }

    async fn session(&self, id: &TokenHash, now: UnixTime) -> Result<Option<LoginSession>, StoreError> {
        self.cells.live(&self.cells.keys.session(id), now).await
    }

    async fn end_session(&self, id: &TokenHash) -> Result<(), StoreError> {
        holdings::remove_session(&self.cells, id).await
    }
}
