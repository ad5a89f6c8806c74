//! Authorization codes. A code is in the slot of the grant that it will create, so that it can be redeemed in one
//! step. The row that points to a code is written first, so that every valid code can be found.

use async_trait::async_trait;
use futures_util::future::{join, try_join, try_join3};

use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::grant::{AuthorizationCode, Grant};
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenHash;
use crate::store::rules::{self, CodeRow};
use crate::store::{CodeStore, Denial, FoundCode, Issuance, Redemption, StoreError};

use super::cells::{Cells, Found, Life};
use super::holdings::{self, New};
use super::server_clock::Deadline;
use super::tries::Tries;
use super::{RedisStore, client_use, grants};

#[async_trait]
impl CodeStore for RedisStore {
    async fn add_code(
        &self,
        approval: &str,
        hash: &TokenHash,
        code: &AuthorizationCode,
        used: &ClientUse,
    ) -> Result<Issuance, StoreError> {
        add_code(&self.cells, approval, hash, code, used).await
    }

    async fn deny(&self, approval: &str, until: UnixTime, now: UnixTime) -> Result<Denial, StoreError> {
        deny(&self.cells, approval, until, now).await
    }

    async fn find_code(&self, hash: &TokenHash, now: UnixTime) -> Result<FoundCode, StoreError> {
        find_code(&self.cells, hash, now).await
    }

    async fn redeem_code(
        &self,
        hash: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError> {
        redeem_code(&self.cells, hash, grant, used).await
    }
}

async fn add_code(
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
async fn deny(cells: &Cells, approval: &str, until: UnixTime, now: UnixTime) -> Result<Denial, StoreError> {
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

async fn find_code(cells: &Cells, hash: &TokenHash, now: UnixTime) -> Result<FoundCode, StoreError> {
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
async fn redeem_code(
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
            let (displaced, ()) =
                join(grants::hold(cells, grant, now), holdings::release(cells, &used_up)).await;
            return Ok(Redemption::Redeemed { displaced });
        }
    }
}
