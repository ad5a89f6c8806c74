//! The consents that are remembered, so that users are not asked again.

use async_trait::async_trait;

use crate::domain::account::Subject;
use crate::domain::client::ClientId;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::consent::{Approval, Consent};
use crate::store::rules::with_consent;
use crate::store::{ConsentStore, StoreError};

use super::RedisStore;
use super::cells::{Found, Life};
use super::holdings::{self, New};
use super::keys::consent_name;
use super::tries::Tries;

#[async_trait]
impl ConsentStore for RedisStore {
    async fn consent(
        &self,
        subject: &Subject,
        client: &ClientId,
        now: UnixTime,
    ) -> Result<Option<Consent>, StoreError> {
        self.cells.live(&self.cells.keys.consent(subject, client), now).await
    }

    async fn add_consent(
        &self,
        approval: &Approval,
        used: &ClientUse,
        until: UnixTime,
    ) -> Result<(), StoreError> {
        let now = used.at;
        let key = self.cells.keys.consent(&used.user, &used.client.id);
        let mut tries = Tries::default();
        loop {
            tries.next().await?;
            let found = self.cells.read::<Consent>(&key).await?;
            let known = found.as_ref().filter(|found| found.is_live(now)).map(|found| found.value.clone());
            let consent = with_consent(known, &used.user, &used.client, approval);
            let until = used.extend(found.as_ref().and_then(Found::expiry), until);
            let life = Life { until, now };
            let name = consent_name(&used.user, &used.client.id);
            if self.cells.swap(&key, found.as_ref(), &consent, Some(life)).await? {
                holdings::hold(&self.cells, &New::consent(&name, &used.user, life)).await;
                return Ok(());
            }
        }
    }

    async fn forget_consent(&self, subject: &Subject, client: &ClientId) -> Result<(), StoreError> {
        self.cells.take_away(&self.cells.keys.consent(subject, client)).await?;
        let (name, ended) = (consent_name(subject, client), Life { until: UnixTime(0), now: UnixTime(0) });
        holdings::release(&self.cells, &New::consent(&name, subject, ended)).await;
        Ok(())
    }
}
