//! Device authorizations. Like a code, a device authorization is in the slot of the grant that it creates, so that
//! it can be redeemed in one step. Two pointer rows lead to it, one for the device code and one for the user code.

use async_trait::async_trait;
use futures_util::future::try_join3;

use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::device::{DeviceAuthorization, DeviceState, Poll, UserCode};
use crate::domain::grant::Grant;
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::store::rules::device_kept_until;
use crate::store::{Addition, Admission, Decision, DeviceStore, Redemption, StoreError};

use super::cells::{Cells, Found, Life};
use super::holdings;
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
impl DeviceStore for RedisStore {
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
        Ok(found.filter(|device| device.is_open(now)).map(|device| (code, device)))
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
}
