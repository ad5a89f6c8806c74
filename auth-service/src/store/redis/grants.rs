//! Codes and grants. A code lies in the slot of the grant that it makes, so that redeeming it is one step. What leads
//! there (from a code, from a refresh token) is written first: nothing live can be out of reach.

use std::time::Duration;

use futures_util::future::{try_join, try_join3};

use crate::domain::account::{Account, Subject};
use crate::domain::client::{ClientId, ClientUse};
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant, GrantId, RefreshUse};
use crate::domain::opaque_token::TokenHash;
use crate::store::rules::{self, CodeRow};
use crate::store::{FoundCode, Redemption, Rotation, StoreError, Successor};

use super::cells::{Cells, Found, Life, Tries};
use super::{accounts, clients};

pub(super) async fn add_code(
    cells: &Cells,
    approval: &str,
    hash: &TokenHash,
    code: &AuthorizationCode,
    used: &ClientUse,
) -> Result<bool, StoreError> {
    let approval = cells.keys.approval(approval);
    let before = cells.read::<String>(&approval).await?;
    if before.as_ref().is_some_and(|found| found.is_live(used.at)) {
        return Ok(false);
    }
    let Some(client) = clients::note_use(cells, used).await? else {
        return Ok(false);
    };
    let row = CodeRow::new(code, &client);
    let life = Life { until: row.forget_at(), now: used.at };
    let (pointer, place) = (cells.keys.grant_of_code(hash), cells.keys.code(&code.grant_id, hash));
    let code_row = cells.swap(&place, None::<&Found<()>>, &row, Some(life));
    try_join(cells.write(&pointer, &code.grant_id, life), code_row).await?;
    // The approval decides. Whoever is late has made a code that nobody was told, and that goes with its time.
    cells.swap(&approval, before.as_ref(), &hash.text(), Some(life)).await
}

pub(super) async fn find_code(
    cells: &Cells,
    hash: &TokenHash,
    now: UnixTime,
) -> Result<FoundCode, StoreError> {
    let Some(grant) = cells.live::<GrantId>(&cells.keys.grant_of_code(hash), now).await? else {
        return Ok(FoundCode::Unknown);
    };
    match cells.live::<CodeRow>(&cells.keys.code(&grant, hash), now).await? {
        Some(row) if row.redeemed => {
            revoke(cells, &row.code.grant_id).await?;
            Ok(FoundCode::Replayed(row.code.grant_id))
        }
        Some(row) if row.code.expires_at > now => Ok(FoundCode::Live(row.code)),
        _ => Ok(FoundCode::Unknown),
    }
}

/// Two round trips. What leads to the grant from its refresh token is written together with the first questions: as long
/// as there is no grant, it leads nowhere.
pub(super) async fn redeem_code(
    cells: &Cells,
    hash: &TokenHash,
    grant: &Grant,
    used: &ClientUse,
) -> Result<Redemption, StoreError> {
    let (place, now) = (cells.keys.code(&grant.id, hash), used.at);
    let life = Life { until: grant.expires_at, now };
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let (found, client, ()) = try_join3(
            cells.read_live::<CodeRow>(&place, now),
            clients::of_use(cells, used),
            lead_to(cells, grant, life),
        )
        .await?;
        let Some(found) = found else {
            return Ok(Redemption::Unknown);
        };
        if found.value.redeemed {
            revoke(cells, &found.value.code.grant_id).await?;
            return Ok(Redemption::Replayed);
        }
        if found.value.code.expires_at <= now || clients::note_use_of(cells, used, client).await?.is_none() {
            return Ok(Redemption::Unknown);
        }
        let row = CodeRow { redeemed: true, ..found.value.clone() };
        let code_life = Life { until: row.forget_at(), now };
        let key = cells.keys.grant(&grant.id);
        if cells.swap_and_add((&place, &found, &row, code_life), (&key, grant, life)).await? {
            return Ok(Redemption::Redeemed);
        }
    }
}

/// Writes what leads to a grant from its refresh token, if it has one.
async fn lead_to(cells: &Cells, grant: &Grant, life: Life) -> Result<(), StoreError> {
    match &grant.refresh {
        Some(refresh) => cells.write(&cells.keys.grant_of_refresh(&refresh.current), &grant.id, life).await,
        None => Ok(()),
    }
}

