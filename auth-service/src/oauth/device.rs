//! `/device`: the pages on which a user allows or denies a device (RFC 8628 §3.3).
//!
//! The user logs in, enters the code (a link can fill it in), and decides on a page that shows the code, the
//! client, and the address and time of the request. A link cannot skip any of these steps. On the last page, the
//! user can notice that the request comes from another person's device (§5.4).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::clients::UnknownClient;
use crate::clients::documents::{DocumentError, RETRY_AFTER_SECONDS};
use crate::clients::fetch_rate::Caller;
use crate::domain::account::{Account, LoginSession, Subject};
use crate::domain::client::{Client, GrantType};
use crate::domain::device::{DeviceAuthorization, DeviceState, UserCode};
use crate::domain::issuer::Issuer;
use crate::domain::opaque_token::TokenHash;
use crate::guard::client_address;
use crate::identity::form_token::{BadFormToken, Form};
use crate::keys::seal::CryptoFailure;
use crate::ops::audit;
use crate::pages::{BarredPage, DeviceCodePage, DeviceConsentPage, FormTarget, Link, displayable, page};
use crate::state::AppState;
use crate::store::{Decision, StoreError};

use super::after_form::{Message, Problem, redirect};
use super::consent::{barred, scope_lines};
use super::params::{BadParams, Params};
use super::responses::see_other;
use super::{responses, session};

/// The content of the form token of the last page: everything that was shown to the user.
#[derive(Serialize, Deserialize)]
struct Shown {
    device: TokenHash,
    code: String,
    subject: Subject,
    /// Digest of the client's metadata. It includes the client's name, because the user bases the decision on this
    /// name.
    client: TokenHash,
}

/// Why a page cannot be shown, or why the user's decision is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The parameters of the form are malformed.
    #[error("The form that was sent is broken: {0}.")]
    Params(#[from] BadParams),
    /// The user is no longer logged in.
    #[error("You are no longer signed in. If the device is not connected, sign in and type the code again.")]
    NoSession,
    /// The form token is not valid; see [`BadFormToken`].
    #[error("The reason is that {0}. If the device is not connected, type its code again.")]
    FormToken(#[from] BadFormToken),
    /// The request with this code has already been answered, or has expired.
    #[error(
        "This code has already been used or has expired. If the device is not connected, get a new code on the device, and type that one."
    )]
    Over,
    /// The client has been removed or disabled.
    #[error("The application on the device was removed while this page was open.")]
    ClientGone,
    /// The client's metadata has changed since the page was shown.
    #[error(
        "The application on the device has changed while this page was open. Type the code again, and check which application is asking."
    )]
    ClientChanged,
    /// The policy does not allow the user to access the requested resources.
    #[error("This account is not allowed to use what the device requested. Ask the operator of this server.")]
    Barred,
    /// The form contains neither `allow` nor `deny`.
    #[error("The form that was sent contains no answer. Type the code again.")]
    NoDecision,
    /// The user or the client has exceeded its own limit on fetches of the client's metadata document.
    #[error(
        "The description of the application on the device was fetched too often for it or for your network. Try again in ten seconds."
    )]
    FetchedTooFast,
    /// The store has lost data.
    #[error(
        "This service cannot be used until its operator has repaired it. Tell the operator. Afterwards, go back to the device and connect it again."
    )]
    NeedsOperator,
    /// The server failed, or the client's metadata document is not available at the moment.
    #[error("The service cannot be used at the moment. Try again in a minute.")]
    Unavailable,
}

impl From<StoreError> for DeviceError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed on the device page");
        match error {
            StoreError::NeedsOperator(_) => Self::NeedsOperator,
            StoreError::Unavailable(_) | StoreError::Unreadable => Self::Unavailable,
        }
    }
}

impl From<CryptoFailure> for DeviceError {
    fn from(_: CryptoFailure) -> Self {
        Self::Unavailable
    }
}

