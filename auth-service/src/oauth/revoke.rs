//! `POST /revoke`: token revocation (RFC 7009). Revoking any token of a grant revokes the whole grant, because a
//! user allows a grant as a whole.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::domain::client::Client;
use crate::domain::grant::Grant;
use crate::domain::refresh_token::RefreshToken;
use crate::keys::tokens::{ACCESS_TOKEN_TYPE, AccessTokenClaims};
use crate::ops::audit;
use crate::state::AppState;

use super::client_auth::authenticate;
use super::params::{BadParams, Params};
use super::token::TokenError;

/// Revokes the grant of one of the client's own tokens. Any other token is ignored with a 200 response, like an
/// unknown token (RFC 7009 §2.2).
pub async fn revoke(request: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    match answer(&request, &body, &state).await {
        Ok(()) => HttpResponse::build(StatusCode::OK).insert_header(("cache-control", "no-store")).finish(),
        Err(error) => error.response(&state.config.site.issuer),
    }
}

async fn answer(request: &HttpRequest, body: &[u8], state: &AppState) -> Result<(), TokenError> {
    let params = Params::of_form(request, body)?;
    if params.has_doubled() {
        return Err(BadParams::Doubled.into());
    }
    let client = authenticate(request, &params, state).await?;
    // `token_type_hint` is only a hint (RFC 7009 §2.1), and is not needed: the format of a token shows its type.
    let token = params.one("token")?.ok_or(TokenError::Missing("token"))?;
    if let Some(grant) = grant_of(token, &client, state).await? {
        // The remembered consent is deleted as well, so that the user is asked for consent when the client connects
        // again. Both deletions are requested at the same time. If they were requested one after the other and the disk
        // stalled, only the first would be made once the disk responds again, and a repeated request would not find the
        // grant.
        let forgotten = state.store.forget_consent(&grant.subject, &grant.client_id);
        let (forgotten, revoked) = tokio::join!(forgotten, state.store.revoke_grant(&grant.id));
        revoked?;
        let account = state.store.account(&grant.subject).await.unwrap_or_default();
        let owner = audit::Owner::new(&grant.subject, account.as_ref());
        audit::Event::GrantRevoked { grant_id: &grant.id, owner, client_id: &client.id }.emit();
        forgotten?;
    }
    Ok(())
}

async fn grant_of(token: &str, client: &Client, state: &AppState) -> Result<Option<Grant>, TokenError> {
    let grant = match RefreshToken::parse(token) {
        Ok(refresh_token) => state.store.grant_of_refresh(&refresh_token.presented(), state.now()).await?,
        Err(_) => match state.keys.verify::<AccessTokenClaims>(ACCESS_TOKEN_TYPE, token) {
            Ok(claims) => state.store.grant(&claims.gid, state.now()).await?,
            Err(_) => None,
        },
    };
    Ok(grant.filter(|grant| grant.client_id == client.id))
}
