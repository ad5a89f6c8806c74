//! `POST /token`: the token endpoint (RFC 6749 §3.2). Each grant type has its own module.

mod authorization_code;
mod client_credentials;
mod device_code;
mod error;
mod issue;
mod jwt_bearer;
mod refresh_token;
mod token_exchange;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::domain::client::GrantType;
use crate::guard::client_address;
use crate::state::AppState;

use super::client_auth::authenticate;
use super::params::{BadParams, Params};
use super::proof::ProofOfPossession;
use super::responses;

pub use error::TokenError;
use issue::{Allowed, Part, TokenResponse, account_of, audit_displaced, issue, new_grant, owned_by};

/// Authenticates the client, then calls the module of the requested grant type.
pub async fn token(request: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    let outcome = answer(&request, &body, &state).await;
    let result = if outcome.is_ok() { "issued" } else { "refused" };
    metrics::counter!("mcp_gate_token_requests_total", "result" => result).increment(1);
    match outcome {
        Ok(issued) => {
            let address = client_address::of(&request, |address| state.config.trusted_edge.is_known(address));
            state.known_networks.note(&issued.subject, address);
            responses::json_no_store(StatusCode::OK, &issued)
        }
        Err(error) => error.response(&state.config.site.issuer),
    }
}

/// The error for a code or token that has expired according to the clock. While the clock is in doubt, the error
/// is temporary, because after `invalid_grant` a client discards its codes and tokens.
fn expired(state: &AppState, description: &'static str) -> TokenError {
    if state.is_clock_in_doubt() { TokenError::Undatable } else { TokenError::InvalidGrant(description) }
}

async fn answer(request: &HttpRequest, body: &[u8], state: &AppState) -> Result<TokenResponse, TokenError> {
    let params = Params::of_form(request, body)?;
    if params.has_doubled() {
        return Err(BadParams::Doubled.into());
    }
    let client = authenticate(request, &params, state).await?;
    state.renew_keys().await?;
    let proof = &ProofOfPossession::of(request, &client, state)?;
    let name = params.one("grant_type")?.ok_or(TokenError::Missing("grant_type"))?;
    let grant_type = GrantType::named(name).filter(|grant_type| state.config.grants.offers(*grant_type));
    match grant_type.ok_or(TokenError::UnsupportedGrantType)? {
        GrantType::AuthorizationCode => authorization_code::redeem(state, &client, &params, proof).await,
        GrantType::RefreshToken => refresh_token::refresh(state, &client, &params, proof).await,
        GrantType::ClientCredentials => {
            client_credentials::grant_to_client(state, &client, &params, proof).await
        }
        GrantType::DeviceCode => device_code::poll(state, &client, &params, proof).await,
        GrantType::TokenExchange => token_exchange::exchange(state, &client, &params, proof).await,
        GrantType::JwtBearer => jwt_bearer::assert(state, &client, &params, proof).await,
    }
}
