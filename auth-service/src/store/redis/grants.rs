//! Codes and grants. A code is in the slot of the grant that it will create, so that it can be redeemed in one
//! step. The row that points to a code is written first, so that every valid code can be found.

use std::time::Duration;

use futures_util::future::{join, try_join, try_join3, try_join4};

use crate::domain::account::{Account, Subject};
use crate::domain::client::ClientId;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::domain::refresh_token::HashedRefreshToken;
use crate::domain::replaced_token::RefreshUse;
use crate::store::rules::{self, CodeRow};
use crate::store::{Denial, DirectGrant, FoundCode, Issuance, Redemption, Rotation, StoreError, Successor};

use super::cells::{Cells, Found, Life};
use super::holdings::{self, New};
use super::server_clock::Deadline;
use super::tries::Tries;
use super::{accounts, client_use, clients};

pub(super) async fn add_code(
    cells: &Cells,
    approval: &str,
    hash: &TokenHash,
    code: &AuthorizationCode,
    used: &ClientUse,
) -> Result<Issuance, StoreError> {
    let approval = cells.keys.approval(approval);
    let before = cells.read::<String>(&approval).await?;
    if before.as_ref().is_some_and(|found| found.is_live(used.at)) {
        return Ok(Issuance::AnsweredBefore);
    }
    let Some(client) = client_use::note(cells, used).await? else {
        return Ok(Issuance::ClientGone);
    };
    let row = CodeRow::new(code, &client);
    let life = Life { until: row.forget_at(), now: used.at };
    let (pointer, place) = (cells.keys.grant_of_code(hash), cells.keys.code(&code.grant_id, hash));
    let code_row = cells.swap(&place, None::<&Found<()>>, &row, Some(life));
    // The row that points to the code is kept for as long as a redeemed code would be.
    let kept = Life { until: row.approval_kept_until(), now: used.at };
    try_join(cells.write(&pointer, &code.grant_id, kept), code_row).await?;
    // The approval decides between concurrent calls. A caller that loses has stored a code that no client
    // receives. It expires unused and does not count.
    let is_first = cells.swap(&approval, before.as_ref(), &hash.text(), Some(kept)).await?;
    if !is_first {
        return Ok(Issuance::AnsweredBefore);
    }
    holdings::hold(cells, &New::code(hash, code, used.at)).await;
    Ok(Issuance::Issued)
}

/// Records that `approval` was denied, unless it has already created a code.
pub(super) async fn deny(
    cells: &Cells,
    approval: &str,
    until: UnixTime,
    now: UnixTime,
) -> Result<Denial, StoreError> {
    let key = cells.keys.approval(approval);
    let mut tries = Tries::default();
    loop {
        tries.next().await?;
        let found = cells.read::<String>(&key).await?;
        if let Some(made) = found.as_ref().filter(|found| found.is_live(now)) {
            return Ok(rules::denial_of(&made.value));
        }
        let denied = rules::DENIED.to_owned();
        if cells.swap(&key, found.as_ref(), &denied, Some(Life { until, now })).await? {
            return Ok(Denial::Denied);
        }
    }
}

pub(super) async fn find_code(
    cells: &Cells,
    hash: &TokenHash,
    now: UnixTime,
) -> Result<FoundCode, StoreError> {
    let Some(grant) = cells.live::<GrantId>(&cells.keys.grant_of_code(hash), now).await? else {
        return cells.absent(FoundCode::Unknown).await;
    };
    match cells.live::<CodeRow>(&cells.keys.code(&grant, hash), now).await? {
        Some(row) if row.redeemed => Ok(FoundCode::Used(row.code)),
        Some(row) if row.code.expires_at > now => Ok(FoundCode::Live(row.code)),
        _ => Ok(FoundCode::Unknown),
    }
}

/// Redeems a code and creates its grant, in three round trips.
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
        let (found, client, deadline) = try_join3(
            cells.read_live::<CodeRow>(&place, now),
            client_use::read(cells, used),
            Deadline::of(&cells.connection, &place),
        )
        .await?;
        let Some(found) = found else {
            return Ok(Redemption::Unknown);
        };
        if found.value.redeemed {
            holdings::remove_grant(cells, &found.value.code.grant_id).await?;
            return Ok(Redemption::Replayed);
        }
        if found.value.code.expires_at <= now || client_use::note_read(cells, used, client).await?.is_none() {
            return Ok(Redemption::Unknown);
        }
        let row = found.value.redeemed();
        let code_life = Life { until: row.forget_at(), now };
        let key = cells.keys.grant(&grant.id);
        if cells.swap_and_add((&place, &found, &row, code_life), (&key, grant, life), deadline).await? {
            let used_up = New::code(hash, &row.code, now);
            let (displaced, ()) = join(hold(cells, grant, now), holdings::release(cells, &used_up)).await;
            return Ok(Redemption::Redeemed { displaced });
        }
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
pub(super) async fn add(cells: &Cells, grant: &Grant, used: &ClientUse) -> Result<DirectGrant, StoreError> {
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

pub(super) async fn live(cells: &Cells, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError> {
    Ok(found(cells, id, now).await?.map(|found| found.value))
}

pub(super) async fn live_of_refresh(
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
pub(super) async fn rotate(
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
pub(super) async fn held(
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
