//! `GET`, `PUT` and `DELETE /register/{client_id}` (RFC 7592).
//!
//! The registration access token counts only while one party registered the client. A public client that two
//! parties registered alike is one client that belongs to neither: were the token of either still good, anyone who
//! knows a popular client's metadata could delete it for everybody.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::domain::client::{Client, ClientAuthMethod, ClientId, RegistrationId};
use crate::domain::error_code::ErrorCode;
use crate::domain::issuer::Issuer;
use crate::domain::opaque_token::{OpaqueToken, TokenHash, TokenKind};
use crate::guard::client_address;
use crate::oauth::responses;
use crate::ops::audit;
use crate::state::AppState;

use super::answer::Registered;
use super::metadata::canonical;
use super::{Credentials, RegistrationError, bearer, read_metadata};

/// Why a registration is not managed.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// No such client, or not with this token: the same answer (RFC 7592 §2.1), so that identifiers cannot be probed.
    #[error("the registration access token is not valid for this client")]
    Token,
    /// RFC 7592 §2.2.
    #[error("{0}")]
    Update(&'static str),
    /// See there.
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

/// Errors that are ours, not the client's.
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

/// `GET`: what is registered.
pub async fn read(request: HttpRequest, id: web::Path<String>, state: web::Data<AppState>) -> HttpResponse {
    match managed(&request, &id, &state).await {
        Ok((client, token)) => responses::json_no_store(
            StatusCode::OK,
            &Registered::managed(&client, &state.config.site.issuer, &token),
        ),
        Err(error) => error.response(&state.config.site.issuer),
    }
}

/// `PUT`: registers other metadata in its place, and rotates the token and any secret.
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

/// `DELETE`: forgets the client, and with it every grant.
pub async fn delete(request: HttpRequest, id: web::Path<String>, state: web::Data<AppState>) -> HttpResponse {
    let outcome = async {
        let (client, token) = managed(&request, &id, &state).await?;
        if !state.store.delete_client_managed_by(&token.hash(), &client.id).await? {
            return Err(ManagementError::Token);
        }
        audit::Event::ClientDeleted { client_id: &client.id }.emit();
        Ok::<_, ManagementError>(())
    };
    match outcome.await {
        Ok(()) => HttpResponse::NoContent().insert_header(("cache-control", "no-store")).finish(),
        Err(error) => error.response(&state.config.site.issuer),
    }
}

/// The client that the request's token manages.
async fn managed(
    request: &HttpRequest,
    id: &str,
    state: &AppState,
) -> Result<(Client, OpaqueToken), ManagementError> {
    let token = bearer(request).and_then(|text| OpaqueToken::parse(TokenKind::RegistrationAccess, text).ok());
    let token = token.ok_or(ManagementError::Token)?;
    let id = ClientId::try_from(id.to_owned()).map_err(|_| ManagementError::Token)?;
    let client = state.store.client(&id, state.now()).await?;
    let client = client.filter(|client| client.management == Some(token.hash()) && !client.disabled);
    Ok((client.ok_or(ManagementError::Token)?, token))
}

/// Members that RFC 7592 §2.2 treats apart from metadata.
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
    // A change costs as much as a registration.
    let address = client_address::of(request, |address| state.config.trusted_edge.is_known(address));
    state.registration_rate.admit(address, &metadata.redirect_uris).map_err(RegistrationError::from)?;
    let credentials = Credentials::new(state, metadata.auth_method)?;
    // What was given to a client that proves who it is must not be usable without that proof: its grants end here.
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
    // Lost against another update, or against somebody who registered the same: the token has ceased to count.
    if !state.store.update_client(&token.hash(), &updated).await? {
        return Err(ManagementError::Token);
    }
    audit::Event::ClientUpdated { client_id: &updated.id }.emit();
    Ok(Registered::new(&updated, metadata, &state.config.site.issuer, Some(&credentials)))
}

fn check_identity(identity: &Identity, client: &Client) -> Result<(), ManagementError> {
    if identity.client_id.as_deref() != Some(client.id.as_str()) {
        return Err(ManagementError::Update("the body must hold the client_id that is updated"));
    }
    let ours = [
        &identity.registration_access_token,
        &identity.registration_client_uri,
        &identity.client_id_issued_at,
        &identity.client_secret_expires_at,
    ];
    if ours.iter().any(|member| member.is_some()) {
        let problem = "the body must not hold registration_access_token, registration_client_uri, client_id_issued_at \
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
