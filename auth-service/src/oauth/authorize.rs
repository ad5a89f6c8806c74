//! `GET /authorize`: the authorization endpoint (RFC 6749 §3.1, §4.1.1; OAuth 2.1 §4.1.1).

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::clients::UnknownClient;
use crate::clients::documents::{DocumentError, RETRY_AFTER_SECONDS};
use crate::clients::fetch_rate::Caller;
use crate::domain::client::{Client, ClientId, ClientOrigin, InvalidClientId};
use crate::domain::consent::Consent;
use crate::domain::error_code::ErrorCode;
use crate::domain::issuer::Issuer;
use crate::domain::redirect_uri::RedirectUri;
use crate::guard::client_address;
use crate::pages::{CodeLink, FormTarget, MessagePage, RefusedPage, page};
use crate::state::AppState;
use crate::store::StoreError;

use super::authorization_error::{refusal_url, refuse};
use super::authorization_request::{AuthorizationRequest, Refusal, redirect_uri_of};
use super::consent::{self, ConsentError, Pushed};
use super::params::{BadParams, Params};
use super::prompt::Prompt;
use super::responses::see_other;
use super::{fallback, pushed_request, session};

/// Errors that are shown on a page of this server instead of being sent to the client. In most cases, the reason
/// is that the client or its redirect URI could not be verified (RFC 6749 §4.1.2.1).
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorizeError {
    #[error("The link that brought you here is broken: {0}.")]
    Params(#[from] BadParams),
    #[error(
        "The link that brought you here does not name an application: client_id is missing or malformed."
    )]
    NoClient(#[from] InvalidClientId),
    #[error(
        "The application is not known here. It might have been removed; disconnect it and connect it again."
    )]
    UnknownClient,
    #[error("The operator of this server has disabled the application.")]
    Disabled,
    #[error("The application describes itself at {0}, and that document cannot be used: {1}.")]
    Document(String, DocumentError),
    #[error(
        "The application describes itself at {0}, and that document cannot be fetched at the moment: {1}. Try again in a minute."
    )]
    DocumentAway(String, DocumentError),
    #[error(
        "The application requested the answer at an address that it has not registered. Nothing was sent there."
    )]
    Redirect,
    #[error(
        "The link that brought you here has already been used or has expired. Go back to the application and connect again."
    )]
    RequestUri,
    #[error(
        "This service cannot be used until its operator has repaired it. Tell the operator. Afterwards, go back to the application and connect it again."
    )]
    NeedsOperator,
    #[error("The service cannot be used at the moment. Try again in a minute.")]
    Unavailable,
}

impl AuthorizeError {
    fn unknown(id: &ClientId, error: UnknownClient) -> Self {
        match error {
            UnknownClient::Unregistered => Self::UnknownClient,
            UnknownClient::Disabled => Self::Disabled,
            UnknownClient::Document(error) => Self::Document(id.to_string(), error),
            UnknownClient::Away(error) => Self::DocumentAway(id.to_string(), error),
            UnknownClient::Store(error) => error.into(),
            UnknownClient::Random(_) => Self::Unavailable,
        }
    }
}

impl From<StoreError> for AuthorizeError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed during an authorization");
        match error {
            StoreError::NeedsOperator(_) => Self::NeedsOperator,
            StoreError::Unavailable(_) | StoreError::Unreadable => Self::Unavailable,
        }
    }
}

