//! The login page, and the session that a successful login starts.

pub mod new_password;
pub mod repeated;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::domain::account::{Account, LoginSession};
use crate::domain::clock::RandomUnavailable;
use crate::domain::opaque_token::{OpaqueToken, TokenHash, TokenKind};
use crate::identity::cookies::{OurCookie, device};
use crate::identity::form_token::{BadFormToken, Form};
use crate::identity::password::HashingError;
use crate::keys::seal::CryptoFailure;
use crate::ops::audit;
use crate::pages::{FormTarget, Link, LoginPage, MessagePage, page};
use crate::state::AppState;
use crate::store::StoreError;

use super::after_form::{Message, Problem};
use super::login_attempt::account_of;
use super::params::{BadParams, Params};
use super::prompt::Prompt;
use super::responses::see_other;
use super::{pushed_request, responses, session};
use new_password::PasswordChange;

/// Why a login cannot be handled. A wrong password is not an error of this type.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The parameters of the form are malformed.
    #[error("The form that was sent is broken: {0}.")]
    Params(#[from] BadParams),
    /// The query is so long that the login form would be too large to send.
    #[error("The link that brought you here is too long. Go back to the application and connect again.")]
    LongLink,
    /// The store has lost data.
    #[error(
        "This service cannot be used until its operator has repaired it. Tell the operator. Afterwards, go back to the application and connect it again."
    )]
    NeedsOperator,
    /// The store, the random source, encryption or hashing failed.
    #[error("The service cannot be used at the moment. Try again in a minute.")]
    Unavailable,
}

macro_rules! unavailable_from {
    ($($error:ty),*) => {$(
        impl From<$error> for LoginError {
            fn from(error: $error) -> Self {
                tracing::error!(%error, "a login could not be handled");
                Self::Unavailable
            }
        }
    )*};
}
unavailable_from!(CryptoFailure, RandomUnavailable, HashingError);

impl From<StoreError> for LoginError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "a login could not be handled");
        match error {
            StoreError::NeedsOperator(_) => Self::NeedsOperator,
            StoreError::Unavailable(_) | StoreError::Unreadable => Self::Unavailable,
        }
    }
}

impl LoginError {
    fn response(&self) -> HttpResponse {
        let status = match self {
            Self::Params(_) => StatusCode::BAD_REQUEST,
            Self::LongLink => StatusCode::URI_TOO_LONG,
            Self::NeedsOperator | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        let text = self.to_string();
        let template = MessagePage { title: "Sign-in failed", text: &text, code: None, way_on: None };
        page(status, &template, FormTarget::Ourselves)
    }
}

/// The destination of the browser after the login. It is always an endpoint of this server.
#[derive(Clone, Serialize, Deserialize)]
enum Continuation {
    /// No application requested the login.
    Nowhere,
    /// The authorization endpoint, with this query.
    Authorization(String),
    /// The page for device codes, with this query.
    Device(String),
}

impl Continuation {
    fn path(&self) -> Option<String> {
        match self {
            Self::Nowhere => None,
            Self::Authorization(query) => Some(format!("/authorize?{query}")),
            Self::Device(query) => Some(format!("/device?{query}")),
        }
    }

    /// The path at which a user who is already logged in continues without the login form. It is `None` if there
    /// is no destination, or if the client requires the form (`prompt` in its request, which might have been
    /// pushed).
    async fn without_form(&self, state: &AppState) -> Result<Option<String>, StoreError> {
        if let Self::Authorization(query) = self {
            let pushed = pushed_request::query_behind(query, state).await?;
            let params = Params::of_query(pushed.as_deref().unwrap_or(query)).ok();
            let prompt = params.and_then(|params| Prompt::read(&params).ok());
            if prompt.is_none_or(Prompt::wants_login) {
                return Ok(None);
            }
        }
        Ok(self.path())
    }

    /// The hash that [`LoginSession::asked_by`] stores: SHA-256 of the authorization request's query.
    fn asked_by(&self) -> Option<TokenHash> {
        match self {
            Self::Nowhere | Self::Device(_) => None,
            Self::Authorization(query) => Some(TokenHash::of(query.as_bytes())),
        }
    }