/// Makes a grant that no code stands for.
pub(super) async fn add(cells: &Cells, grant: &Grant, used: &ClientUse) -> Result<bool, StoreError> {
    if clients::note_use(cells, used).await?.is_none() {
        return Ok(false);
    }
    let life = Life { until: grant.expires_at, now: used.at };
    lead_to(cells, grant, life).await?;
    cells.write(&cells.keys.grant(&grant.id), grant, life).await?;
    Ok(true)
}

async fn found(cells: &Cells, id: &GrantId, now: UnixTime) -> Result<Option<Found<Grant>>, StoreError> {
    let found = cells.read::<Grant>(&cells.keys.grant(id)).await?;
    Ok(found.filter(|found| !found.value.is_expired(now)))
}

pub(super) async fn live(cells: &Cells, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError> {
    Ok(found(cells, id, now).await?.map(|found| found.value))
}

async fn of_refresh(
    cells: &Cells,
    hash: &TokenHash,
    now: UnixTime,
) -> Result<Option<Found<Grant>>, StoreError> {
    match cells.live::<GrantId>(&cells.keys.grant_of_refresh(hash), now).await? {
        Some(id) => found(cells, &id, now).await,
        None => Ok(None),
    }
}

pub(super) async fn live_of_refresh(
    cells: &Cells,
    hash: &TokenHash,
    now: UnixTime,
) -> Result<Option<Grant>, StoreError> {
    Ok(of_refresh(cells, hash, now).await?.map(|found| found.value))
}

/// Three round trips: what the token leads to, what is there, the change.
pub(super) async fn rotate(
    cells: &Cells,
    presented: &TokenHash,
    successor: &Successor,
    used: &ClientUse,
    grace: Duration,
) -> Result<Rotation, StoreError> {
    let now = used.at;
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let Some(id) = cells.live::<GrantId>(&cells.keys.grant_of_refresh(presented), now).await? else {
            return Ok(Rotation::Unknown);
        };
        let (found, client) = try_join(found(cells, &id, now), clients::of_use(cells, used)).await?;
        let Some(found) = found else {
            return Ok(Rotation::Unknown);
        };
        match found.value.judge_refresh(presented, now, grace) {
            RefreshUse::Current => {
                if clients::note_use_of(cells, used, client).await?.is_none() {
                    return Ok(Rotation::Unknown);
                }
                let mut grant = found.value.clone();
                grant.rotate(successor.hash, successor.sealed.clone(), now, successor.expires_at);
                let life = Life { until: grant.expires_at, now };
                // Nobody is told of the successor before all of it is written. Of a change that broke off, the same token
                // brings the rest about.
                let key = cells.keys.grant(&grant.id);
                let change = cells.swap(&key, Some(&found), &grant, Some(life));
                let (changed, ()) = try_join(change, lead_from_both(cells, &grant, presented, life)).await?;
                if changed {
                    return Ok(Rotation::Rotated(grant));
                }
            }
            RefreshUse::Repeated { sealed_successor } => {
                let grant = found.value;
                let life = Life { until: grant.expires_at, now };
                lead_from_both(cells, &grant, presented, life).await?;
                return Ok(Rotation::Repeated { grant, sealed_successor });
            }
            // A token that is used up stays so, whatever happens to the grant at the same time.
            RefreshUse::Reused => {
                revoke(cells, &found.value.id).await?;
                return Ok(Rotation::Reused(found.value.id));
            }
        }
    }
}

/// Writes what leads to a grant from its new refresh token, and from the used one: that stays known as long as the grant may
/// live, so that its reuse is noticed.
async fn lead_from_both(
    cells: &Cells,
    grant: &Grant,
    used: &TokenHash,
    life: Life,
) -> Result<(), StoreError> {
    let last = cells.keys.grant_of_refresh(used);
    try_join(lead_to(cells, grant, life), cells.write(&last, &grant.id, life)).await.map(|_| ())
}

pub(super) async fn revoke(cells: &Cells, id: &GrantId) -> Result<(), StoreError> {
    cells.remove(&cells.keys.grant(id)).await.map(|_| ())
}

/// All three at once: commands that are given together go to Redis together.
pub(super) async fn held(
    cells: &Cells,
    id: &GrantId,
    client: &ClientId,
    subject: &Subject,
    now: UnixTime,
) -> Result<Option<(Grant, Account)>, StoreError> {
    let (grant, client, account) = try_join3(
        live(cells, id, now),
        clients::live(cells, client, now),
        accounts::by_subject(cells, subject),
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
