//! Grants and their refresh tokens.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join, try_join_all, try_join3, try_join4};

use crate::domain::account::{Account, Subject};
use crate::domain::client::ClientId;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::grant::Grant;
use crate::domain::grant_id::GrantId;
use crate::domain::refresh_token::HashedRefreshToken;
use crate::domain::replaced_token::RefreshUse;
use crate::store::rules;
use crate::store::{DirectGrant, GrantStore, Rotation, StoreError, Successor};

use super::cells::{Cells, Found, Life};
use super::holdings::{self, New};
use super::server_clock::Deadline;
use super::tries::Tries;
use super::{RedisStore, accounts, client_use, clients};

#[async_trait]
impl GrantStore for RedisStore {
    async fn add_grant(&self, grant: &Grant, used: &ClientUse) -> Result<DirectGrant, StoreError> {
        add(&self.cells, grant, used).await
    }

    async fn grant(&self, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError> {
        live(&self.cells, id, now).await
    }

    async fn grant_of_refresh(
        &self,
        token: &HashedRefreshToken,
        now: UnixTime,
    ) -> Result<Option<Grant>, StoreError> {
        live_of_refresh(&self.cells, token, now).await
    }

    async fn rotate_refresh(
        &self,
        presented: &HashedRefreshToken,
        successor: &Successor,
        used: &ClientUse,
        grace: Duration,
    ) -> Result<Rotation, StoreError> {
        rotate(&self.cells, presented, successor, used, grace).await
    }

    async fn grants_of(&self, subject: &Subject, now: UnixTime) -> Result<Vec<Grant>, StoreError> {
        let ids = holdings::grants(&self.cells, subject).await?;
        let found = try_join_all(ids.iter().map(|id| live(&self.cells, id, now))).await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn revoke_grant(&self, id: &GrantId) -> Result<(), StoreError> {
        holdings::remove_grant(&self.cells, id).await
    }

    async fn held_grant(
        &self,
        id: &GrantId,
        client: &ClientId,
        subject: &Subject,
        now: UnixTime,
    ) -> Result<Option<(Grant, Account)>, StoreError> {
        held(&self.cells, id, client, subject, now).await
    }
}

/// Adds a grant to the list of its account, and deletes the grants that then exceed the limits. Returns the
/// deleted grants. A grant without a refresh token expires soon and does not count.
pub(super) async fn hold(cells: &Cells, grant: &Grant, now: UnixTime) -> Vec<Grant> {
    if grant.refresh.is_none() {
        return Vec::new();
    }
    holdings::hold(cells, &New::grant(grant, now)).await
}

/// Creates a grant without a code.
async fn add(cells: &Cells, grant: &Grant, used: &ClientUse) -> Result<DirectGrant, StoreError> {
    if client_use::note(cells, used).await?.is_none() {
        return Ok(DirectGrant::ClientGone);
    }
    let life = Life { until: grant.expires_at, now: used.at };
    cells.write(&cells.keys.grant(&grant.id), grant, life).await?;
    Ok(DirectGrant::Created)
}

async fn found(cells: &Cells, id: &GrantId, now: UnixTime) -> Result<Option<Found<Grant>>, StoreError> {
    let found = cells.read::<Grant>(&cells.keys.grant(id)).await?;
    Ok(found.filter(|found| !found.value.is_expired(now)))
}

async fn live(cells: &Cells, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError> {
    Ok(found(cells, id, now).await?.map(|found| found.value))
}

async fn live_of_refresh(
    cells: &Cells,
    token: &HashedRefreshToken,
    now: UnixTime,
) -> Result<Option<Grant>, StoreError> {
    match live(cells, token.grant(), now).await? {
        None => cells.absent(None).await,
        found => Ok(found.filter(|grant| grant.has_issued(token))),
    }
}

/// Decides on a refresh token, and applies the decision. This takes two round trips, one to read and one to
/// write.
async fn rotate(
    cells: &Cells,
    presented: &HashedRefreshToken,
    successor: &Successor,
    used: &ClientUse,
    grace: Duration,
) -> Result<Rotation, StoreError> {
    let now = used.at;
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let key = cells.keys.grant(presented.grant());
        let (found, client, deadline) = try_join3(
            found(cells, presented.grant(), now),
            client_use::read(cells, used),
            Deadline::of(&cells.connection, &key),
        )
        .await?;
        let Some(found) = found else {
            return Ok(Rotation::Unknown);
        };
        let (by_store, grace) = (deadline.read_at(used), cells.connection.grace(grace));
        match found.value.judge_refresh(presented, used.time(by_store), &grace) {
            RefreshUse::Current => {
                if client_use::note_read(cells, used, client).await?.is_none() {
                    return Ok(Rotation::Unknown);
                }
                let mut grant = found.value.clone();
                successor.replace(&mut grant, used, by_store);
                let life = Life { until: grant.expires_at, now };
                let change = cells.swap_in_time(&key, &found, &grant, life, deadline);
                let held = New::grant(&grant, now);
                let (changed, noted) = join(change, holdings::note(cells, &held)).await;
                holdings::log_error(noted);
                if changed? {
                    return Ok(Rotation::Rotated(grant));
                }
            }
            RefreshUse::Repeated { sealed_successor } => {
                return Ok(Rotation::Repeated { grant: found.value, sealed_successor });
            }
            // A used token stays used, even if the grant changes at the same time.
            RefreshUse::Reused => {
                holdings::remove_grant(cells, &found.value.id).await?;
                return Ok(Rotation::Reused(found.value.id));
            }
            RefreshUse::Undatable => return Ok(Rotation::Undatable),
            RefreshUse::Foreign => return Ok(Rotation::Unknown),
        }
    }
}

/// The grant and account that a check needs. All three rows and the age of the data are read at the same time,
/// because concurrent commands are sent to Redis together.
async fn held(
    cells: &Cells,
    id: &GrantId,
    client: &ClientId,
    subject: &Subject,
    now: UnixTime,
) -> Result<Option<(Grant, Account)>, StoreError> {
    let (grant, client, account, ()) = try_join4(
        live(cells, id, now),
        clients::live(cells, client, now),
        accounts::by_subject(cells, subject),
        cells.check_age(),
    )
    .await?;
    let Some((grant, account)) = rules::held(grant, client.as_ref(), account) else {
        return Ok(None);
    };
    if let Some(parent) = &grant.parent {
        let Some(parent) = live(cells, parent, now).await? else {
            return Ok(None);
        };
        let client = clients::live(cells, &parent.client_id, now).await?;
        if !client.is_some_and(|client| parent.is_held_by(&client)) {
            return Ok(None);
        }
    }
    Ok(Some((grant, account)))
}
