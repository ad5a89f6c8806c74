//! The login page, and the page on which a one-time password is exchanged for one of one's own.

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::domain::account::{Account, LoginSession, StoredPassword, Subject};
use crate::domain::clock::RandomUnavailable;
use crate::domain::opaque_token::{OpaqueToken, TokenHash, TokenKind};
use crate::identity::cookies::{OurCookie, device};
use crate::identity::password::{HashingError, LONGEST, SHORTEST};
use crate::identity::ticket::{BadTicket, Form};
use crate::keys::seal::CryptoFailure;
use crate::ops::audit;
use crate::pages::{FormTarget, LoginPage, MessagePage, NewPasswordPage, page};
use crate::state::AppState;
use crate::store::StoreError;

use super::authorize::see_other;
use super::login_attempt::{NotProven, account_of, admit};
use super::params::{BadParams, Params};

/// Why a person cannot log in here and now, other than by a wrong password.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The form is broken.
    #[error("The form that was sent is broken: {0}.")]
    Params(#[from] BadParams),
    /// See [`BadTicket`].
    #[error("This page cannot be used: {0}. Go back to the application and connect again.")]
    Ticket(#[from] BadTicket),
    /// The one-time password has been used meanwhile.
    #[error("The one-time password was used already. Sign in with the password that was chosen then.")]
    PasswordChanged,
    /// Ours to mend.
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
unavailable_from!(StoreError, CryptoFailure, RandomUnavailable, HashingError);

impl LoginError {
    fn response(&self) -> HttpResponse {
        let status = match self {
            Self::Params(_) | Self::Ticket(_) => StatusCode::BAD_REQUEST,
            Self::PasswordChanged => StatusCode::CONFLICT,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        page(
            status,
            &MessagePage { title: "You are not signed in", text: &self.to_string(), code: None },
            FormTarget::Ourselves,
        )
    }
}

/// Where to go on after the login. Only ever an endpoint of our own.
#[derive(Clone, Serialize, Deserialize)]
enum Continuation {
    /// Nowhere.
    Nowhere,
    /// The authorization endpoint, with this query.
    Authorization(String),
    /// The page for devices, with this query.
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
}

/// A person who proved a one-time password and has yet to choose a lasting one.
#[derive(Serialize, Deserialize)]
struct Choosing {
    subject: Subject,
    one_time: StoredPassword,
    then: Continuation,
}

/// `GET /login`: the form. Its query is that of the authorization request which needs the login.
pub async fn form(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let then = match http.query_string() {
        "" => Continuation::Nowhere,
        query => Continuation::Authorization(query.to_owned()),
    };
    show_form(&http, &state, &then, "", None, StatusCode::OK).unwrap_or_else(|error| error.response())
}

/// `GET /login/device`: the form, for who came to connect a device.
pub async fn device_form(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let then = Continuation::Device(http.query_string().to_owned());
    show_form(&http, &state, &then, "", None, StatusCode::OK).unwrap_or_else(|error| error.response())
}

/// `POST /login`: user name and password.
pub async fn log_in(http: HttpRequest, body: web::Bytes, state: web::Data<AppState>) -> HttpResponse {
    check_password(&http, &body, &state).await.unwrap_or_else(|error| error.response())
}

/// `POST /login/password`: the password that replaces the one-time one.
pub async fn choose_password(
    http: HttpRequest,
    body: web::Bytes,
    state: web::Data<AppState>,
) -> HttpResponse {
    take_password(&http, &body, &state).await.unwrap_or_else(|error| error.response())
}

fn show_form(
    http: &HttpRequest,
    state: &AppState,
    then: &Continuation,
    username: &str,
    problem: Option<&str>,
    status: StatusCode,
) -> Result<HttpResponse, LoginError> {
    let scheme = state.config.site.issuer.scheme();
    // A browser with several tabs keeps one cookie, so that all of its forms stay good.
    let cookie = match OurCookie::LoginAttempt.read(http, scheme) {
        Some(cookie) => cookie,
        None => state.new_token(TokenKind::LoginAttempt)?,
    };
    let expires_at = state.now().plus(state.config.lifetimes.form);
    let ticket = state.tickets.issue(Form::Login, cookie.hash(), expires_at, then)?;
    let action = state.config.site.issuer.endpoint("/login");
    let template = LoginPage { action: &action, ticket: &ticket, username, problem };
    let mut response = page(status, &template, FormTarget::Ourselves);
    set_cookie(&mut response, &OurCookie::LoginAttempt.set(&cookie, scheme));
    Ok(response)
}

fn set_cookie(response: &mut HttpResponse, cookie: &actix_web::cookie::Cookie<'_>) {
    if let Err(error) = response.add_cookie(cookie) {
        tracing::error!(%error, "a cookie could not be set");
    }
}

fn attempt_cookie(http: &HttpRequest, state: &AppState) -> Result<OpaqueToken, BadTicket> {
    OurCookie::LoginAttempt.read(http, state.config.site.issuer.scheme()).ok_or(BadTicket::Foreign)
}

async fn check_password(
    http: &HttpRequest,
    body: &[u8],
    state: &AppState,
) -> Result<HttpResponse, LoginError> {
    let params = Params::of_form(http, body)?;
    let cookie = attempt_cookie(http, state)?;
    let then: Continuation = state.tickets.read(
        Form::Login,
        cookie.hash(),
        state.now(),
        params.one("ticket")?.unwrap_or_default(),
    )?;
    let typed = params.one("username")?.unwrap_or_default();
    let password = SecretString::from(params.one("password")?.unwrap_or_default());
    match account_of(http, state, typed, password).await {
        Ok(account) if account.password.one_time => {
            let choosing =
                Choosing { subject: account.subject.clone(), one_time: account.password.clone(), then };
            ask_for_password(state, &cookie, &choosing, &account, None)
        }
        Ok(account) => start_session(state, &account, &then).await,
        Err(refused) => {
            let (status, retry_after) = again(&refused)?;
            let form = show_form(http, state, &then, typed, Some(&refused.to_string()), status)?;
            Ok(retry_later(form, retry_after))
        }
    }
}

/// How the form is shown again to who was not let in.
fn again(refused: &NotProven) -> Result<(StatusCode, Option<u64>), LoginError> {
    match refused {
        NotProven::Wrong => audit::Event::LoginFailed.emit(),
        NotProven::TooFast(_) | NotProven::Busy => audit::Event::LoginThrottled.emit(),
        NotProven::Store(_) | NotProven::Hashing(_) => {
            tracing::error!(error = %refused, "a login could not be handled");
        }
    }
    refused.again().ok_or(LoginError::Unavailable)
}

fn retry_later(mut response: HttpResponse, seconds: Option<u64>) -> HttpResponse {
    if let Some(seconds) = seconds {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn ask_for_password(
    state: &AppState,
    cookie: &OpaqueToken,
    choosing: &Choosing,
    account: &Account,
    problem: Option<&str>,
) -> Result<HttpResponse, LoginError> {
    let expires_at = state.now().plus(state.config.lifetimes.form);
    let ticket = state.tickets.issue(Form::NewPassword, cookie.hash(), expires_at, choosing)?;
    let action = state.config.site.issuer.endpoint("/login/password");
    let template = NewPasswordPage {
        action: &action,
        ticket: &ticket,
        username: account.username.as_str(),
        shortest: SHORTEST,
        problem,
    };
    let status = if problem.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok(page(status, &template, FormTarget::Ourselves))
}

async fn take_password(
    http: &HttpRequest,
    body: &[u8],
    state: &AppState,
) -> Result<HttpResponse, LoginError> {
    let params = Params::of_form(http, body)?;
    let cookie = attempt_cookie(http, state)?;
    let choosing: Choosing = state.tickets.read(
        Form::NewPassword,
        cookie.hash(),
        state.now(),
        params.one("ticket")?.unwrap_or_default(),
    )?;
    // A form that was answered before costs no hash.
    let account = state
        .store
        .account(&choosing.subject)
        .await?
        .filter(|account| account.may_log_in() && account.password == choosing.one_time)
        .ok_or(LoginError::PasswordChanged)?;
    let chosen = params.one("new_password")?.unwrap_or_default();
    let repeated = params.one("new_password_repeat")?.unwrap_or_default();
    if let Some(problem) = problem_with(chosen, repeated) {
        return ask_for_password(state, &cookie, &choosing, &account, Some(&problem));
    }
    let phc = match hash_of_new(http, state, &account, chosen).await {
        Ok(Some(phc)) => phc,
        Ok(None) => {
            let problem = "That is the one-time password. Choose another one.";
            return ask_for_password(state, &cookie, &choosing, &account, Some(problem));
        }
        Err(refused) => {
            let (status, retry_after) = again(&refused)?;
            let mut form = ask_for_password(state, &cookie, &choosing, &account, Some(&refused.to_string()))?;
            *form.status_mut() = status;
            return Ok(retry_later(form, retry_after));
        }
    };
    let replaced = state
        .store
        .replace_password(
            &account.subject,
            &choosing.one_time,
            &StoredPassword { phc, one_time: false },
            state.now(),
        )
        .await?;
    if !replaced {
        return Err(LoginError::PasswordChanged);
    }
    audit::Event::PasswordChosen { subject: &account.subject }.emit();
    start_session(state, &account, &choosing.then).await
}

/// The hash of the password that takes the place of the account's; none if it is the same one.
async fn hash_of_new(
    http: &HttpRequest,
    state: &AppState,
    account: &Account,
    chosen: &str,
) -> Result<Option<String>, NotProven> {
    let (queue, _admission) = admit(http, state, Some(&account.username))?;
    let before = Some(account.password.phc.clone());
    if state.passwords.verify(before, SecretString::from(chosen), queue).await? {
        return Ok(None);
    }
    Ok(Some(state.passwords.hash(SecretString::from(chosen)).await?))
}

fn problem_with(chosen: &str, repeated: &str) -> Option<String> {
    if chosen.chars().count() < SHORTEST {
        Some(format!("That is too short: at least {SHORTEST} characters, please."))
    } else if chosen.len() > LONGEST {
        Some(format!("That is too long: at most {LONGEST} characters, please."))
    } else if chosen != repeated {
        Some("The two are not the same.".to_owned())
    } else {
        None
    }
}

/// Logs the person in under a new session identifier, whatever cookie the browser had (session fixation).
async fn start_session(
    state: &AppState,
    account: &Account,
    then: &Continuation,
) -> Result<HttpResponse, LoginError> {
    let scheme = state.config.site.issuer.scheme();
    let cookie = state.new_token(TokenKind::Session)?;
    let now = state.now();
    let session = LoginSession {
        id: cookie.hash(),
        subject: account.subject.clone(),
        authenticated_at: now,
        expires_at: now.plus(state.config.lifetimes.login_session),
    };
    state.store.add_session(&session).await?;
    audit::Event::LoggedIn { subject: &account.subject }.emit();
    let mut response = if let Some(path) = then.path() {
        see_other(&state.config.site.issuer.endpoint(&path))
    } else {
        let template = MessagePage {
            title: "You are signed in",
            text: "Go back to your MCP client and connect it.",
            code: None,
        };
        page(StatusCode::OK, &template, FormTarget::Ourselves)
    };
    set_cookie(&mut response, &OurCookie::Session.set(&cookie, scheme));
    let bound_to = TokenHash::of(account.username.as_str().as_bytes());
    let device = state.tickets.issue(Form::Device, bound_to, now.plus(device::LIFETIME), &())?;
    set_cookie(&mut response, &device::set(device, scheme));
    set_cookie(&mut response, &OurCookie::LoginAttempt.clear(scheme));
    Ok(response)
}
