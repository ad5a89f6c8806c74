//! `POST /device_authorization`: issues the codes with which a user can allow a device that has no browser
//! (RFC 8628 §3.1).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use crate::domain::client::GrantType;
use crate::domain::device::{DeviceAuthorization, DeviceState, UserCode};
use crate::domain::grant_id::GrantId;
use crate::domain::opaque_token::TokenKind;
use crate::guard::client_address;
use crate::guard::push_rate::Familiarity;
use crate::state::AppState;
use crate::store::{Addition, Admission};

use super::authorization_request::{asked_resources, asked_scope};
use super::client_auth::authenticate;
use super::params::{BadParams, Params};
use super::responses;
use super::token::TokenError;

/// Minimum time in seconds between two polls from a device. It is increased by each `slow_down` error (RFC 8628
/// §3.2).
const INTERVAL: u64 = 5;
/// Number of attempts to find a user code that is not in use.
const TRIES: u32 = 5;
/// Maximum number of devices waiting for their users. Clients that no user has allowed can occupy half of the
/// slots, clients in use three quarters, and clients in use that authenticate all of them.
const MAX_OF_ALL: u64 = 5000;
const MAX_IN_USE: u64 = MAX_OF_ALL * 3 / 4;
const MAX_OF_STRANGERS: u64 = MAX_OF_ALL / 2;

/// The device authorization response (RFC 8628 §3.2).
#[derive(Serialize)]
struct Codes {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: String,
    expires_in: u64,
    interval: u64,
}

/// Issues a device code and a user code.
pub async fn start(request: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    if !state.config.grants.offers(GrantType::DeviceCode) {
        return responses::not_found(&state.config.site.issuer);
    }
    match answer(&request, &body, &state).await {
        Ok(codes) => responses::json_no_store(StatusCode::OK, &codes),
        Err(error) => error.response(&state.config.site.issuer),
    }
}

async fn answer(request: &HttpRequest, body: &[u8], state: &AppState) -> Result<Codes, TokenError> {
    let params = Params::of_form(request, body)?;
    if params.has_doubled() {
        return Err(BadParams::Doubled.into());
    }
    let client = authenticate(request, &params, state).await?;
    if !client.may_use(GrantType::DeviceCode) {
        return Err(TokenError::UnauthorizedClient);
    }
    let resources = asked_resources(&params, state)?;
    let scope = asked_scope(&params, &client, &resources, state)?;
    let ceiling = match Familiarity::of(&client) {
        Familiarity::Stranger => MAX_OF_STRANGERS,
        Familiarity::InUse => MAX_IN_USE,
        Familiarity::Proven => MAX_OF_ALL,
    };
    let address = client_address::of(request, |address| state.config.trusted_edge.is_known(address));
    state.device_rate.admit_start(address).map_err(TokenError::TooMany)?;
    let now = state.now();
    let lifetime = state.config.lifetimes.device_code;
    let asked = DeviceAuthorization {
        grant_id: GrantId::new(state.random_bytes()?),
        metadata: Some(client.metadata.digest()),
        client_id: client.id,
        registration: client.registration,
        resources,
        scope,
        asked_at: now,
        asked_from: address,
        expires_at: now.plus(lifetime),
        interval: INTERVAL,
        polled_at: None,
        state: DeviceState::Pending,
    };
    let device_code = state.new_token(TokenKind::DeviceCode)?;
    let hash = device_code.hash();
    match state.store.reserve_device(&hash, asked.expires_at, state.earliest(), ceiling).await? {
        Admission::Admitted => {}
        Admission::Full => return Err(TokenError::Full),
    }
    for _ in 0..TRIES {
        let Some(user_code) = UserCode::new(state.random_bytes()?) else { continue };
        match state.store.add_device(&hash, &user_code, &asked).await? {
            Addition::Added => {}
            Addition::Taken => continue,
        }
        let page = state.config.site.issuer.endpoint("/device");
        return Ok(Codes {
            device_code: device_code.expose().to_owned(),
            user_code: user_code.to_string(),
            verification_uri_complete: format!("{page}?user_code={user_code}"),
            verification_uri: page,
            expires_in: lifetime.as_secs(),
            interval: INTERVAL,
        });
    }
    tracing::error!("no free user code was found");
    Err(TokenError::Unavailable)
}
