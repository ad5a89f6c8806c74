//! `POST /par`: pushed authorization requests (RFC 9126). A client leaves its request here before it opens
//! the browser, so that nobody on the way can read or change it. This module also finds the request behind a
//! `request_uri`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use crate::domain::client::Client;
use crate::domain::grant::GrantId;
use crate::domain::opaque_token::{OpaqueToken, TokenHash, TokenKind};
use crate::domain::pushed_request::PushedRequest;
use crate::domain::redirect_uri::RedirectUri;
use crate::guard::client_address;
use crate::guard::push_rate::Standing;
use crate::state::AppState;
use crate::store::{Room, StoreError};

use super::authorize::{AuthorizationRequest, Prompt, redirect_uri_of};
use super::client_auth::authenticate;
use super::params::{BadParams, Params};
use super::responses;
use super::token::TokenError;

/// The prefix of every `request_uri` of this server (RFC 9126 §2.2).
const PREFIX: &str = "urn:ietf:params:oauth:request_uri:";
/// Parameters that authenticate the client. They are checked and not stored.
const CREDENTIALS: [&str; 3] = ["client_secret", "client_assertion", "client_assertion_type"];

/// Maximum size of a stored request, in bytes.
const LARGEST: usize = 8 * 1024;
/// Maximum number of requests that wait for their browsers; together they take at most 66 MB. Clients that
/// nobody has used can take half of the places, clients in use three quarters, and clients in use that
/// authenticate all of them.
const MAX_OF_ALL: u64 = 8000;
const MAX_IN_USE: u64 = MAX_OF_ALL * 3 / 4;
const MAX_OF_STRANGERS: u64 = MAX_OF_ALL / 2;

/// The response to a pushed request (RFC 9126 §2.2).
#[derive(Serialize)]
struct Pushed {
    request_uri: String,
    expires_in: u64,
}

/// Stores an authorization request and issues its `request_uri`.
pub async fn push(request: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    match answer(&request, &body, &state).await {
        Ok(pushed) => responses::json_no_store(StatusCode::CREATED, &pushed),
        Err(error) => error.response(&state.config.site.issuer),
    }
}

async fn answer(request: &HttpRequest, body: &[u8], state: &AppState) -> Result<Pushed, TokenError> {
    let params = Params::of_form(request, body)?;
    if params.has_doubled() {
        return Err(BadParams::Doubled.into());
    }
    let client = authenticate(request, &params, state).await?;
    if params.one("request_uri")?.is_some() {
        return Err(TokenError::InvalidRequest(
            "a request that is pushed has no request_uri (RFC 9126 §2.1)",
        ));
    }
    // The whole request is validated now, so that errors are reported to the client and not later to its
    // user.
    let redirect_uri: RedirectUri = redirect_uri_of(&params, &client)?
        .ok_or(TokenError::InvalidRequest("the redirect_uri is not one that the client has registered"))?;
    AuthorizationRequest::read(&params, &client, redirect_uri, state)?;
    Prompt::read(&params)?;
    let query = params.encoded_without(&CREDENTIALS, ("client_id", client.id.as_str()));
    if query.len() > LARGEST {
        return Err(TokenError::InvalidRequest("a request that is pushed may have 8192 bytes"));
    }
    let address = client_address::of(request, |address| state.config.trusted_edge.is_known(address));
    state.push_rate.admit(&client, address).map_err(TokenError::TooFast)?;
    let ceiling = match Standing::of(&client) {
        Standing::Stranger => MAX_OF_STRANGERS,
        Standing::InUse => MAX_IN_USE,
        Standing::Proven => MAX_OF_ALL,
    };
    let handle = state.new_token(TokenKind::PushedRequest)?;
    let (now, lifetime) = (state.now(), state.config.lifetimes.pushed_request);
    let pushed = PushedRequest {
        metadata: Some(client.metadata.digest()),
        client_id: client.id,
        registration: client.registration,
        grant_id: GrantId::new(state.random_bytes()?),
        query,
        expires_at: now.plus(lifetime),
    };
    let hash = handle.hash();
    if !state.store.reserve(Room::PushedRequests, &hash, pushed.expires_at, state.earliest(), ceiling).await?
    {
        return Err(TokenError::Full);
    }
    state.store.push_request(&hash, &pushed, now).await?;
    Ok(Pushed { request_uri: format!("{PREFIX}{}", handle.expose()), expires_in: lifetime.as_secs() })
}

/// The hash of the handle in a `request_uri`, or `None` if this server cannot have issued it.
pub(super) fn handle(request_uri: &str) -> Option<TokenHash> {
    let text = request_uri.strip_prefix(PREFIX)?;
    OpaqueToken::parse(TokenKind::PushedRequest, text).ok().map(|token| token.hash())
}

/// The request that `client` pushed under this handle. Requests of other clients are not found.
pub(super) async fn find(
    handle: &TokenHash,
    client: &Client,
    state: &AppState,
) -> Result<Option<PushedRequest>, StoreError> {
    let found = state.store.pushed_request(handle, state.now()).await?;
    Ok(found.filter(|pushed| {
        pushed.client_id == client.id && client.has_left(&pushed.registration, pushed.metadata.as_ref())
    }))
}

/// The pushed query behind the `request_uri` in this query, whichever client pushed it. The caller must not
/// reveal it to the user.
pub(super) async fn query_behind(query: &str, state: &AppState) -> Result<Option<String>, StoreError> {
    let params = Params::of_query(query).ok();
    let uri = params.as_ref().and_then(|params| params.one("request_uri").ok()).flatten();
    let Some(handle) = uri.and_then(handle) else { return Ok(None) };
    let found = state.store.pushed_request(&handle, state.now()).await?;
    Ok(found.map(|pushed| pushed.query))
}
