//! `GET`, `PUT` and `DELETE /register/{client_id}`: management of a registration (RFC 7592).
//!
//! A registration access token is valid only as long as the client has been registered once. If the same public
//! client is registered a second time, neither token is valid. Otherwise, anybody who knows the metadata of a
//! popular client could delete it for all its users.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::domain::client::{Client, ClientAuthMethod, ClientId, RegistrationId};
use crate::domain::error_code::ErrorCode;
use crate::domain::issuer::Issuer;
use crate::domain::opaque_token::{OpaqueToken, TokenHash, TokenKind};
use crate::guard::client_address;
use crate::oauth::{authorization, responses};
use crate::ops::audit;
use crate::state::AppState;
use crate::store::ManagedChange;

use super::answer::Registered;
use super::metadata::canonical;
use super::{Credentials, RegistrationError, read_metadata};

/// Why a management request is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// There is no such client, or the token belongs to another client. The response is the same for both (RFC
    /// 7592 §2.1), so that it does not reveal which identifiers exist.
    #[error("the registration access token is not valid for this client")]
    Token,
    /// The body breaks a rule of RFC 7592 §2.2.
    #[error("{0}")]
    Update(&'static str),
    /// The new metadata is refused for the same reasons as in a registration, or the server failed.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
}

impl<E: Into<RegistrationError>> From<E> for ManagementError
where
    E: IsInternal,
{
    fn from(error: E) -> Self {
        Self::Registration(error.into())
    }
}

/// Marks errors that the server causes, as opposed to those that the client causes.
trait IsInternal {}
impl IsInternal for crate::store::StoreError {}
impl IsInternal for crate::domain::clock::RandomUnavailable {}

impl ManagementError {
    fn response(&self, issuer: &Issuer) -> HttpResponse {
        let (status, code, challenge) = match self {
            Self::Token => {
                let challenge = Some("Bearer error=\"invalid_token\"");
                (StatusCode::UNAUTHORIZED, ErrorCode::InvalidToken, challenge)
            }
            Self::Update(_) => (StatusCode::BAD_REQUEST, ErrorCode::InvalidClientMetadata, None),
            Self::Registration(error) => return error.response(issuer),
        };
        responses::error(issuer, status, code, &self.to_string(), challenge)
    }
}

/// `GET`: returns the registration of the client.
pub async fn read(request: HttpRequest, id: web::Path<String>, state: web::Data<AppState>) -> HttpResponse {
    match managed(&request, &id, &state).await {
        Ok((client, token)) => responses::json_no_store(
            StatusCode::OK,
            &Registered::managed(&client, &state.config.site.issuer, &token),
        ),
        Err(error) => error.response(&state.config.site.issuer),
    }
}

/// `PUT`: replaces the metadata, and issues a new registration access token and, if the client has a secret,
/// a new secret.
pub async fn update(
    request: HttpRequest,
    id: web::Path<String>,
    body: web::Bytes,
    state: web::Data<AppState>,
) -> HttpResponse {
    match replace(&request, &id, &body, &state).await {
        Ok(registered) => responses::json_no_store(StatusCode::OK, &registered),
        Err(error) => error.response(&state.config.site.issuer),
    }
}

/// `DELETE`: removes the client and all of its grants.
pub async fn delete(request: HttpRequest, id: web::Path<String>, state: web::Data<AppState>) -> HttpResponse {
    let outcome = async {
        let (client, token) = managed(&request, &id, &state).await?;
        match state.store.delete_client_managed_by(&token.hash(), &client.id).await? {
            ManagedChange::Made => {}
            ManagedChange::TokenInvalid => return Err(ManagementError::Token),
        }
        audit::Event::ClientDeleted { client_id: &client.id }.emit();
        Ok::<_, ManagementError>(())
    };
    match outcome.await {
        Ok(()) => HttpResponse::NoContent().insert_header(("cache-control", "no-store")).finish(),
        Err(error) => error.response(&state.config.site.issuer),
    }
}