impl DeviceError {
    fn message(&self, issuer: &Issuer) -> Message {
        let status = match self {
            Self::Params(_)
            | Self::NoSession
            | Self::FormToken(_)
            | Self::NoDecision
            | Self::ClientGone
            | Self::ClientChanged => StatusCode::BAD_REQUEST,
            Self::Over => StatusCode::CONFLICT,
            Self::Barred => StatusCode::FORBIDDEN,
            Self::FetchedTooFast => StatusCode::TOO_MANY_REQUESTS,
            Self::NeedsOperator | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        let title = match self {
            Self::Over => "This code can no longer be used",
            // An earlier decision might be in effect, so the title must not state that nothing was allowed.
            Self::NoSession | Self::FormToken(_) => "This page cannot be used",
            _ => "Nothing was allowed",
        };
        let url = issuer.endpoint("/device");
        let way_on = Link { text: "Type a code", url: &url };
        Message::new(status, title, self.to_string(), Some(way_on))
    }

    /// The response to `GET`.
    fn page(&self, issuer: &Issuer) -> HttpResponse {
        let message = self.message(issuer);
        match self {
            Self::FetchedTooFast => message.page_until(RETRY_AFTER_SECONDS),
            _ => message.page(),
        }
    }

    /// The response to a form.
    fn answer(&self, http: &HttpRequest, state: &AppState) -> HttpResponse {
        let issuer = &state.config.site.issuer;
        match self {
            Self::FetchedTooFast => self.page(issuer),
            _ => self.message(issuer).answer(http, state),
        }
    }
}

/// `GET /device`: asks for the user code. A code in the link is filled in, but has no effect until the form
/// is sent.
pub async fn form(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    if !state.config.grants.offers(GrantType::DeviceCode) {
        return responses::not_found(&state.config.site.issuer);
    }
    open(&http, &state).await.unwrap_or_else(|error| error.page(&state.config.site.issuer))
}

/// `POST /device`: looks up the user code, and redirects to the page on which the user decides.
pub async fn look_up(http: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    let found = find(&http, &body, &state).await;
    found.unwrap_or_else(|error| error.answer(&http, &state))
}

/// `POST /device/consent`: handles the user's decision to allow or deny.
pub async fn decide(http: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    let answer = answer(&http, &body, &state).await;
    answer.unwrap_or_else(|error| error.answer(&http, &state))
}

async fn open(http: &HttpRequest, state: &AppState) -> Result<HttpResponse, DeviceError> {
    let params = Params::of_query(http.query_string())?;
    let linked = params.one("user_code")?.and_then(|text| UserCode::parse(text).ok());
    let Some((session, account)) = session::of(http, state).await? else {
        let code = linked.map(|code| format!("?user_code={code}")).unwrap_or_default();
        return Ok(see_other(&state.config.site.issuer.endpoint(&format!("/login/device{code}"))));
    };
    let typed = linked.map(|code| code.to_string()).unwrap_or_default();
    show_form(state, &session, &account, &typed, None)
}

fn show_form(
    state: &AppState,
    session: &LoginSession,
    account: &Account,
    typed: &str,
    problem: Option<&Problem>,
) -> Result<HttpResponse, DeviceError> {
    let expires_at = state.now().plus(state.config.lifetimes.form);
    let form_token = state.form_tokens.issue(Form::UserCode, session.id, expires_at, &())?;
    let template = DeviceCodePage {
        action: &state.config.site.issuer.endpoint("/device"),
        form_token: &form_token,
        username: account.username.as_str(),
        user_code: typed,
        problem: problem.map(|problem| problem.text.as_str()),
    };
    let status = problem.map_or(StatusCode::OK, Problem::status);
    let mut response = page(status, &template, FormTarget::Ourselves);
    if let Some(problem) = problem {
        problem.mark(&mut response);
    }
    Ok(response)
}

/// The content of the form token with which the code form is shown again.
#[derive(Serialize, Deserialize)]
struct RepeatedCodeForm {
    typed: String,
    problem: Problem,
}

/// `GET /device/again`: shows the code form with the problem. The form token in the query is bound to the
/// session in which the code was typed.
pub async fn form_again(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    open_again(&http, &state).await.unwrap_or_else(|error| error.page(&state.config.site.issuer))
}

async fn open_again(http: &HttpRequest, state: &AppState) -> Result<HttpResponse, DeviceError> {
    let params = Params::of_query(http.query_string())?;
    let form_token = params.one("form_token")?.unwrap_or_default();
    let again = session::of(http, state).await?.and_then(|(session, account)| {
        let again: RepeatedCodeForm =
            state.form_tokens.read(Form::UserCodeAgain, session.id, state.now(), form_token).ok()?;
        Some((session, account, again))
    });
    match again {
        Some((session, account, again)) => {
            show_form(state, &session, &account, &again.typed, Some(&again.problem))
        }
        None => Ok(see_other(&state.config.site.issuer.endpoint("/device"))),
    }
}

fn lead_to_form(
    state: &AppState,
    (session, account): (&LoginSession, &Account),
    typed: &str,
    problem: Problem,
) -> Result<HttpResponse, DeviceError> {
    let again = RepeatedCodeForm { typed: typed.to_owned(), problem };
    let expires_at = state.now().plus(state.config.lifetimes.form);
    let form_token = state.form_tokens.issue(Form::UserCodeAgain, session.id, expires_at, &again)?;
    match redirect(state, "/device/again", &form_token) {
        Some(response) => Ok(response),
        None => show_form(state, session, account, typed, Some(&again.problem)),
    }
}

async fn find(http: &HttpRequest, body: &[u8], state: &AppState) -> Result<HttpResponse, DeviceError> {
    let params = Params::of_form(http, body)?;
    let (session, account) = session::of(http, state).await?.ok_or(DeviceError::NoSession)?;
    let now = state.now();
    state.form_tokens.read::<()>(
        Form::UserCode,
        session.id,
        now,
        params.one("form_token")?.unwrap_or_default(),
    )?;
    let typed = params.one("user_code")?.unwrap_or_default();
    let address = client_address::of(http, |address| state.config.trusted_edge.is_known(address));
    if let Err(too_fast) = state.device_rate.admit_guess(address, &session.subject) {
        audit::Event::UserCodesThrottled { user: (&account).into() }.emit();
        let text = "There were too many attempts. Wait a minute, then try again.";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, text);
        let problem = problem.retry_after(Some(too_fast.retry_after_seconds));
        return show_form(state, &session, &account, typed, Some(&problem));
    }
    let found = match UserCode::parse(typed) {
        Ok(code) => state.store.device_of_user(&code, now).await?.map(|found| (code, found)),
        Err(_) => None,
    };
    let Some((code, (device, asked))) = found else {
        let text = "No device with this code is waiting for an answer. If you have already answered, look at the device. Otherwise, check the code, or let the device show a new one.";
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text);
        return lead_to_form(state, (&session, &account), typed, problem);
    };
    let client = client_of(http, &asked, state).await?;
    let shown =
        Shown { device, code: code.to_string(), subject: session.subject, client: client.metadata.digest() };
    let expires_at = now.plus(state.config.lifetimes.form).min(asked.expires_at);
    let form_token = state.form_tokens.issue(Form::DeviceConsent, session.id, expires_at, &shown)?;
    // The next page has its own URL and is not the response to this form. Otherwise, when the user presses the
    // back button, the browser would ask whether to submit the form again.
    Ok(see_other(&state.config.site.issuer.endpoint(&format!("/device/consent?form_token={form_token}"))))
}

