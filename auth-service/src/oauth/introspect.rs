//! `POST /introspect`: token introspection (RFC 7662). The response is JSON, or a JWT if the client requests it
//! (RFC 9701).
//!
//! Only a client that authenticates can use it. The client can inspect its own tokens, and access tokens for the
//! resources that the operator has assigned to it as a resource server. For all other tokens, the response is only
//! `active: false`.

use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use crate::domain::account::{Group, Subject, Username};
use crate::domain::client::{Client, ClientId};
use crate::domain::clock::UnixTime;
use crate::domain::refresh_token::RefreshToken;
use crate::domain::resource::ResourceUri;
use crate::keys::dpop::Confirmation;
use crate::keys::tokens::Actor;
use crate::state::AppState;
use crate::store::StoreError;

use super::client_auth::{ClientAuthError, authenticate};
use super::live_token::{self, LiveToken};
use super::params::{BadParams, Params};
use super::responses;
use super::token::TokenError;

/// Media type of the signed response. The `typ` of its JWT is the same without `application/` (RFC 9701 §4,
/// §5).
const JWT: &str = "application/token-introspection+jwt";
const JWT_TYPE: &str = "token-introspection+jwt";

/// The introspection response (RFC 7662 §2.2).
#[derive(Debug, Default, Serialize)]
struct Introspection {
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<Subject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<Username>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Group>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<ClientId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aud: Vec<ResourceUri>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<UnixTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<UnixTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Actor>,
    /// The key to which the token is bound (RFC 9449 §6.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<Confirmation>,
}

/// The claims of a signed response (RFC 9701 §5).
#[derive(Serialize)]
struct Signed<'a> {
    iss: &'a str,
    aud: &'a ClientId,
    iat: UnixTime,
    token_introspection: &'a Introspection,
}

/// Handles an introspection request from an authenticated client.
pub async fn introspect(request: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    let issuer = &state.config.site.issuer;
    answer(&request, &body, &state).await.unwrap_or_else(|error| error.response(issuer))
}

async fn answer(request: &HttpRequest, body: &[u8], state: &AppState) -> Result<HttpResponse, TokenError> {
    let params = Params::of_form(request, body)?;
    if params.has_doubled() {
        return Err(BadParams::Doubled.into());
    }
    let client = authenticate(request, &params, state).await?;
    if client.is_public() {
        return Err(anonymous().into());
    }
    // `token_type_hint` is only a hint (RFC 7662 §2.1), and is not needed: the format of a token shows its type.
    let token = params.one("token")?.ok_or(TokenError::Missing("token"))?;
    let found = match RefreshToken::parse(token) {
        Ok(refresh_token) => of_refresh_token(&refresh_token, &client, state).await?,
        Err(_) => live_token::read(token, state).await?.and_then(|token| of_access_token(token, &client)),
    };
    let introspection = found.unwrap_or_default();
    if !wants_jwt(request) {
        return Ok(responses::json_no_store(StatusCode::OK, &introspection));
    }
    let signed = Signed {
        iss: state.config.site.issuer.as_str(),
        aud: &client.id,
        iat: state.now(),
        token_introspection: &introspection,
    };
    let jwt = state.keys.sign(JWT_TYPE, &signed)?;
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, JWT))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(jwt))
}

fn anonymous() -> ClientAuthError {
    let description = "only a client that authenticates can introspect tokens".to_owned();
    ClientAuthError::Invalid { description, basic: false }
}

/// The information about an access token for `client`. If the token was issued to another client, its audiences
/// are reduced to the resources that `client` serves. If none are left, there is no information.
fn of_access_token(token: LiveToken, client: &Client) -> Option<Introspection> {
    let LiveToken { claims, account, .. } = token;
    let mut aud = claims.aud;
    if claims.client_id != client.id {
        let serves = client.operator.as_ref().map(|terms| terms.serves.as_slice()).unwrap_or_default();
        aud.retain(|audience| serves.iter().any(|own| own.includes(audience) || audience.includes(own)));
    }
    if aud.is_empty() {
        return None;
    }
    Some(Introspection {
        active: true,
        iss: Some(claims.iss),
        sub: Some(claims.sub),
        username: Some(account.username),
        groups: account.groups,
        client_id: Some(claims.client_id),
        aud,
        scope: Some(claims.scope.to_string()),
        token_type: Some(if claims.cnf.is_some() { "DPoP" } else { "Bearer" }),
        cnf: claims.cnf,
        jti: Some(claims.jti),
        iat: Some(claims.iat),
        exp: Some(claims.exp),
        act: claims.act,
    })
}

/// Only the client of a refresh token can inspect it. The token is active only while it is the current one of
/// its grant.
async fn of_refresh_token(
    token: &RefreshToken,
    client: &Client,
    state: &AppState,
) -> Result<Option<Introspection>, StoreError> {
    let Some(grant) = state.store.grant_of_refresh(&token.presented(), state.now()).await? else {
        return Ok(None);
    };
    let live = grant.refresh.as_ref().is_some_and(|refresh| refresh.current == token.hash());
    if !live || !grant.is_held_by(client) {
        return Ok(None);
    }
    let account = state.store.account(&grant.subject).await?.filter(|account| !account.disabled);
    Ok(account.map(|account| Introspection {
        active: true,
        iss: Some(state.config.site.issuer.as_str().to_owned()),
        sub: Some(grant.subject),
        username: Some(account.username),
        client_id: Some(grant.client_id),
        aud: grant.resources,
        scope: Some(grant.scope.to_string()),
        iat: Some(grant.created_at),
        exp: Some(grant.expires_at),
        ..Introspection::default()
    }))
}

/// Whether the client accepts the signed form of the response.
fn wants_jwt(request: &HttpRequest) -> bool {
    let accepted = request.headers().get_all(ACCEPT).filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let (essence, parameters) = range.split_once(';').unwrap_or((range, ""));
        essence.trim().eq_ignore_ascii_case(JWT) && !matches!(parameters.trim(), "q=0" | "q=0.0")
    })
}
