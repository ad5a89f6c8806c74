//! `/register`: dynamic client registration (RFC 7591), and its management under `/register/{client_id}` (RFC
//! 7592).

mod answer;
pub mod manage;
mod metadata;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clients::hosts::HostRule;
use crate::config::{ClientTerms, RegistrationMode};
use crate::domain::client::{
    Client, ClientAuthMethod, ClientId, ClientMetadata, ClientOrigin, ClientSecret, RegistrationId,
};
use crate::domain::clock::RandomUnavailable;
use crate::domain::error_code::ErrorCode;
use crate::domain::issuer::Issuer;
use crate::domain::opaque_token::{OpaqueToken, TokenHash, TokenKind};
use crate::domain::redirect_uri::RedirectUri;
use crate::domain::scope::Scope;
use crate::guard::client_address;
use crate::guard::keyed_rate::TooFast;
use crate::guard::registration_rate::KEPT;
use crate::ops::audit;
use crate::state::AppState;
use crate::store::{Registration, RegistrationTerms, StoreError};

use super::authorization;
use super::requested_scope::offline_access;
use super::responses;
use answer::Registered;
use metadata::{InvalidMetadata, canonical};

/// Why a registration is refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The body of the request is not JSON.
    #[error("the Content-Type must be application/json")]
    ContentType,
    /// The client metadata is not acceptable (RFC 7591 §3.2.2).
    #[error(transparent)]
    Metadata(#[from] InvalidMetadata),
    /// The redirect URI is not allowed by `REGISTRATION_REDIRECT_HOSTS` or `REGISTRATION_REDIRECT_SCHEMES`.
    #[error("the operator of this server does not allow redirect URIs at {0}")]
    RedirectHost(String),
    /// The operator has closed registration (`REGISTRATION=closed`).
    #[error("the operator of this server has closed registration")]
    Closed,
    /// The initial access token is missing or wrong (`REGISTRATION=token`).
    #[error("registration needs the initial access token of this server, as a Bearer token")]
    InitialAccessToken,
    /// There are too many registrations; see `REGISTRATION_RATE`.
    #[error("too many clients are being registered; try again later")]
    Crowded(#[from] TooFast),
    /// The maximum number of clients is reached (`CLIENT_CEILING`).
    #[error(
        "this server already has the maximum number of clients, and none of them can be removed; try again later"
    )]
    Full,
    /// The store or the random source failed.
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
    fn from(error: RandomUnavailable) -> Self {
        tracing::error!(%error, "a client could not be registered");
        Self::Unavailable
    }
}

impl RegistrationError {
    fn response(&self, issuer: &Issuer) -> HttpResponse {
        let (status, code) = match self {
            Self::ContentType => (StatusCode::BAD_REQUEST, ErrorCode::InvalidClientMetadata),
            Self::Metadata(invalid) => (StatusCode::BAD_REQUEST, invalid.code()),
            Self::RedirectHost(_) => (StatusCode::BAD_REQUEST, ErrorCode::InvalidRedirectUri),
            Self::Closed => (StatusCode::FORBIDDEN, ErrorCode::AccessDenied),
            Self::InitialAccessToken => (StatusCode::UNAUTHORIZED, ErrorCode::InvalidToken),
            Self::Crowded(_) => (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TemporarilyUnavailable),
            Self::Full | Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable)
            }
        };
        let challenge = matches!(self, Self::InitialAccessToken).then_some("Bearer error=\"invalid_token\"");
        let mut response = responses::error(issuer, status, code, &self.to_string(), challenge);
        let retry_after = match self {
            Self::Crowded(crowded) => Some(crowded.retry_after_seconds),
            Self::Full | Self::Unavailable => Some(LONG_RETRY_AFTER),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// `POST /register`: registers a client.
pub async fn register(request: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    match answer(&request, &body, &state).await {
        Ok(registered) => responses::json_no_store(StatusCode::CREATED, &registered),
        Err(error) => error.response(&state.config.site.issuer),
    }
}

async fn answer(
    request: &HttpRequest,
    body: &[u8],
    state: &AppState,
) -> Result<Registered, RegistrationError> {
    admit(request, state)?;
    let metadata = read_metadata(request, body, state)?;
    let credentials = Credentials::new(state, metadata.auth_method)?;
    let random = state.random_bytes()?;
    let address = client_address::of(request, |address| state.config.trusted_edge.is_known(address));
    let (mut client, ids) = client(metadata.clone(), &credentials, random, state);
    let (now, earliest) = (state.now(), state.earliest());
    client.kept_until = state.registration_rate.keeps(address).then(|| now.plus(KEPT));
    // Registering the same client again does not take additional space in the store, so it is never limited.
    if state.store.registered_client(&client, &ids, earliest).await?.is_none() {
        state.registration_rate.admit(address, &client.metadata.redirect_uris)?;
    }
    let clients = &state.config.clients;
    let terms = RegistrationTerms {
        now: earliest,
        unused_until: now.plus(clients.unused),
        ceiling: clients.ceiling,
        unused_ceiling: clients.unused_ceiling(),
    };
    match state.store.register_client(&client, &ids, &terms).await? {
        Registration::Added(client) => {
            audit::Event::ClientRegistered { client_id: &client.id }.emit();
            Ok(Registered::new(&client, metadata, &state.config.site.issuer, Some(&credentials)))
        }
        // The response repeats the metadata of this request, because on loopback the port can differ from the port
        // in the first registration.
        Registration::Known(client) => {
            Ok(Registered::new(&client, metadata, &state.config.site.issuer, None))
        }
        Registration::Full => Err(RegistrationError::Full),
    }
}

/// Checks whether this request is allowed to register a client.
fn admit(request: &HttpRequest, state: &AppState) -> Result<(), RegistrationError> {
    match &state.config.clients.registration {
        RegistrationMode::Open => Ok(()),
        RegistrationMode::Closed => Err(RegistrationError::Closed),
        RegistrationMode::Token(expected) => {
            let given =
                authorization::bearer(request.headers()).ok_or(RegistrationError::InitialAccessToken)?;
            let same = bool::from(given.token().as_bytes().ct_eq(expected.expose_secret().as_bytes()));
            if same { Ok(()) } else { Err(RegistrationError::InitialAccessToken) }
        }
    }
}

fn read_metadata(
    request: &HttpRequest,
    body: &[u8],
    state: &AppState,
) -> Result<ClientMetadata, RegistrationError> {
    let content_type =
        request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(RegistrationError::ContentType);
    }
    let grants = &state.config.grants;
    let scopes = if grants.offline_access { offline_access() } else { Scope::default() };
    let scopes = state.catalogue().union(&scopes);
    let metadata = metadata::read(body, &scopes, |grant_type| grants.offers(grant_type))?;
    match metadata.redirect_uris.iter().find(|uri| !is_welcome(uri, &state.config.clients)) {
        Some(uri) => Err(RegistrationError::RedirectHost(uri.display_host())),
        None => Ok(metadata),
    }
}