impl AuthorizeError {
    pub(super) fn response(&self, issuer: &Issuer) -> HttpResponse {
        let (status, code) = match self {
            Self::Params(_) | Self::NoClient(_) | Self::Redirect => {
                (StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest)
            }
            Self::UnknownClient | Self::Disabled | Self::Document(..) => {
                (StatusCode::BAD_REQUEST, ErrorCode::InvalidClient)
            }
            Self::RequestUri => (StatusCode::BAD_REQUEST, ErrorCode::InvalidRequestUri),
            Self::DocumentAway(_, DocumentError::TooFast) => {
                (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TemporarilyUnavailable)
            }
            Self::NeedsOperator | Self::Unavailable | Self::DocumentAway(..) => {
                (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable)
            }
        };
        let text = self.to_string();
        let code = Some(CodeLink::new(code, issuer));
        let mut response = page(
            status,
            &MessagePage { title: "This request cannot be answered", text: &text, code, way_on: None },
            FormTarget::Ourselves,
        );
        if matches!(self, Self::DocumentAway(..)) {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        response
    }
}

/// Handles `GET /authorize`: asks the user to log in and then to consent, or refuses the request.
pub async fn authorize(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    if let Some(redirect) = fallback::complete(&request, &state) {
        return redirect;
    }
    match answer(&request, &state).await {
        Ok(response) => response,
        Err(error) => error.response(&state.config.site.issuer),
    }
}

async fn answer(request: &HttpRequest, state: &AppState) -> Result<HttpResponse, AuthorizeError> {
    let params = Params::of_query(request.query_string())?;
    let client = client_of(request, &params, state).await?;
    let (params, pushed) = match params.one("request_uri")? {
        Some(uri) => pushed_params(uri, &client, state).await?,
        None => (params, None),
    };
    let redirect_uri = redirect_uri_of(&params, &client)?.ok_or(AuthorizeError::Redirect)?;
    let client_state = params.one("state").unwrap_or_default();
    let login = session::of(request, state).await?;
    let known = match &login {
        Some((session, _)) => consent::known(state, &client, session).await?,
        None => None,
    };
    let refused = |refusal: &Refusal| {
        refuse_with_care(state, &client, known.as_ref(), &redirect_uri, client_state, refusal)
    };
    if pushed.is_none() && pushes_only(&client, state) {
        return Ok(refused(&Refusal::PushRequired));
    }
    let asked = AuthorizationRequest::read(&params, &client, redirect_uri.clone(), state);
    let (asked, prompt) = match asked.and_then(|asked| Ok((asked, Prompt::read(&params)?))) {
        Ok(read) => read,
        Err(refusal) => return Ok(refused(&refusal)),
    };
    match login {
        Some((session, account)) if prompt.accepts(&session, request.query_string(), state.now()) => {
            let who = (&session, &account);
            match consent::ask(state, &client, known.as_ref(), asked, (pushed, prompt), who).await {
                Ok(page) => Ok(page),
                Err(error) => refusal_without_consent(&error).map(|refusal| refused(&refusal)),
            }
        }
        _ if prompt.none => Ok(refused(&Refusal::LoginRequired)),
        _ => Ok(see_other(&state.config.site.issuer.endpoint(&format!("/login?{}", request.query_string())))),
    }
}

/// The refusal that the client receives if the consent page can neither be shown nor skipped, or the error that is
/// shown to the user instead.
fn refusal_without_consent(error: &ConsentError) -> Result<Refusal, AuthorizeError> {
    match error {
        ConsentError::PageRequired => Ok(Refusal::ConsentRequired),
        ConsentError::TooFast(_) => Ok(Refusal::TooFast),
        ConsentError::AnsweredBefore => Err(AuthorizeError::RequestUri),
        ConsentError::ClientGone => Err(AuthorizeError::UnknownClient),
        ConsentError::NeedsOperator => Err(AuthorizeError::NeedsOperator),
        // All but the last are errors in the form that the consent page sends. They do not occur here.
        ConsentError::Params(_)
        | ConsentError::NoSession
        | ConsentError::FormToken(_)
        | ConsentError::ClientChanged
        | ConsentError::Barred
        | ConsentError::NoDecision
        | ConsentError::FetchedTooFast
        | ConsentError::Unavailable => Err(AuthorizeError::Unavailable),
    }
}

/// Whether requests from this client are accepted only if they have been pushed (RFC 9126 §5, §6).
fn pushes_only(client: &Client, state: &AppState) -> bool {
    state.config.grants.pushed_requests_only
        || client.operator.as_ref().is_some_and(|terms| terms.pushes_requests)
}

/// Loads the pushed parameters. They replace everything in the browser's query (RFC 9126 §4, RFC 9101 §5).
async fn pushed_params(
    request_uri: &str,
    client: &Client,
    state: &AppState,
) -> Result<(Params, Option<Pushed>), AuthorizeError> {
    let handle = pushed_request::handle(request_uri).ok_or(AuthorizeError::RequestUri)?;
    let found = pushed_request::find(&handle, client, state).await?.ok_or(AuthorizeError::RequestUri)?;
    let params = Params::of_query(&found.query)?;
    Ok((params, Some(Pushed { handle, grant_id: found.grant_id })))
}

/// Finds the client. This must happen first, because the server must not redirect the browser before it has
/// verified the client and its redirect URI.
async fn client_of(
    request: &HttpRequest,
    params: &Params,
    state: &AppState,
) -> Result<Client, AuthorizeError> {
    let id = ClientId::try_from(params.one("client_id")?.unwrap_or_default().to_owned())?;
    let address = client_address::of(request, |address| state.config.trusted_edge.is_known(address));
    let found = state.clients.find(Caller::Stranger(address), &id, state.earliest()).await;
    found.map_err(|error| AuthorizeError::unknown(&id, error))
}

/// Refuses a request. The browser is redirected to the client immediately only if the user has already approved
/// this redirect URI, or if the operator added the client. Otherwise the user first sees a page. Anybody can
/// register a redirect URI, and without this page an attacker's link to this server, which users trust, could lead
/// to any website (OAuth 2.1 §7.12.2, RFC 9700 §4.11.2).
fn refuse_with_care(
    state: &AppState,
    client: &Client,
    known: Option<&Consent>,
    redirect_uri: &RedirectUri,
    client_state: Option<&str>,
    refusal: &Refusal,
) -> HttpResponse {
    let is_known = known.is_some_and(|consent| consent.knows(redirect_uri));
    if is_known || client.origin == ClientOrigin::Operator {
        return refuse(state, redirect_uri, client_state, refusal);
    }
    let template = RefusedPage {
        description: &refusal.to_string(),
        code: CodeLink::new(refusal.code(), &state.config.site.issuer),
        redirect_host: &redirect_uri.display_host(),
        url: &refusal_url(state, redirect_uri, client_state, refusal),
    };
    page(StatusCode::BAD_REQUEST, &template, FormTarget::Ourselves)
}