    /// Where the response to the form can redirect the browser. For an authorization request, this can be the
    /// client itself, because no page is needed if a consent is remembered.
    fn form_target(&self) -> FormTarget {
        match self {
            Self::Nowhere | Self::Device(_) => FormTarget::Ourselves,
            Self::Authorization(_) => FormTarget::MayLeave,
        }
    }
}

/// `GET /login`: shows the login form. The query is the one of the authorization request for which the user must
/// log in.
pub async fn form(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let then = match http.query_string() {
        "" => Continuation::Nowhere,
        query => Continuation::Authorization(query.to_owned()),
    };
    form_for(&http, &state, &then, ("", None)).await.unwrap_or_else(|error| error.response())
}

/// `GET /login/device`: shows the login form to a user who wants to connect a device.
pub async fn device_form(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let then = Continuation::Device(http.query_string().to_owned());
    form_for(&http, &state, &then, ("", None)).await.unwrap_or_else(|error| error.response())
}

/// `GET /login/done`: confirms a login that no application requested.
pub async fn done(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    match session::of(&http, &state).await {
        Ok(Some(_)) => {
            let text = "Go back to your MCP client and connect it.".to_owned();
            Message::new(StatusCode::OK, "You are signed in", text, None).page()
        }
        Ok(None) => see_other(&state.config.site.issuer.endpoint("/login")),
        Err(error) => LoginError::from(error).response(),
    }
}

/// `POST /login`: checks the user name and password.
pub async fn log_in(http: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    check_password(&http, &body, &state).await.unwrap_or_else(|error| error.response())
}

/// The values with which the login form is filled in, and the problem that it shows.
#[derive(Clone, Copy)]
struct Said<'a> {
    username: &'a str,
    problem: Option<&'a Problem>,
    signed_in: Option<&'a str>,
    way_on: Option<&'a str>,
    asked_again: bool,
}

/// Shows the form, with the user name and the problem from the previous attempt. A user who is already logged in
/// (in another tab, or before using the back button) can continue from here, or log in to another account.
async fn form_for(
    http: &HttpRequest,
    state: &AppState,
    then: &Continuation,
    (username, problem): (&str, Option<&Problem>),
) -> Result<HttpResponse, LoginError> {
    let account = session::of(http, state).await?.map(|(_, account)| account);
    let signed_in = account.as_ref().map(|account| account.username.as_str());
    let way_on = match signed_in {
        Some(_) => then.without_form(state).await?.map(|path| state.config.site.issuer.endpoint(&path)),
        None => None,
    };
    let asked_again =
        signed_in.is_some() && way_on.is_none() && matches!(then, Continuation::Authorization(_));
    let said = Said { username, problem, signed_in, way_on: way_on.as_deref(), asked_again };
    show_form(http, state, then, said)
}

fn show_form(
    http: &HttpRequest,
    state: &AppState,
    then: &Continuation,
    said: Said<'_>,
) -> Result<HttpResponse, LoginError> {
    let site = &state.config.site;
    let cookie = attempt(http, state)?;
    let expires_at = state.now().plus(state.config.lifetimes.form);
    let form_token = state.form_tokens.issue(Form::Login, cookie.hash(), expires_at, then)?;
    // A query can double in length in a form token, and the form must fit in a request body.
    if form_token.len() > responses::TICKET_LIMIT {
        return Err(LoginError::LongLink);
    }
    let template = LoginPage {
        action: &site.issuer.endpoint("/login"),
        form_token: &form_token,
        username: said.username,
        problem: said.problem.map(|problem| problem.text.as_str()),
        signed_in: said.signed_in,
        way_on: said.way_on.map(|url| Link { text: "Go on", url }),
        asked_again: said.asked_again,
    };
    let status = said.problem.map_or(StatusCode::OK, Problem::status);
    let mut response = page(status, &template, then.form_target());
    if let Some(problem) = said.problem {
        problem.mark(&mut response);
    }
    set_attempt(&mut response, &cookie, state);
    Ok(response)
}

/// The cookie to which the form is bound. All tabs of a browser share one cookie, so that all of their forms stay
/// valid.
fn attempt(http: &HttpRequest, state: &AppState) -> Result<OpaqueToken, RandomUnavailable> {
    match OurCookie::LoginAttempt.read(http, &state.config.site.issuer) {
        Some(cookie) => Ok(cookie),
        None => state.new_token(TokenKind::LoginAttempt),
    }
}