/// `GET /device/consent`: shows what the device requests and, after the decision, the result. The form token in
/// the query is bound to the session in which the code was typed, so the link works only for this user.
pub async fn question(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    ask(&http, &state).await.unwrap_or_else(|error| error.page(&state.config.site.issuer))
}

async fn ask(http: &HttpRequest, state: &AppState) -> Result<HttpResponse, DeviceError> {
    let params = Params::of_query(http.query_string())?;
    let Some(form_token) = params.one("form_token")? else {
        return Ok(see_other(&state.config.site.issuer.endpoint("/device")));
    };
    let (session, account) = session::of(http, state).await?.ok_or(DeviceError::NoSession)?;
    let now = state.now();
    let shown: Shown = state.form_tokens.read(Form::DeviceConsent, session.id, now, form_token)?;
    let asked = state.store.device(&shown.device, now).await?.ok_or(DeviceError::Over)?;
    if is_allowed_by(&session.subject, &asked, state).await? {
        return Ok(connected());
    }
    match asked.state {
        DeviceState::Pending => {}
        DeviceState::Denied => return Ok(denied()),
        DeviceState::Allowed { .. } | DeviceState::Redeemed => return Err(DeviceError::Over),
    }
    let client = client_of(http, &asked, state).await?;
    if client.metadata.digest() != shown.client {
        return Err(DeviceError::ClientChanged);
    }
    let action = state.config.site.issuer.endpoint("/device/consent");
    let barred = barred(&account, &asked.resources, state);
    if !barred.is_empty() {
        audit::Event::AccessDenied { user: (&account).into(), client_id: &client.id }.emit();
        let username = account.username.as_str();
        let template = BarredPage { action: &action, form_token, username, resources: &barred };
        return Ok(page(StatusCode::FORBIDDEN, &template, FormTarget::Ourselves));
    }
    let address = client_address::of(http, |address| state.config.trusted_edge.is_known(address));
    let resources: Vec<String> = asked.resources.iter().map(ToString::to_string).collect();
    let template = DeviceConsentPage {
        action: &action,
        form_token,
        username: account.username.as_str(),
        user_code: &shown.code,
        client_name: &displayable(client.metadata.display.client_name.as_deref().unwrap_or_default()),
        minutes: now.since(asked.asked_at).as_secs() / 60,
        asked_from: &asked.asked_from.map(|address| address.to_string()).unwrap_or_default(),
        same_address: asked
            .asked_from
            .zip(address)
            .is_some_and(|(device, user)| client_address::are_in_one_network(device, user)),
        resources: &resources,
        scopes: &scope_lines(&asked.scope, resources.len(), state),
    };
    Ok(page(StatusCode::OK, &template, FormTarget::Ourselves))
}

