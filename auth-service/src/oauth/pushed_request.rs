//! `POST /par`: pushed authorization requests (RFC 9126). A client sends its request directly to this endpoint
//! before it opens the browser. Therefore, neither the user nor any program between the client and this server can
//! read or change the request. This module also finds the request for a `request_uri`.

use std::net::IpAddr;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use crate::domain::client::Client;
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::{OpaqueToken, TokenHash, TokenKind};
use crate::domain::pushed_request::{PushedPool, PushedRequest};
use crate::domain::redirect_uri::RedirectUri;
use crate::guard::client_address;
use crate::guard::push_rate::Familiarity;
use crate::state::AppState;
use crate::store::{Admission, StoreError};

use super::authorization_request::{AuthorizationRequest, redirect_uri_of};
use super::client_auth::authenticate;
use super::params::{BadParams, Params};
use super::prompt::Prompt;
use super::responses;
use super::token::TokenError;

/// The prefix of every `request_uri` of this server (RFC 9126 §2.2).
const PREFIX: &str = "urn:ietf:params:oauth:request_uri:";
/// Parameters that authenticate the client. They are checked, but not stored.
const CREDENTIALS: [&str; 3] = ["client_secret", "client_assertion", "client_assertion_type"];

/// Maximum size of a stored request in bytes.
const MAX_REQUEST_SIZE: usize = 8 * 1024;

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
        return Err(TokenError::InvalidRequest("a pushed request must not contain request_uri"));
    }
    // The whole request is validated now, so that errors are reported to the client instead of its user.
    let redirect_uri: RedirectUri = redirect_uri_of(&params, &client)?
        .ok_or(TokenError::InvalidRequest("the client has not registered this redirect_uri"))?;
    AuthorizationRequest::read(&params, &client, redirect_uri, state)?;
    Prompt::read(&params)?;
    let query = params.encoded_without(&CREDENTIALS, ("client_id", client.id.as_str()));
    if query.len() > MAX_REQUEST_SIZE {
        return Err(TokenError::InvalidRequest("a pushed request must not have more than 8192 bytes"));
    }
    let address = client_address::of(request, |address| state.config.trusted_edge.is_known(address));
    state.push_rate.admit(&client, address).map_err(TokenError::TooFast)?;
    let (pool, counts_for) = pool_of(&client, address);
    let handle = state.new_token(TokenKind::PushedRequest)?;
    let (now, lifetime) = (state.now(), state.config.lifetimes.pushed_request);
    let pushed = PushedRequest {
        metadata: Some(client.metadata.digest()),
        client_id: client.id,
        registration: client.registration,
        pool,
        counts_for,
        grant_id: GrantId::new(state.random_bytes()?),
        query,
        expires_at: now.plus(lifetime),
    };
    let hash = handle.hash();
    match state.store.push_request(&hash, &pushed, now, state.earliest()).await? {
        Admission::Admitted => {}
        Admission::Full => return Err(TokenError::Full),
    }
    Ok(Pushed { request_uri: format!("{PREFIX}{}", handle.expose()), expires_in: lifetime.as_secs() })
}

/// The pool of a request from `client`, and the names under which the request is counted in that pool. If the
/// client has credentials, the caller must already have authenticated it.
///
/// A request from a client that only a few accounts use is charged to each of these accounts, because one account
/// can have many clients. Anybody can send requests in the name of a client without credentials. Therefore, a
/// request without authentication is charged to the network from which it comes. It is not charged to the accounts
/// of the client's users, who cannot prevent it.
fn pool_of(client: &Client, address: Option<IpAddr>) -> (PushedPool, Vec<String>) {
    let familiarity = Familiarity::of(client);
    if familiarity == Familiarity::Proven {
        let few = client.few_users().filter(|_| client.operator.is_none());
        let accounts: Vec<_> = few.map(|account| format!("account {account}")).collect();
        let itself = || vec![format!("client {}", client.id)];
        return (PushedPool::Proven, if accounts.is_empty() { itself() } else { accounts });
    }
    let network = address.map(|address| client_address::network(address).to_string()).unwrap_or_default();
    let pool = if familiarity == Familiarity::InUse { PushedPool::Public } else { PushedPool::Strangers };
    (pool, vec![format!("network {network}")])
}

/// The hash of the handle in a `request_uri`, or `None` if this server cannot have issued it.
pub(super) fn handle(request_uri: &str) -> Option<TokenHash> {
    let text = request_uri.strip_prefix(PREFIX)?;
    OpaqueToken::parse(TokenKind::PushedRequest, text).ok().map(|token| token.hash())
}

/// Finds the request that `client` pushed under this handle. Another client's request is never returned.
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

/// Finds the pushed query for the `request_uri` in this query, even if another client has pushed it. The caller
/// must not reveal it to the user.
pub(super) async fn query_behind(query: &str, state: &AppState) -> Result<Option<String>, StoreError> {
    let params = Params::of_query(query).ok();
    let uri = params.as_ref().and_then(|params| params.one("request_uri").ok()).flatten();
    let Some(handle) = uri.and_then(handle) else { return Ok(None) };
    let found = state.store.pushed_request(&handle, state.now()).await?;
    Ok(found.map(|pushed| pushed.query))
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use crate::domain::account::Subject;
    use crate::domain::client::{ClientOrigin, ClientUsers, OperatorTerms};

    use super::*;

    #[test]
    fn a044_a_request_counts_for_whom_it_can_be_held_against() {
        let [ana, eve] = [Subject::new([1; 32]), Subject::new([2; 32])];
        let base: Client = from_value(json!({
            "id": "app", "registration": "r", "origin": ClientOrigin::Registration, "issued_at": 1, "last_used_at": null,
            "disabled": false, "fingerprint": null, "management": null, "secret": null, "metadata": {
                "redirect_uris": [], "auth_method": "client_secret_basic", "grant_types": [], "scope": null,
                "application_type": null, "dpop_bound_access_tokens": false, "display": {},
            },
        }))
        .unwrap();
        let address: Option<IpAddr> = Some("2001:db8::1:2:3:4".parse().unwrap());
        let of = |client: &Client| pool_of(client, address);
        let network = vec!["network 2001:db8::".to_owned()];
        assert_eq!(of(&base), (PushedPool::Strangers, network.clone()));
        let at = Some(crate::domain::clock::UnixTime(1));
        let used = Client { last_used_at: at, users: Some(ClientUsers::One(ana.clone())), ..base.clone() };
        assert_eq!(of(&used), (PushedPool::Proven, vec![format!("account {ana}")]));
        let shared = Client { further_users: vec![eve.clone()], ..used.clone() };
        let both = vec![format!("account {ana}"), format!("account {eve}")];
        assert_eq!(of(&shared), (PushedPool::Proven, both));
        let itself = vec!["client app".to_owned()];
        let many = Client { users: Some(ClientUsers::Several), ..used.clone() };
        let operators = Client { operator: Some(OperatorTerms::default()), ..used.clone() };
        for client in [&many, &operators] {
            assert_eq!(of(client), (PushedPool::Proven, itself.clone()));
        }
        let mut public = used;
        public.metadata.auth_method = crate::domain::client::ClientAuthMethod::None;
        assert_eq!(of(&public), (PushedPool::Public, network));
    }
}