fn set_attempt(response: &mut HttpResponse, cookie: &OpaqueToken, state: &AppState) {
    set_cookies(response, &OurCookie::LoginAttempt.set(cookie, &state.config.site.issuer));
}

fn set_cookies(response: &mut HttpResponse, cookies: &[actix_web::cookie::Cookie<'_>]) {
    for cookie in cookies {
        if let Err(error) = response.add_cookie(cookie) {
            tracing::error!(%error, "a cookie could not be set");
        }
    }
}

/// Path of the page after a login that no application requested.
const DONE_PATH: &str = "/login/done";

const STALE: &str = "The page was open for too long, or was opened in another browser. Sign in on this page. If this \
                     happens again, allow your browser to keep cookies of this site.";

/// Reads the form token of a form that was recently shown to this browser. Returns the cookie to which it is
/// bound, and its content.
fn shown_here<T: DeserializeOwned>(
    http: &HttpRequest,
    state: &AppState,
    form: Form,
    form_token: &str,
) -> Result<(OpaqueToken, T), BadFormToken> {
    let cookie = OurCookie::LoginAttempt.read(http, &state.config.site.issuer);
    let cookie = cookie.ok_or(BadFormToken::Foreign)?;
    let content = state.form_tokens.read(form, cookie.hash(), state.now(), form_token)?;
    Ok((cookie, content))
}

/// Redirects to a new form because the old one cannot be used. The input of the old form is discarded, because
/// another site might have sent it.
async fn lead_to_fresh(
    http: &HttpRequest,
    state: &AppState,
    then: &Continuation,
    status: StatusCode,
    problem: &str,
) -> Result<HttpResponse, LoginError> {
    repeated::lead_to(http, state, then, "", Problem::new(status, problem)).await
}

async fn check_password(
    http: &HttpRequest,
    body: &[u8],
    state: &AppState,
) -> Result<HttpResponse, LoginError> {
    let params = Params::of_form(http, body)?;
    let form_token = params.one("form_token")?.unwrap_or_default();
    let Ok((cookie, then)) = shown_here::<Continuation>(http, state, Form::Login, form_token) else {
        let then = state.form_tokens.content(Form::Login, form_token).unwrap_or(Continuation::Nowhere);
        return lead_to_fresh(http, state, &then, StatusCode::BAD_REQUEST, STALE).await;
    };
    let typed = params.one("username")?.unwrap_or_default();
    let password = SecretString::from(params.one("password")?.unwrap_or_default());
    match account_of(http, state, typed, password).await {
        Ok(account) if account.password.one_time => {
            let (subject, one_time) = (account.subject.clone(), account.password.clone());
            let change = PasswordChange { subject, one_time, then, problem: None };
            new_password::lead_to(state, &cookie, &change, &account)
        }
        Ok(account) => start_session(state, &account, &then).await,
        Err(refused) => {
            let problem = repeated::problem_of(&refused, http, state)?;
            repeated::lead_to(http, state, &then, typed, problem).await
        }
    }
}

/// Starts a session. It always has a new identifier, to prevent session fixation.
async fn start_session(
    state: &AppState,
    account: &Account,
    then: &Continuation,
) -> Result<HttpResponse, LoginError> {
    let issuer = &state.config.site.issuer;
    let cookie = state.new_token(TokenKind::Session)?;
    let now = state.now();
    let session = LoginSession {
        id: cookie.hash(),
        subject: account.subject.clone(),
        logins_ended: account.logins_ended,
        authenticated_at: now,
        expires_at: now.plus(state.config.lifetimes.login_session),
        asked_by: then.asked_by(),
    };
    state.store.add_session(&session).await?;
    audit::Event::LoggedIn { user: account.into() }.emit();
    let path = then.path();
    let mut response = see_other(&issuer.endpoint(path.as_deref().unwrap_or(DONE_PATH)));
    set_cookies(&mut response, &OurCookie::Session.set(&cookie, issuer));
    let bound_to = TokenHash::of(account.username.as_str().as_bytes());
    let device = state.form_tokens.issue(Form::Device, bound_to, now.plus(device::LIFETIME), &())?;
    set_cookies(&mut response, &device::set(&device, issuer));
    // The login form's cookie is kept, so that the form stays valid in another tab and after the back button.
    Ok(response)
}
