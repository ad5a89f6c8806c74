//! Authorization codes, grants and their refresh tokens.

use crate::domain::account::{Account, Subject};
use crate::domain::client::ClientId;
use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::domain::refresh_token::HashedRefreshToken;
use crate::domain::replaced_token::{Grace, RefreshUse, StoreTime};
use crate::store::rules::{self, CodeRow};
use crate::store::{Denial, DirectGrant, Issuance, Redemption, Rotation, StoreError, Successor};

use super::holdings::{self, New};
use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;
use super::{client_use, clients};

/// The grant with this identifier, unless it has expired.
pub(super) fn live(rows: &impl Rows, id: &GrantId, now: UnixTime) -> Result<Option<Grant>, StoreError> {
    let grant: Option<Grant> = rows.get(Table::Grants, id.as_str())?;
    Ok(grant.filter(|grant| !grant.is_expired(now)))
}

/// The grant that issued a refresh token, whether or not the token has been used.
pub(super) fn of_refresh(
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
pub(super) fn add(rows: &Writable<'_>, grant: &Grant, used: &ClientUse) -> Result<DirectGrant, StoreError> {
    if client_use::note(rows, used)?.is_none() {
        return Ok(DirectGrant::ClientGone);
    }
    put(rows, grant)?;
    Ok(DirectGrant::Created)
}

/// Records that `approval` was denied, unless it has already created a code.
pub(super) fn deny(
    rows: &Writable<'_>,
    approval: &str,
    until: UnixTime,
    now: UnixTime,
) -> Result<Denial, StoreError> {
    if let Some(made) = rows.get_live::<String>(Table::Approvals, approval, now)? {
        return Ok(rules::denial_of(&made));
    }
    rows.put(Table::Approvals, approval, &rules::DENIED, Some(until))?;
    Ok(Denial::Denied)
}

pub(super) fn add_code(
    rows: &Writable<'_>,
    approval: &str,
    hash: &TokenHash,
    code: &AuthorizationCode,
    used: &ClientUse,
) -> Result<Issuance, StoreError> {
    if rows.get_live::<String>(Table::Approvals, approval, used.at)?.is_some() {
        return Ok(Issuance::AnsweredBefore);
    }
    let Some(client) = client_use::note(rows, used)? else {
        return Ok(Issuance::ClientGone);
    };
    let (key, row) = (&hash.text(), CodeRow::new(code, &client));
    rows.put(Table::Approvals, approval, &key, Some(row.approval_kept_until()))?;
    rows.put(Table::Codes, key, &row, Some(row.forget_at()))?;
    holdings::hold(rows, &New::code(hash, code, used.at))?;
    Ok(Issuance::Issued)
}

pub(super) fn redeem_code(
    rows: &Writable<'_>,
    hash: &TokenHash,
    grant: &Grant,
    used: &ClientUse,
) -> Result<Redemption, StoreError> {
    let key = &hash.text();
    let Some(row) = rows.get_live::<CodeRow>(Table::Codes, key, used.at)? else {
        return Ok(Redemption::Unknown);
    };
    if row.redeemed {
        holdings::remove_grant(rows, &row.code.grant_id)?;
        return Ok(Redemption::Replayed);
    }
    if row.code.expires_at <= used.at || client_use::note(rows, used)?.is_none() {
        return Ok(Redemption::Unknown);
    }
    let row = row.redeemed();
    rows.put(Table::Codes, key, &row, Some(row.forget_at()))?;
    holdings::release(rows, &New::code(hash, &row.code, used.at))?;
    put(rows, grant)?;
    Ok(Redemption::Redeemed { displaced: hold(rows, grant, used.at)? })
}

/// The result of using a refresh token, if this repeats the last use and therefore changes nothing.
pub(super) fn repeat(
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
pub(super) fn rotate(
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
pub(super) fn held(
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
