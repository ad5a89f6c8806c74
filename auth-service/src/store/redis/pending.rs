//! Device authorizations, pushed requests and remembered consents. Like a code, a device authorization is in the
//! slot of the grant that it creates, so that it can be redeemed in one step. Two pointer rows lead to it, one for
//! the device code and one for the user code.

use async_trait::async_trait;
use futures_util::future::try_join3;

use crate::domain::account::Subject;
use crate::domain::client::ClientId;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::consent::{Approval, Consent};
use crate::domain::device::{DeviceAuthorization, DeviceState, Poll, UserCode};
use crate::domain::grant::Grant;
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::domain::pushed_request::PushedRequest;
use crate::store::pending::PendingStore;
use crate::store::rules::{device_kept_until, with_consent};
use crate::store::{Addition, Admission, Decision, Deletion, Linking, Redemption, StoreError};

use super::cells::{Cells, Found, Life};
use super::holdings::{self, New};
use super::keys::consent_name;
use super::server_clock::Deadline;
use super::tries::Tries;
use super::{RedisStore, client_use, grants, places};

/// The key and the content of a device authorization.
type Device = (String, Found<DeviceAuthorization>);

async fn device(cells: &Cells, code: &TokenHash, now: UnixTime) -> Result<Option<Device>, StoreError> {
    let Some(grant) = cells.live::<GrantId>(&cells.keys.grant_of_device(code), now).await? else {
        return Ok(None);
    };
    let place = cells.keys.device(&grant, code);
    Ok(cells.read_live(&place, now).await?.map(|found| (place, found)))
}

fn life(device: &DeviceAuthorization, now: UnixTime) -> Life {
    Life { until: device_kept_until(device), now }
}

#[async_trait]
impl PendingStore for RedisStore {
    async fn reserve_device(
        &self,
        name: &TokenHash,
        until: UnixTime,
        now: UnixTime,
        ceiling: u64,
    ) -> Result<Admission, StoreError> {
        let pool = self.cells.keys.pool_of_devices();
        places::reserve(&self.cells, &pool, name.text(), (until, now), ceiling).await
    }

    async fn add_device(
        &self,
        code: &TokenHash,
        user_code: &UserCode,
        asked: &DeviceAuthorization,
    ) -> Result<Addition, StoreError> {
        let cells = &self.cells;
        let now = asked.asked_at;
        let user_key = cells.keys.device_of_user(user_code);
        let before = cells.read::<TokenHash>(&user_key).await?;
        if before.as_ref().is_some_and(|found| found.is_live(now)) {
            return Ok(Addition::Taken);
        }
        let kept = life(asked, now);
        cells.write(&cells.keys.grant_of_device(code), &asked.grant_id, kept).await?;
        cells.write(&cells.keys.device(&asked.grant_id, code), asked, kept).await?;
        // The user code decides between concurrent calls. The caller that loses must choose a different user code.
        let life = Life { until: asked.expires_at, now };
        let is_added = cells.swap(&user_key, before.as_ref(), code, Some(life)).await?;
        Ok(if is_added { Addition::Added } else { Addition::Taken })
    }

    async fn device(
        &self,
        code: &TokenHash,
        now: UnixTime,
    ) -> Result<Option<DeviceAuthorization>, StoreError> {
        Ok(device(&self.cells, code, now).await?.map(|(_, found)| found.value))
    }

    async fn device_of_user(
        &self,
        user_code: &UserCode,
        now: UnixTime,
    ) -> Result<Option<(TokenHash, DeviceAuthorization)>, StoreError> {
        let key = self.cells.keys.device_of_user(user_code);
        let Some(code) = self.cells.live::<TokenHash>(&key, now).await? else {
            return Ok(None);
        };
        let found = device(&self.cells, &code, now).await?.map(|(_, found)| found.value);
        Ok(found
            .filter(|device| device.state == DeviceState::Pending && !device.is_expired(now))
            .map(|device| (code, device)))
    }

