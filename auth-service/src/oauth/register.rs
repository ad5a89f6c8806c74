//! `/register`: dynamic client registration (RFC 7591), and its management under `/register/{client_id}` (RFC 7592).

mod answer;
pub mod manage;
mod metadata;

use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

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

use super::requested_scope::offline_access;
use super::responses;
use answer::Registered;
use metadata::{InvalidMetadata, canonical};

/// Why a client is not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// Not JSON.
    #[error("the Content-Type must be application/json")]
    ContentType,
    /// RFC 7591 §3.2.2.
    #[error(transparent)]
    Metadata(#[from] InvalidMetadata),
    /// `REGISTRATION_REDIRECT_HOSTS`, `REGISTRATION_REDIRECT_SCHEMES`.
    #[error("the operator of this server does not allow redirect URIs at {0}")]
    RedirectHost(String),
    /// `REGISTRATION=closed`.
    #[error("the operator of this server has closed registration")]
    Closed,
    /// `REGISTRATION=token`.
    #[error("registration needs the initial access token of this server, as a Bearer token")]
    InitialAccessToken,
    /// Too many.
    #[error("too many clients are being registered; try again later")]
    Crowded(#[from] TooFast),
    /// `CLIENT_CEILING`.
    #[error(
        "this server holds as many clients as its operator allows, and none can make room; try again later"
    )]
    Full,
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
            Self::Full => Some(FULL_RETRY_AFTER),
            _ => None,
        };
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// `POST /register`.
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
    let now = state.now();
    client.kept_until = state.registration_rate.keeps(address).then(|| now.plus(KEPT));
    // A client that is here already costs nothing, so coming back is never limited.
    if state.store.registered_client(&client, &ids, now).await?.is_none() {
        state.registration_rate.admit(address, &client.metadata.redirect_uris)?;
    }
    let clients = &state.config.clients;
    let terms = RegistrationTerms {
        now,
        unused_until: now.plus(clients.unused),
        ceiling: clients.ceiling,
        unused_ceiling: clients.unused_ceiling(),
    };
    match state.store.register_client(&client, &ids, &terms).await? {
        Registration::Added(client) => {
            audit::Event::ClientRegistered { client_id: &client.id }.emit();
            Ok(Registered::new(&client, metadata, &state.config.site.issuer, Some(&credentials)))
        }
        // What this one asked for is echoed: on loopback its port may differ from the first one's.
        Registration::Known(client) => {
            Ok(Registered::new(&client, metadata, &state.config.site.issuer, None))
        }
        Registration::Full => Err(RegistrationError::Full),
    }
}

/// Whether this request may register at all.
fn admit(request: &HttpRequest, state: &AppState) -> Result<(), RegistrationError> {
    match &state.config.clients.registration {
        RegistrationMode::Open => Ok(()),
        RegistrationMode::Closed => Err(RegistrationError::Closed),
        RegistrationMode::Token(expected) => {
            let given = bearer(request).ok_or(RegistrationError::InitialAccessToken)?;
            let same = bool::from(given.as_bytes().ct_eq(expected.expose_secret().as_bytes()));
            if same { Ok(()) } else { Err(RegistrationError::InitialAccessToken) }
        }
    }
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let (scheme, token) = headers.next()?.to_str().ok()?.split_once(' ')?;
    // RFC 9110 §11.4: one space or more.
    let token = token.trim_start_matches(' ');
    (headers.next().is_none() && scheme.eq_ignore_ascii_case("bearer")).then_some(token)
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

/// Whether the operator lets clients be answered there.
fn is_welcome(uri: &RedirectUri, terms: &ClientTerms) -> bool {
    match uri.private_scheme() {
        Some(scheme) => terms.redirect_schemes.iter().any(|allowed| allowed == scheme),
        None => terms.redirect_hosts.is_empty() || is_listed(&uri.host(), &terms.redirect_hosts),
    }
}

/// `*.example.com` stands for every name below it, `localhost` for loopback addresses too.
fn is_listed(host: &str, list: &[String]) -> bool {
    list.iter().any(|entry| match entry.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix) && suffix.starts_with('.'),
        None => host == entry || (entry == "localhost" && matches!(host, "127.0.0.1" | "[::1]")),
    })
}

/// What a client is handed once, and we keep only the hashes of.
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

/// When it is worth coming back after [`RegistrationError::Full`], in seconds: by then some clients are kept no longer.
const FULL_RETRY_AFTER: u64 = 60;

/// A public client is its metadata: registering the same again gives the same client, so that a program which
/// registers on every connect stays one client. A confidential one has a secret of its own, and so an identity.
fn client(
    metadata: ClientMetadata,
    credentials: &Credentials,
    random: [u8; 32],
    state: &AppState,
) -> (Client, Vec<ClientId>) {
    let is_public = metadata.auth_method == ClientAuthMethod::None;
    let fingerprint = is_public.then(|| canonical(&metadata)).map(|text| TokenHash::of(text.as_bytes()));
    // One that follows from the metadata, and one that nobody can know before: a client that was updated to other metadata may
    // have taken the first, and keeps nobody from registering.
    let derived = || ClientId::issued(Sha256::digest(format!("0 {}", canonical(&metadata))).into());
    let ids = is_public.then(derived).into_iter().chain([ClientId::issued(random)]).collect();
    let client = Client {
        id: ClientId::issued(random),
        registration: RegistrationId::new(random),
        origin: ClientOrigin::Registration,
        issued_at: state.now(),
        last_used_at: None,
        users: None,
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
