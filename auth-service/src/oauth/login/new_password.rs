//! The page on which a user replaces a one-time password with a password of their own.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::domain::account::{Account, StoredPassword, Subject};
use crate::domain::opaque_token::OpaqueToken;
use crate::identity::form_token::Form;
use crate::identity::password::{MAX_PASSWORD_LEN, MIN_PASSWORD_LEN};
use crate::oauth::after_form::{Problem, redirect};
use crate::oauth::login_attempt::{NotProven, address_of, prove};
use crate::oauth::params::Params;
use crate::oauth::responses::see_other;
use crate::ops::audit;
use crate::pages::{NewPasswordPage, page};
use crate::state::AppState;
use crate::store::StoreError;

use super::repeated::{self, problem_of};
use super::{Continuation, LoginError, STALE, form_for, lead_to_fresh, shown_here, start_session};

const PASSWORD_CHANGED: &str =
    "The one-time password has already been used. Sign in with the password that replaced it.";

/// A user who has entered the correct one-time password and must now choose a new password.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct PasswordChange {
    pub(super) subject: Subject,
    pub(super) one_time: StoredPassword,
    pub(super) then: Continuation,
    /// The problem with the previous choice.
    pub(super) problem: Option<Problem>,
}

/// `GET /login/password`: shows the page to a user who has just entered the one-time password. The form token in
/// the query is bound to the login form of that browser, so the link works only there.
pub async fn question(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    open(&http, &state).await.unwrap_or_else(|error| error.response())
}

/// `POST /login/password`: replaces the one-time password with the chosen one.
pub async fn choose_password(
    http: HttpRequest,
    body: web::Bytes,
    state: web::Data<AppState>,
) -> HttpResponse {
    take_password(&http, &body, &state).await.unwrap_or_else(|error| error.response())
}

/// Redirects to the page, or returns it directly if the problem is temporary or the form token is too long.
pub(super) fn lead_to(
    state: &AppState,
    cookie: &OpaqueToken,
    change: &PasswordChange,
    account: &Account,
) -> Result<HttpResponse, LoginError> {
    let expires_at = state.now().plus(state.config.lifetimes.form);
    let form_token = state.form_tokens.issue(Form::NewPassword, cookie.hash(), expires_at, change)?;
    if change.problem.as_ref().is_some_and(Problem::is_temporary) {
        return Ok(show(state, &form_token, change, account));
    }
    let redirect = redirect(state, "/login/password", &form_token);
    Ok(redirect.unwrap_or_else(|| show(state, &form_token, change, account)))
}

async fn open(http: &HttpRequest, state: &AppState) -> Result<HttpResponse, LoginError> {
    let params = Params::of_query(http.query_string())?;
    let Some(form_token) = params.one("form_token")? else {
        return Ok(see_other(&state.config.site.issuer.endpoint("/login")));
    };
    let Ok((_, change)) = shown_here::<PasswordChange>(http, state, Form::NewPassword, form_token) else {
        return lead_from_stale(http, state, form_token).await;
    };
    match account_of(state, &change).await? {
        Some(account) if account.password == change.one_time => {
            Ok(show(state, form_token, &change, &account))
        }
        // The user has already chosen a password, and then pressed the back button.
        _ => form_for(http, state, &change.then, ("", None)).await,
    }
}

/// The account, if it is still allowed to log in.
async fn account_of(state: &AppState, change: &PasswordChange) -> Result<Option<Account>, StoreError> {
    Ok(state.store.account(&change.subject).await?.filter(Account::may_log_in))
}

fn show(state: &AppState, form_token: &str, change: &PasswordChange, account: &Account) -> HttpResponse {
    let action = state.config.site.issuer.endpoint("/login/password");
    let (username, problem) = (account.username.as_str(), change.problem.as_ref());
    let text = problem.map(|problem| problem.text.as_str());
    let template =
        NewPasswordPage { action: &action, form_token, username, shortest: MIN_PASSWORD_LEN, problem: text };
    let status = problem.map_or(StatusCode::OK, Problem::status);
    let mut response = page(status, &template, change.then.form_target());
    if let Some(problem) = problem {
        problem.mark(&mut response);
    }
    response
}