    async fn decide_device(
        &self,
        code: &TokenHash,
        decision: &DeviceState,
        now: UnixTime,
    ) -> Result<Decision, StoreError> {
        let mut tries = Tries::default();
        loop {
            tries.next().await?;
            let Some((place, found)) = device(&self.cells, code, now).await? else {
                return Ok(Decision::TooLate);
            };
            let mut decided = found.value.clone();
            if !decided.decide(decision.clone(), now) {
                return Ok(Decision::TooLate);
            }
            // A device authorization is kept for longer when it is redeemed, and so is the pointer to it.
            let kept = life(&decided, now);
            let redeemed = DeviceAuthorization { state: DeviceState::Redeemed, ..decided.clone() };
            let pointer = self.cells.keys.grant_of_device(code);
            self.cells.write(&pointer, &decided.grant_id, life(&redeemed, now)).await?;
            if self.cells.swap(&place, Some(&found), &decided, Some(kept)).await? {
                return Ok(Decision::Stored);
            }
        }
    }

    async fn poll_device(&self, code: &TokenHash, now: UnixTime) -> Result<Poll, StoreError> {
        let mut tries = Tries::default();
        loop {
            tries.next().await?;
            let Some((place, found)) = device(&self.cells, code, now).await? else {
                return Ok(Poll::Unknown);
            };
            let mut polled = found.value.clone();
            let poll = polled.poll(now);
            match &poll {
                Poll::Redeemed(grant) => {
                    holdings::remove_grant(&self.cells, grant).await?;
                    return Ok(poll);
                }
                Poll::Unknown => return Ok(poll),
                _ => {}
            }
            if self.cells.swap_keeping(&place, &found, &polled).await? {
                return Ok(poll);
            }
        }
    }

    /// This takes three round trips.
    async fn redeem_device(
        &self,
        code: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError> {
        let cells = &self.cells;
        let (place, now) = (cells.keys.device(&grant.id, code), used.at);
        let grant_life = Life { until: grant.expires_at, now };
        let mut tries = Tries::default();
        loop {
            tries.next().await?;
            let (found, client, deadline) = try_join3(
                cells.read_live::<DeviceAuthorization>(&place, now),
                client_use::read(cells, used),
                Deadline::of(&cells.connection, &place),
            )
            .await?;
            let Some(found) = found else {
                return Ok(Redemption::Unknown);
            };
            match found.value.state {
                DeviceState::Redeemed => {
                    holdings::remove_grant(cells, &found.value.grant_id).await?;
                    return Ok(Redemption::Replayed);
                }
                DeviceState::Allowed { .. } if !found.value.is_expired(now) => {}
                _ => return Ok(Redemption::Unknown),
            }
            let Some(client) = client_use::note_read(cells, used, client).await? else {
                return Ok(Redemption::Unknown);
            };
            let grant = &Grant { registration: client.registration, ..grant.clone() };
            let redeemed = DeviceAuthorization { state: DeviceState::Redeemed, ..found.value.clone() };
            let device_life = life(&redeemed, now);
            let key = cells.keys.grant(&grant.id);
            let added = (key.as_str(), grant, grant_life);
            if cells.swap_and_add((&place, &found, &redeemed, device_life), added, deadline).await? {
                return Ok(Redemption::Redeemed { displaced: grants::hold(cells, grant, now).await });
            }
        }
    }

    async fn push_request(
        &self,
        handle: &TokenHash,
        request: &PushedRequest,
        now: UnixTime,
        earliest: UnixTime,
    ) -> Result<Admission, StoreError> {
        match places::take(&self.cells, &self.key, handle, request, earliest).await? {
            Admission::Admitted => {}
            Admission::Full => return Ok(Admission::Full),
        }
        let life = Life { until: request.expires_at, now };
        self.cells.write(&self.cells.keys.pushed_request(handle), request, life).await?;
        Ok(Admission::Admitted)
    }

    async fn pushed_request(
        &self,
        handle: &TokenHash,
        now: UnixTime,
    ) -> Result<Option<PushedRequest>, StoreError> {
        self.cells.live(&self.cells.keys.pushed_request(handle), now).await
    }

    async fn forget_pushed_request(&self, handle: &TokenHash) -> Result<(), StoreError> {
        let key = self.cells.keys.pushed_request(handle);
        if let Some(found) = self.cells.read::<PushedRequest>(&key).await? {
            places::leave(&self.cells, &self.key, handle, &found.value).await?;
        }
        self.cells.remove(&key).await.map(|_| ())
    }

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
