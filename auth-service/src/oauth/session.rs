//! Finds the login session of the browser that sent a request.

use actix_web::HttpRequest;

use crate::domain::account::{Account, LoginSession};
use crate::identity::cookies::OurCookie;
use crate::state::AppState;
use crate::store::StoreError;

/// Returns the session that belongs to the browser's cookie, and the user's account, if the session is still
/// valid.
pub(super) async fn of(
    request: &HttpRequest,
    state: &AppState,
) -> Result<Option<(LoginSession, Account)>, StoreError> {
    let Some(cookie) = OurCookie::Session.read(request, &state.config.site.issuer) else {
        return Ok(None);
    };
    let Some(session) = state.store.session(&cookie.hash(), state.now()).await? else {
        return Ok(None);
    };
    let account = state.store.account(&session.subject).await?;
    let valid = |account: &Account| account.is_logged_in_by(&session, state.time_bounds());
    Ok(account.filter(valid).map(|account| (session, account)))
}
