//! The consents that are remembered, so that users are not asked again.

use async_trait::async_trait;

use crate::domain::account::Subject;
use crate::domain::client::ClientId;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::consent::{Approval, Consent};
use crate::domain::opaque_token::TokenHash;
use crate::store::rules::with_consent;
use crate::store::{ConsentStore, StoreError};

use super::EmbeddedStore;
use super::holdings::{self, New};
use super::rows::Rows;
use super::tables::Table;

#[async_trait]
impl ConsentStore for EmbeddedStore {
    async fn consent(
        &self,
        subject: &Subject,
        client: &ClientId,
        now: UnixTime,
    ) -> Result<Option<Consent>, StoreError> {
        self.read(|rows| rows.get_live(Table::Consents, &consent_key(subject, client), now))
    }

    async fn add_consent(
        &self,
        approval: &Approval,
        used: &ClientUse,
        until: UnixTime,
    ) -> Result<(), StoreError> {
        let key = consent_key(&used.user, &used.client.id);
        let (used, approval) = (used.clone(), approval.clone());
        self.writer
            .write(move |rows| {
                let known: Option<Consent> = rows.get_live(Table::Consents, &key, used.at)?;
                let consent = with_consent(known, &used.user, &used.client, &approval);
                let end = used.extend(rows.end(Table::Consents, &key)?, until);
                rows.put(Table::Consents, &key, &consent, Some(end))?;
                holdings::hold(rows, &New::consent(&key, &used.user, used.at, end)).map(|_| ())
            })
            .await
    }

    async fn forget_consent(&self, subject: &Subject, client: &ClientId) -> Result<(), StoreError> {
        let (key, subject) = (consent_key(subject, client), subject.clone());
        self.writer
            .write_even_late(move |rows| {
                rows.remove(Table::Consents, &key)?;
                holdings::release(rows, &New::consent(&key, &subject, UnixTime(0), UnixTime(0)))
            })
            .await
    }
}

fn consent_key(subject: &Subject, client: &ClientId) -> String {
    TokenHash::of(format!("{subject}\n{client}").as_bytes()).text()
}
