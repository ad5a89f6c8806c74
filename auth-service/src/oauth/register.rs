//! `POST /register`: dynamic client registration (RFC 7591).

mod metadata;

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::domain::client::{Client, ClientAuthMethod, ClientDisplay, ClientId, ClientSecret, GrantType};
use crate::domain::clock::{RandomUnavailable, UnixTime};
use crate::domain::opaque_token::{OpaqueToken, TokenKind};
use crate::ops::audit;
use crate::state::AppState;
use crate::store::StoreError;

use super::responses;
use metadata::{InvalidMetadata, Registration};

/// Why a client is not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// Not JSON.
    #[error("the Content-Type must be application/json")]
    ContentType,
    /// RFC 7591 §3.2.2.
    #[error(transparent)]
    Metadata(#[from] InvalidMetadata),
    /// Ours to mend.
    #[error("the service cannot register clients at the moment; try again in a minute")]
    Unavailable,
}

impl From<StoreError> for RegistrationError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed during a registration");
        Self::Unavailable
    }
}

impl From<RandomUnavailable> for RegistrationError {
    fn from(_: RandomUnavailable) -> Self {
        Self::Unavailable
    }
}

impl RegistrationError {
    fn response(&self) -> HttpResponse {
        let (status, code) = match self {
            Self::ContentType => (StatusCode::BAD_REQUEST, "invalid_client_metadata"),
            Self::Metadata(invalid) => (StatusCode::BAD_REQUEST, invalid.code()),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable"),
        };
        responses::error(status, code, &self.to_string(), None)
    }
}

/// Registers a client.
pub async fn register(request: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    match answer(&request, &body, &state).await {
        Ok(registered) => responses::json_no_store(StatusCode::CREATED, &registered),
        Err(error) => error.response(),
    }
}

async fn answer(
    request: &HttpRequest,
    body: &[u8],
    state: &AppState,
) -> Result<Registered, RegistrationError> {
    let content_type =
        request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(RegistrationError::ContentType);
    }
    let registration = Registration::read(body, state.policy.catalogue())?;
    let secret = match registration.auth_method {
        ClientAuthMethod::None => None,
        _ => Some(state.new_token(TokenKind::ClientSecret)?),
    };
    let client = client(registration, secret.as_ref(), state.random_bytes()?, state.now());
    let kept = state.store.add_client(&client).await?;
    if kept.issued_at == client.issued_at {
        audit::Event::ClientRegistered { client_id: &kept.id }.emit();
    }
    Ok(Registered::new(kept, secret.as_ref()))
}

/// A public client is its metadata: registering the same again gives the same client, so that a program which
/// registers on every connect stays one client. A confidential one has a secret of its own, and so an identity.
fn client(
    registration: Registration,
    secret: Option<&OpaqueToken>,
    random: [u8; 32],
    now: UnixTime,
) -> Client {
    let digest: [u8; 32] = match secret {
        None => Sha256::digest(registration.canonical()).into(),
        Some(_) => random,
    };
    Client {
        id: ClientId::issued(digest),
        issued_at: now,
        redirect_uris: registration.redirect_uris,
        auth_method: registration.auth_method,
        secret: secret.map(|token| ClientSecret { hash: token.hash() }),
        grant_types: registration.grant_types,
        scope: registration.scope,
        application_type: registration.application_type,
        display: registration.display,
    }
}

/// The answer of RFC 7591 §3.2.1: what was registered, whatever was asked.
#[derive(Serialize)]
struct Registered {
    client_id: ClientId,
    client_id_issued_at: UnixTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
    /// Never (0); REQUIRED with a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret_expires_at: Option<u64>,
    redirect_uris: Vec<String>,
    token_endpoint_auth_method: ClientAuthMethod,
    grant_types: Vec<GrantType>,
    response_types: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application_type: Option<String>,
    #[serde(flatten)]
    display: ClientDisplay,
}

impl Registered {
    fn new(client: Client, secret: Option<&OpaqueToken>) -> Self {
        Self {
            client_id: client.id,
            client_id_issued_at: client.issued_at,
            client_secret: secret.map(|token| token.expose().to_owned()),
            client_secret_expires_at: secret.map(|_| 0),
            redirect_uris: client.redirect_uris.into_iter().map(String::from).collect(),
            token_endpoint_auth_method: client.auth_method,
            grant_types: client.grant_types,
            response_types: ["code"],
            scope: client.scope.map(|scope| scope.to_string()),
            application_type: client.application_type,
            display: client.display,
        }
    }
}
