//! Grants and their refresh tokens.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::account::{Account, Subject};
use crate::domain::client::ClientId;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::grant::Grant;
use crate::domain::grant_id::GrantId;
use crate::domain::refresh_token::HashedRefreshToken;
use crate::domain::replaced_token::{Grace, RefreshUse, StoreTime};
use crate::store::rules;
use crate::store::{DirectGrant, GrantStore, Rotation, StoreError, Successor};

use super::holdings::{self, New};
use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;
use super::{EmbeddedStore, client_use, clients};

#[async_trait]
impl GrantStore for EmbeddedStore {
    async fn add_grant(&self, grant: &Grant, used: &ClientUse) -> Result<DirectGrant, StoreError> {
        let (grant, used) = (grant.clone(), used.clone());
        self.writer.write(move |rows| add(rows, &grant, &used)).await
    }

    async fn grant(&self, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError> {
        self.read(|rows| live(rows, id, now))
    }

    async fn grant_of_refresh(
        &self,
        token: &HashedRefreshToken,
        now: UnixTime,
    ) -> Result<Option<Grant>, StoreError> {
        self.read(|rows| of_refresh(rows, token, now))
    }

    async fn rotate_refresh(
        &self,
        presented: &HashedRefreshToken,
        successor: &Successor,
        used: &ClientUse,
        grace: Duration,
    ) -> Result<Rotation, StoreError> {
        let by_store = self.time_at(used);
        // A repeated request needs no write, so it does not have to wait for a slow disk.
        let repeated =
            self.read(|rows| repeat(rows, presented, used, (&self.disk.grace(grace), by_store)))?;
        if let Some(repeated) = repeated {
            return Ok(repeated);
        }
        let (presented, successor, used) = (presented.clone(), successor.clone(), used.clone());
        let disk = Arc::clone(&self.disk);
        let work = move |rows: &Writable<'_>| {
            rotate(rows, &presented, &successor, &used, (&disk.grace(grace), by_store))
        };
        self.writer.write(work).await
    }

    async fn grants_of(&self, subject: &Subject, now: UnixTime) -> Result<Vec<Grant>, StoreError> {
        self.read(|rows| holdings::grants(rows, subject, now))
    }

    async fn revoke_grant(&self, id: &GrantId) -> Result<(), StoreError> {
        let id = id.clone();
        self.writer.write_even_late(move |rows| holdings::remove_grant(rows, &id)).await
    }

    async fn held_grant(
        &self,
        id: &GrantId,
        client: &ClientId,
        subject: &Subject,
        now: UnixTime,
    ) -> Result<Option<(Grant, Account)>, StoreError> {
        self.read(|rows| held(rows, id, client, subject, now))
    }
}

/// The grant with this identifier, unless it has expired.
fn live(rows: &impl Rows, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError> {
    let grant: Option<Grant> = rows.get(Table::Grants, id.as_str())?;
    Ok(grant.filter(|grant| !grant.is_expired(now)))
}

/// The grant that issued a refresh token, whether or not the token has been used.
fn of_refresh(
    rows: &impl Rows,
    token: &HashedRefreshToken,
    now: UnixTime,
) -> Result<Option<Grant>, StoreError> {
    Ok(live(rows, token.grant(), now)?.filter(|grant| grant.has_issued(token)))
}

pub(super) fn put(rows: &Writable<'_>, grant: &Grant) -> Result<(), StoreError> {
    rows.put(Table::Grants, grant.id.as_str(), grant, Some(grant.expires_at))
}

/// Adds a grant to the list of its account, and deletes the grants that then exceed the limits. Returns the
/// deleted grants. A grant without a refresh token expires soon and does not count.
pub(super) fn hold(rows: &Writable<'_>, grant: &Grant, now: UnixTime) -> Result<Vec<Grant>, StoreError> {
    if grant.refresh.is_none() {
        return Ok(Vec::new());
    }
    holdings::hold(rows, &New::grant(grant, now))
}

/// Creates a grant without a code.
fn add(rows: &Writable<'_>, grant: &Grant, used: &ClientUse) -> Result<DirectGrant, StoreError> {
    if client_use::note(rows, used)?.is_none() {
        return Ok(DirectGrant::ClientGone);
    }
    put(rows, grant)?;
    Ok(DirectGrant::Created)
}

/// The result of using a refresh token, if this repeats the last use and therefore changes nothing.
fn repeat(
    rows: &impl Rows,
    presented: &HashedRefreshToken,
    used: &ClientUse,
    (grace, by_store): (&Grace, Option<StoreTime>),
) -> Result<Option<Rotation>, StoreError> {
    let Some(grant) = of_refresh(rows, presented, used.at)? else { return Ok(None) };
    Ok(match grant.judge_refresh(presented, used.time(by_store), grace) {
        RefreshUse::Repeated { sealed_successor } => Some(Rotation::Repeated { grant, sealed_successor }),
        _ => None,
    })
}

/// Decides on a refresh token, and applies the decision.
fn rotate(
    rows: &Writable<'_>,
    presented: &HashedRefreshToken,
    successor: &Successor,
    used: &ClientUse,
    (grace, by_store): (&Grace, Option<StoreTime>),
) -> Result<Rotation, StoreError> {
    let now = used.at;
    let Some(mut grant) = of_refresh(rows, presented, now)? else {
        return Ok(Rotation::Unknown);
    };
    match grant.judge_refresh(presented, used.time(by_store), grace) {
        RefreshUse::Current => {
            if client_use::note(rows, used)?.is_none() {
                return Ok(Rotation::Unknown);
            }
            successor.replace(&mut grant, used, by_store);
            put(rows, &grant)?;
            holdings::note(rows, &New::grant(&grant, now))?;
            Ok(Rotation::Rotated(grant))
        }
        RefreshUse::Repeated { sealed_successor } => Ok(Rotation::Repeated { grant, sealed_successor }),
        RefreshUse::Reused => {
            holdings::remove_grant(rows, &grant.id)?;
            Ok(Rotation::Reused(grant.id))
        }
        RefreshUse::Undatable => Ok(Rotation::Undatable),
        RefreshUse::Foreign => Ok(Rotation::Unknown),
    }
}

/// The grant and account that a check needs.
fn held(
    rows: &impl Rows,
    id: &GrantId,
    client: &ClientId,
    subject: &Subject,
    now: UnixTime,
) -> Result<Option<(Grant, Account)>, StoreError> {
    let grant = live(rows, id, now)?;
    let client = clients::live(rows, client, now)?;
    let account = rows.get(Table::Accounts, subject.as_str())?;
    let Some((grant, account)) = rules::held(grant, client.as_ref(), account) else {
        return Ok(None);
    };
    if let Some(parent) = &grant.parent
        && !live(rows, parent, now)?.map_or(Ok(false), |parent| is_held(rows, &parent, now))?
    {
        return Ok(None);
    }
    Ok(Some((grant, account)))
}

fn is_held(rows: &impl Rows, grant: &Grant, now: UnixTime) -> Result<bool, StoreError> {
    let client = clients::live(rows, &grant.client_id, now)?;
    Ok(client.is_some_and(|client| grant.is_held_by(&client)))
}
