//! Login sessions.

use async_trait::async_trait;

use crate::domain::account::LoginSession;
use crate::domain::clock::UnixTime;
use crate::domain::opaque_token::TokenHash;
use crate::store::{SessionStore, StoreError};

use super::rows::Rows;
use super::tables::Table;
use super::{EmbeddedStore, holdings};

#[async_trait]
impl SessionStore for EmbeddedStore {
    async fn add_session(&self, session: &LoginSession) -> Result<(), StoreError> {
        let session = session.clone();
        self.writer
            .write(move |rows| {
                rows.put(Table::Sessions, &session.id.text(), &session, Some(session.expires_at))?;
                holdings::hold(rows, &holdings::New::session(&session)).map(|_| ())
            })
            .await
    }

    async fn session(&self, id: &TokenHash, now: UnixTime) -> Result<Option<LoginSession>, StoreError> {
        let session: Option<LoginSession> = self.read(|rows| rows.get(Table::Sessions, &id.text()))?;
        Ok(session.filter(|session| session.expires_at > now))
    }

    async fn end_session(&self, id: &TokenHash) -> Result<(), StoreError> {
        let key = id.text();
        self.writer.write_even_late(move |rows| holdings::remove_session(rows, &key)).await
    }
}
