//! Checks whether an access token is valid now, for endpoints that receive one as a parameter. The check for edge
//! proxies uses different code, which is faster because it caches principals.

use crate::domain::account::Account;
use crate::keys::tokens::{ACCESS_TOKEN_TYPE, AccessTokenClaims};
use crate::state::AppState;
use crate::store::StoreError;

/// An access token that is valid now, and the account of its subject.
pub(super) struct LiveToken {
    pub(super) claims: AccessTokenClaims,
    pub(super) account: Account,
}

/// Verifies an access token. Returns `None` if it is not valid now, for any reason.
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