/// Whether the operator allows clients to use this redirect URI.
fn is_welcome(uri: &RedirectUri, terms: &ClientTerms) -> bool {
    match uri.private_scheme() {
        Some(scheme) => terms.redirect_schemes.iter().any(|allowed| allowed == scheme),
        None => terms.redirect_hosts.is_empty() || is_listed(&uri.host(), &terms.redirect_hosts),
    }
}

/// Whether a host is in the list. `localhost` includes `127.0.0.1` and `[::1]`.
fn is_listed(host: &str, list: &[HostRule]) -> bool {
    let is_loopback = matches!(host, "127.0.0.1" | "[::1]");
    list.iter().any(|rule| rule.matches(host) || (is_loopback && rule.matches("localhost")))
}

/// Credentials that the client receives once. The server stores only their hashes.
struct Credentials {
    secret: Option<OpaqueToken>,
    management: OpaqueToken,
}

impl Credentials {
    fn new(state: &AppState, auth_method: ClientAuthMethod) -> Result<Self, RandomUnavailable> {
        let with_secret =
            matches!(auth_method, ClientAuthMethod::ClientSecretBasic | ClientAuthMethod::ClientSecretPost);
        let secret = if with_secret { Some(state.new_token(TokenKind::ClientSecret)?) } else { None };
        Ok(Self { secret, management: state.new_token(TokenKind::RegistrationAccess)? })
    }

    fn stored_secret(&self, state: &AppState) -> Option<ClientSecret> {
        let expires_at = state.config.clients.secret_lifetime.map(|lifetime| state.now().plus(lifetime));
        self.secret.as_ref().map(|secret| ClientSecret { hash: secret.hash(), expires_at })
    }
}

/// Value of `Retry-After` in seconds if the maximum number of clients is reached or the store is unavailable.
/// After this time, unused clients might have expired, or the store might be available again.
const LONG_RETRY_AFTER: u64 = 60;

/// Builds a client, and its possible identifiers in order of preference. A public client is identified by its
/// metadata: a registration with the same metadata returns the same client, so a program that registers on every
/// connection is only one client. Each confidential client has its own secret and therefore its own identity.
fn client(
    metadata: ClientMetadata,
    credentials: &Credentials,
    random: [u8; 32],
    state: &AppState,
) -> (Client, Vec<ClientId>) {
    let is_public = metadata.auth_method == ClientAuthMethod::None;
    let fingerprint = is_public.then(|| canonical(&metadata)).map(|text| TokenHash::of(text.as_bytes()));
    // The identifier of a public client is derived from its metadata. If that identifier is taken, a random one is
    // used: a client whose metadata was changed keeps its old identifier, and this must not prevent other clients
    // from registering.
    let derived = || ClientId::issued(Sha256::digest(format!("0 {}", canonical(&metadata))).into());
    let ids = is_public.then(derived).into_iter().chain([ClientId::issued(random)]).collect();
    let client = Client {
        id: ClientId::issued(random),
        registration: RegistrationId::new(random),
        origin: ClientOrigin::Registration,
        issued_at: state.now(),
        last_used_at: None,
        users: None,
        further_users: Vec::new(),
        kept_until: None,
        disabled: false,
        fingerprint,
        management: Some(credentials.management.hash()),
        secret: credentials.stored_secret(state),
        metadata,
        operator: None,
    };
    (client, ids)
}