async fn lead_from_stale(
    http: &HttpRequest,
    state: &AppState,
    form_token: &str,
) -> Result<HttpResponse, LoginError> {
    let change: Option<PasswordChange> = state.form_tokens.content(Form::NewPassword, form_token);
    let then = change.map_or(Continuation::Nowhere, |change| change.then);
    lead_to_fresh(http, state, &then, StatusCode::BAD_REQUEST, STALE).await
}

async fn take_password(
    http: &HttpRequest,
    body: &[u8],
    state: &AppState,
) -> Result<HttpResponse, LoginError> {
    let params = Params::of_form(http, body)?;
    let form_token = params.one("form_token")?.unwrap_or_default();
    let Ok((cookie, change)) = shown_here::<PasswordChange>(http, state, Form::NewPassword, form_token)
    else {
        return lead_from_stale(http, state, form_token).await;
    };
    let chosen = params.one("new_password")?.unwrap_or_default();
    let repeated = params.one("new_password_repeat")?.unwrap_or_default();
    let account = account_of(state, &change).await?;
    let Some(account) = account.filter(|account| account.password == change.one_time) else {
        return chosen_before(http, state, &change, chosen).await;
    };
    let ask = |problem: Problem| {
        let change = PasswordChange { problem: Some(problem), ..change.clone() };
        lead_to(state, &cookie, &change, &account)
    };
    let unfit = |text: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text);
    if let Some(problem) = problem_with(chosen, repeated) {
        return ask(unfit(&problem));
    }
    let phc = match hash_of_new(http, state, &account, chosen).await {
        Ok(Some(phc)) => phc,
        Ok(None) => {
            return ask(unfit("That is the one-time password. Choose another one."));
        }
        Err(refused) => return ask(problem_of(&refused, http, state)?),
    };
    let replaced = state
        .store
        .replace_password(&account.subject, &change.one_time, &StoredPassword { phc, one_time: false })
        .await?;
    let Some(account) = replaced else {
        return chosen_before(http, state, &change, chosen).await;
    };
    audit::Event::PasswordChosen { user: (&account).into() }.emit();
    start_session(state, &account, &change.then).await
}

/// Handles a form that is sent again after it has succeeded, because of a second click or a reload. If it contains
/// the password that the user chose, the user is logged in as on the login page, with the same limits.
async fn chosen_before(
    http: &HttpRequest,
    state: &AppState,
    change: &PasswordChange,
    chosen: &str,
) -> Result<HttpResponse, LoginError> {
    let account = account_of(state, change).await?.filter(|account| !account.password.one_time);
    let Some(account) = account else {
        return lead_to_fresh(http, state, &change.then, StatusCode::CONFLICT, PASSWORD_CHANGED).await;
    };
    match prove(http, state, &account, SecretString::from(chosen)).await {
        Ok(admission) => {
            state.login_rate.succeeded(admission);
            start_session(state, &account, &change.then).await
        }
        Err(NotProven::Wrong) => {
            audit::Event::LoginFailed { address: address_of(http, state) }.emit();
            lead_to_fresh(http, state, &change.then, StatusCode::CONFLICT, PASSWORD_CHANGED).await
        }
        Err(refused) => {
            let problem = problem_of(&refused, http, state)?;
            repeated::lead_to(http, state, &change.then, "", problem).await
        }
    }
}

/// Hashes the new password. Returns `None` if it is the same as the current one.
async fn hash_of_new(
    http: &HttpRequest,
    state: &AppState,
    account: &Account,
    chosen: &str,
) -> Result<Option<String>, NotProven> {
    match prove(http, state, account, SecretString::from(chosen)).await {
        Ok(_) => Ok(None),
        Err(NotProven::Wrong) => Ok(Some(state.passwords.hash(SecretString::from(chosen)).await?)),
        Err(refused) => Err(refused),
    }
}

fn problem_with(chosen: &str, repeated: &str) -> Option<String> {
    if chosen.chars().count() < MIN_PASSWORD_LEN {
        Some(format!("The password is too short. Choose one with at least {MIN_PASSWORD_LEN} characters."))
    } else if chosen.len() > MAX_PASSWORD_LEN {
        Some(format!(
            "The password is too long. Choose one with at most {MAX_PASSWORD_LEN} bytes. A letter with an accent, or of another script, has two to four bytes."
        ))
    } else if chosen != repeated {
        Some("The two passwords are not the same.".to_owned())
    } else {
        None
    }
}
