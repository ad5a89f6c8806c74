//! Whether an access token of ours counts now: for endpoints that are asked about one. (The check in front of the
//! services has its own, faster way.)

use crate::domain::account::Account;
use crate::keys::tokens::{ACCESS_TOKEN_TYPE, AccessTokenClaims};
use crate::state::AppState;
use crate::store::StoreError;

/// An access token that counts.
pub(super) struct LiveToken {
    pub(super) claims: AccessTokenClaims,
    pub(super) account: Account,
}

/// Reads an access token; none when it does not count, for whatever reason.
pub(super) async fn read(text: &str, state: &AppState) -> Result<Option<LiveToken>, StoreError> {
    let now = state.now();
    let Ok(claims) = state.keys.verify::<AccessTokenClaims>(ACCESS_TOKEN_TYPE, text) else {
        return Ok(None);
    };
    if claims.iss != state.config.site.issuer.as_str() || claims.exp <= now {
        return Ok(None);
    }
    let held = state.store.held_grant(&claims.gid, &claims.client_id, &claims.sub, now).await?;
    Ok(held.filter(|(_, account)| !account.disabled).map(|(_, account)| LiveToken { claims, account }))
}