/// Returns the client whose registration access token is in the request.
async fn managed(
    request: &HttpRequest,
    id: &str,
    state: &AppState,
) -> Result<(Client, OpaqueToken), ManagementError> {
    let token = authorization::bearer(request.headers())
        .and_then(|bearer| OpaqueToken::parse(TokenKind::RegistrationAccess, bearer.token()).ok());
    let token = token.ok_or(ManagementError::Token)?;
    let id = ClientId::try_from(id.to_owned()).map_err(|_| ManagementError::Token)?;
    let client = state.store.client(&id, state.earliest()).await?;
    let client = client.filter(|client| client.management == Some(token.hash()) && !client.disabled);
    Ok((client.ok_or(ManagementError::Token)?, token))
}

/// Members of the body that are not metadata and have their own rules (RFC 7592 §2.2).
#[derive(Deserialize)]
struct Identity {
    client_id: Option<String>,
    client_secret: Option<String>,
    registration_access_token: Option<serde_json::Value>,
    registration_client_uri: Option<serde_json::Value>,
    client_id_issued_at: Option<serde_json::Value>,
    client_secret_expires_at: Option<serde_json::Value>,
}

async fn replace(
    request: &HttpRequest,
    id: &str,
    body: &[u8],
    state: &AppState,
) -> Result<Registered, ManagementError> {
    let (client, token) = managed(request, id, state).await?;
    let metadata = read_metadata(request, body, state)?;
    let identity: Identity = serde_json::from_slice(body)
        .map_err(|_| ManagementError::Update("the body must be a JSON object"))?;
    check_identity(&identity, &client)?;
    // An update counts against the same limits as a registration.
    let address = client_address::of(request, |address| state.config.trusted_edge.is_known(address));
    state.registration_rate.admit(address, &metadata.redirect_uris).map_err(RegistrationError::from)?;
    let credentials = Credentials::new(state, metadata.auth_method)?;
    // The client had to authenticate until now, and becomes public with this update. A new registration identifier
    // makes its grants invalid, so that they cannot be used without authentication.
    let registration = if client.metadata.drops_credentials(&metadata) {
        RegistrationId::new(state.random_bytes()?)
    } else {
        client.registration.clone()
    };
    let updated = Client {
        registration,
        fingerprint: (metadata.auth_method == ClientAuthMethod::None)
            .then(|| TokenHash::of(canonical(&metadata).as_bytes())),
        management: Some(credentials.management.hash()),
        secret: credentials.stored_secret(state),
        metadata: metadata.clone(),
        ..client
    };
    // This fails if another update, or a registration with the same metadata, came first. The token is then no
    // longer valid.
    match state.store.update_client(&token.hash(), &updated).await? {
        ManagedChange::Made => {}
        ManagedChange::TokenInvalid => return Err(ManagementError::Token),
    }
    audit::Event::ClientUpdated { client_id: &updated.id }.emit();
    Ok(Registered::new(&updated, metadata, &state.config.site.issuer, Some(&credentials)))
}

fn check_identity(identity: &Identity, client: &Client) -> Result<(), ManagementError> {
    if identity.client_id.as_deref() != Some(client.id.as_str()) {
        return Err(ManagementError::Update("the body must contain the client_id that is updated"));
    }
    let ours = [
        &identity.registration_access_token,
        &identity.registration_client_uri,
        &identity.client_id_issued_at,
        &identity.client_secret_expires_at,
    ];
    if ours.iter().any(|member| member.is_some()) {
        let problem = "the body must not contain registration_access_token, registration_client_uri, client_id_issued_at \
                       or client_secret_expires_at";
        return Err(ManagementError::Update(problem));
    }
    let matches = |given: &str| {
        client.secret.as_ref().is_some_and(|known| {
            let given = TokenHash::of(given.as_bytes()).text();
            bool::from(given.as_bytes().ct_eq(known.hash.text().as_bytes()))
        })
    };
    if identity.client_secret.as_deref().is_some_and(|given| !matches(given)) {
        return Err(ManagementError::Update("the client_secret in the body is not that of the client"));
    }
    Ok(())
}
