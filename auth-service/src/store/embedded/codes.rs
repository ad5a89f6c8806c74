//! Authorization codes, and the user's answers to consent forms.

use async_trait::async_trait;

use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::opaque_token::TokenHash;
use crate::store::rules::{self, CodeRow};
use crate::store::{CodeStore, Denial, FoundCode, Issuance, Redemption, StoreError};

use super::holdings::{self, New};
use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;
use super::{EmbeddedStore, client_use, grants, hashed};

#[async_trait]
impl CodeStore for EmbeddedStore {
    async fn add_code(
        &self,
        approval: &str,
        hash: &TokenHash,
        code: &AuthorizationCode,
        used: &ClientUse,
    ) -> Result<Issuance, StoreError> {
        let (approval, hash, code, used) = (hashed(approval), *hash, code.clone(), used.clone());
        self.writer.write(move |rows| add_code(rows, &approval, &hash, &code, &used)).await
    }

    async fn deny(&self, approval: &str, until: UnixTime, now: UnixTime) -> Result<Denial, StoreError> {
        let approval = hashed(approval);
        self.writer.take_away(move |rows| deny(rows, &approval, until, now)).await
    }

    async fn find_code(&self, hash: &TokenHash, now: UnixTime) -> Result<FoundCode, StoreError> {
        match self.read(|rows| rows.get_live::<CodeRow>(Table::Codes, &hash.text(), now))? {
            Some(row) if row.redeemed => Ok(FoundCode::Used(row.code)),
            Some(row) if row.code.expires_at > now => Ok(FoundCode::Live(row.code)),
            _ => Ok(FoundCode::Unknown),
        }
    }

    async fn redeem_code(
        &self,
        hash: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError> {
        let (hash, grant, used) = (*hash, grant.clone(), used.clone());
        self.writer.write(move |rows| redeem_code(rows, &hash, &grant, &used)).await
    }
}

/// Records that `approval` was denied, unless it has already created a code.
fn deny(rows: &Writable<'_>, approval: &str, until: UnixTime, now: UnixTime) -> Result<Denial, StoreError> {
    if let Some(made) = rows.get_live::<String>(Table::Approvals, approval, now)? {
        return Ok(rules::denial_of(&made));
    }
    rows.put(Table::Approvals, approval, &rules::DENIED, Some(until))?;
    Ok(Denial::Denied)
}

fn add_code(
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

fn redeem_code(
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
    grants::put(rows, grant)?;
    Ok(Redemption::Redeemed { displaced: grants::hold(rows, grant, used.at)? })
}
