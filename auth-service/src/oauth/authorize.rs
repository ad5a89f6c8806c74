//! `GET /authorize`: the authorization endpoint (RFC 6749 §3.1, §4.1.1; OAuth 2.1 §4.1.1).

mod request;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::clients::UnknownClient;
use crate::clients::documents::DocumentError;
use crate::domain::client::{Client, ClientId, InvalidClientId};
use crate::domain::redirect_uri::RedirectUri;
use crate::identity::cookies::OurCookie;
use crate::pages::{FormTarget, MessagePage, page};
use crate::state::AppState;
use crate::store::StoreError;

use super::consent;
use super::fallback;
use super::params::{BadParams, Params};

pub use request::AuthorizationRequest;
use request::Refusal;

/// Why there can be no redirect back to the client: it is not certain where the client is (RFC 6749 §4.1.2.1).
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorizeError {
    #[error("The link that brought you here is broken: {0}.")]
    Params(#[from] BadParams),
    #[error("The link that brought you here names no application: client_id is missing or malformed.")]
    NoClient(#[from] InvalidClientId),
    #[error(
        "The application is not known here. It may have been removed; disconnect it and connect it again."
    )]
    UnknownClient,
    #[error("The operator of this server has disabled the application.")]
    Disabled,
    #[error("The application says what it is at {0}, and that cannot be used: {1}.")]
    Document(String, DocumentError),
    #[error(
        "The application asked to be answered at an address that it has not registered. Nothing was sent there."
    )]
    Redirect,
    #[error("The service cannot be used at the moment. Try again in a minute.")]
    Unavailable,
}

impl AuthorizeError {
    fn unknown(id: &ClientId, error: UnknownClient) -> Self {
        match error {
            UnknownClient::Unregistered => Self::UnknownClient,
            UnknownClient::Disabled => Self::Disabled,
            UnknownClient::Document(error) => Self::Document(id.to_string(), error),
            UnknownClient::Store(error) => error.into(),
            UnknownClient::Random(_) => Self::Unavailable,
        }
    }
}

impl From<StoreError> for AuthorizeError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed during an authorization");
        Self::Unavailable
    }
}

impl AuthorizeError {
    pub(super) fn response(&self) -> HttpResponse {
        let (status, code) = match self {
            Self::Params(_) | Self::NoClient(_) | Self::Redirect => {
                (StatusCode::BAD_REQUEST, Some("invalid_request"))
            }
            Self::UnknownClient | Self::Disabled | Self::Document(..) => {
                (StatusCode::BAD_REQUEST, Some("invalid_client"))
            }
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Some("temporarily_unavailable")),
        };
        let text = self.to_string();
        page(
            status,
            &MessagePage { title: "This request cannot be answered", text: &text, code },
            FormTarget::Ourselves,
        )
    }
}

/// Asks the person to log in, then to consent; refuses what cannot be granted.
pub async fn authorize(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    if let Some(redirect) = fallback::complete(&request, &state) {
        return redirect;
    }
    match answer(&request, &state).await {
        Ok(response) => response,
        Err(error) => error.response(),
    }
}

async fn answer(request: &HttpRequest, state: &AppState) -> Result<HttpResponse, AuthorizeError> {
    let params = Params::of_query(request.query_string())?;
    let (client, redirect_uri) = client_and_redirect(&params, state).await?;
    let site = &state.config.site;
    let asked = match AuthorizationRequest::read(
        &params,
        &client,
        redirect_uri.clone(),
        &site.protected_hosts,
        &state.policy,
    ) {
        Ok(asked) => asked,
        Err(refusal) => {
            return Ok(refuse(state, &redirect_uri, params.one("state").unwrap_or_default(), refusal));
        }
    };
    let now = state.now();
    let session = match OurCookie::Session.read(request, site.issuer.scheme()) {
        Some(cookie) => state.store.session(&cookie.hash(), now).await?,
        None => None,
    };
    let account = match &session {
        Some(session) => {
            state.store.account(&session.subject).await?.filter(|account| account.is_logged_in_by(session))
        }
        None => None,
    };
    match (session, account) {
        (Some(session), Some(account)) => {
            consent::ask(state, &client, &asked, &session, &account).map_err(|_| AuthorizeError::Unavailable)
        }
        _ => Ok(see_other(&site.issuer.endpoint(&format!("/login?{}", request.query_string())))),
    }
}

/// First of all who asks and where the answer goes; until both are known nothing may be sent anywhere.
async fn client_and_redirect(
    params: &Params,
    state: &AppState,
) -> Result<(Client, RedirectUri), AuthorizeError> {
    let id = ClientId::try_from(params.one("client_id")?.unwrap_or_default().to_owned())?;
    let client =
        state.clients.find(&id, state.now()).await.map_err(|error| AuthorizeError::unknown(&id, error))?;
    let redirect_uri = match (params.one("redirect_uri")?, client.metadata.redirect_uris.as_slice()) {
        (Some(text), _) => RedirectUri::try_from(text.to_owned()).map_err(|_| AuthorizeError::Redirect)?,
        // OAuth 2.1 §4.1.1: it may be left out when there is only one.
        (None, [only]) => only.clone(),
        (None, _) => return Err(AuthorizeError::Redirect),
    };
    if client.allows_redirect(&redirect_uri) {
        Ok((client, redirect_uri))
    } else {
        Err(AuthorizeError::Redirect)
    }
}

/// Tells the client, by way of the browser, that it gets nothing (RFC 6749 §4.1.2.1, RFC 9207 §2.1).
pub(super) fn refuse(
    state: &AppState,
    redirect_uri: &RedirectUri,
    client_state: Option<&str>,
    refusal: Refusal,
) -> HttpResponse {
    let description = refusal.to_string();
    let mut pairs = vec![("error", refusal.code()), ("error_description", description.as_str())];
    pairs.extend(client_state.map(|value| ("state", value)));
    pairs.push(("iss", state.config.site.issuer.as_str()));
    see_other(&redirect_uri.with_query(&pairs))
}

/// 303, so that a browser never repeats a POST with a password at the next address (RFC 9700 §4.12).
pub(super) fn see_other(location: &str) -> HttpResponse {
    HttpResponse::SeeOther()
        .insert_header((LOCATION, location))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .finish()
}

pub(super) use request::Refusal as AuthorizationRefusal;