/// Finds the client. Fails if its registration or its metadata has changed since it started the request.
async fn client_of(
    http: &HttpRequest,
    asked: &DeviceAuthorization,
    state: &AppState,
) -> Result<Client, DeviceError> {
    let address = client_address::of(http, |address| state.config.trusted_edge.is_known(address));
    match state.clients.find(Caller::User(address), &asked.client_id, state.earliest()).await {
        Ok(client) if client.has_left(&asked.registration, asked.metadata.as_ref()) => Ok(client),
        Err(UnknownClient::Store(error)) => Err(error.into()),
        Err(UnknownClient::Away(DocumentError::TooFast)) => Err(DeviceError::FetchedTooFast),
        Err(UnknownClient::Away(_)) => Err(DeviceError::Unavailable),
        _ => Err(DeviceError::ClientGone),
    }
}

async fn answer(http: &HttpRequest, body: &[u8], state: &AppState) -> Result<HttpResponse, DeviceError> {
    let params = Params::of_form(http, body)?;
    let (session, account) = session::of(http, state).await?.ok_or(DeviceError::NoSession)?;
    let now = state.now();
    let form_token = params.one("form_token")?.unwrap_or_default();
    let shown: Shown = state.form_tokens.read(Form::DeviceConsent, session.id, now, form_token)?;
    if shown.subject != session.subject {
        return Err(BadFormToken::Foreign.into());
    }
    let (subject, authenticated_at) = (session.subject.clone(), session.authenticated_at);
    let decision = match params.one("decision")? {
        Some("allow") => DeviceState::Allowed { subject, authenticated_at },
        Some("deny") => DeviceState::Denied,
        _ => return Err(DeviceError::NoDecision),
    };
    // The form's page also shows the result whenever it is opened. If the result were the response to this form, a
    // reload would send the form again.
    let result =
        see_other(&state.config.site.issuer.endpoint(&format!("/device/consent?form_token={form_token}")));
    let asked = state.store.device(&shown.device, now).await?.ok_or(DeviceError::Over)?;
    if is_decided(&decision, &asked, state).await? {
        return Ok(result);
    }
    if asked.state != DeviceState::Pending {
        return Err(DeviceError::Over);
    }
    if client_of(http, &asked, state).await?.metadata.digest() != shown.client {
        return Err(DeviceError::ClientChanged);
    }
    let allowed = decision != DeviceState::Denied;
    if allowed && !barred(&account, &asked.resources, state).is_empty() {
        return Err(DeviceError::Barred);
    }
    match state.store.decide_device(&shown.device, &decision, now).await? {
        Decision::Stored => {}
        // Another request was faster, for example after a double click.
        Decision::TooLate => {
            let asked = state.store.device(&shown.device, now).await?.ok_or(DeviceError::Over)?;
            let is_same = is_decided(&decision, &asked, state).await?;
            return if is_same { Ok(result) } else { Err(DeviceError::Over) };
        }
    }
    let DeviceAuthorization { client_id, scope, .. } = &asked;
    let user = (&account).into();
    let event = if allowed {
        audit::Event::ConsentGiven { user, client_id, scope }
    } else {
        audit::Event::ConsentDenied { user, client_id }
    };
    event.emit();
    Ok(result)
}

/// Whether this decision has already been recorded for the device.
async fn is_decided(
    decision: &DeviceState,
    asked: &DeviceAuthorization,
    state: &AppState,
) -> Result<bool, StoreError> {
    match decision {
        DeviceState::Allowed { subject, .. } => is_allowed_by(subject, asked, state).await,
        _ => Ok(asked.state == DeviceState::Denied),
    }
}

/// Whether `subject` has allowed the device and, if the device code has been redeemed, its grant still exists.
async fn is_allowed_by(
    subject: &Subject,
    asked: &DeviceAuthorization,
    state: &AppState,
) -> Result<bool, StoreError> {
    Ok(match &asked.state {
        DeviceState::Allowed { subject: by, .. } => by == subject,
        DeviceState::Redeemed => {
            let grant = state.store.grant(&asked.grant_id, state.now()).await?;
            grant.is_some_and(|grant| grant.subject == *subject)
        }
        DeviceState::Pending | DeviceState::Denied => false,
    })
}

fn connected() -> HttpResponse {
    let text = "It will continue in a moment. You can close this page.";
    Message::new(StatusCode::OK, "The device is connected", text.to_owned(), None).page()
}

fn denied() -> HttpResponse {
    let text = "The device will be told that you denied it. You can close this page.";
    Message::new(StatusCode::OK, "Nothing was allowed", text.to_owned(), None).page()
}
