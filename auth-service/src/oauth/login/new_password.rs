//! The page on which a one-time password is exchanged for one of one's own.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::domain::account::{Account, StoredPassword, Subject};
use crate::domain::opaque_token::OpaqueToken;
use crate::identity::password::{LONGEST, SHORTEST};
use crate::identity::ticket::Form;
use crate::oauth::login_attempt::{NotProven, admit};
use crate::oauth::params::Params;
use crate::ops::audit;
use crate::pages::{NewPasswordPage, page};
use crate::state::AppState;

use super::{Continuation, LoginError, STALE, again, retry_later, show_again, shown_here, start_session};

const PASSWORD_CHANGED: &str =
    "The one-time password was used already. Sign in with the password that was chosen then.";

/// A person who proved a one-time password and has yet to choose a lasting one.
#[derive(Serialize, Deserialize)]
pub(super) struct Choosing {
    pub(super) subject: Subject,
    pub(super) one_time: StoredPassword,
    pub(super) then: Continuation,
}

/// `POST /login/password`: the password that replaces the one-time one.
pub async fn choose_password(
    http: HttpRequest,
    body: web::Bytes,
    state: web::Data<AppState>,
) -> HttpResponse {
    take_password(&http, &body, &state).await.unwrap_or_else(|error| error.response())
}

pub(super) fn ask(
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
    Ok(page(status, &template, choosing.then.form_target()))
}

async fn take_password(
    http: &HttpRequest,
    body: &[u8],
    state: &AppState,
) -> Result<HttpResponse, LoginError> {
    let params = Params::of_form(http, body)?;
    let ticket = params.one("ticket")?.unwrap_or_default();
    let Ok((cookie, choosing)) = shown_here::<Choosing>(http, state, Form::NewPassword, ticket) else {
        let choosing: Option<Choosing> = state.tickets.content(Form::NewPassword, ticket);
        let then = choosing.map_or(Continuation::Nowhere, |choosing| choosing.then);
        return show_again(http, state, &then, STALE, StatusCode::BAD_REQUEST);
    };
    let account = state.store.account(&choosing.subject).await?.filter(Account::may_log_in);
    let chosen = params.one("new_password")?.unwrap_or_default();
    let repeated = params.one("new_password_repeat")?.unwrap_or_default();
    let Some(account) = account.filter(|account| account.password == choosing.one_time) else {
        return chosen_before(http, state, &choosing, chosen).await;
    };
    if let Some(problem) = problem_with(chosen, repeated) {
        return ask(state, &cookie, &choosing, &account, Some(&problem));
    }
    let phc = match hash_of_new(http, state, &account, chosen).await {
        Ok(Some(phc)) => phc,
        Ok(None) => {
            let problem = "That is the one-time password. Choose another one.";
            return ask(state, &cookie, &choosing, &account, Some(problem));
        }
        Err(refused) => {
            let (status, retry_after) = again(&refused)?;
            let mut form = ask(state, &cookie, &choosing, &account, Some(&refused.to_string()))?;
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
        return chosen_before(http, state, &choosing, chosen).await;
    }
    audit::Event::PasswordChosen { subject: &account.subject }.emit();
    start_session(state, &account, &choosing.then).await
}

/// A form to choose a password that was sent once more: a second click, or a page that was loaded again. Whoever sends the
/// password that was chosen then is signed in with it, as on the login page and under the same limits.
async fn chosen_before(
    http: &HttpRequest,
    state: &AppState,
    choosing: &Choosing,
    chosen: &str,
) -> Result<HttpResponse, LoginError> {
    let account = state.store.account(&choosing.subject).await?.filter(Account::may_log_in);
    if let Some(account) = account.filter(|account| !account.password.one_time) {
        match is_password_of(http, state, &account, chosen).await {
            Ok(()) => return start_session(state, &account, &choosing.then).await,
            Err(NotProven::Wrong) => audit::Event::LoginFailed.emit(),
            Err(refused) => {
                let (status, retry_after) = again(&refused)?;
                let form = show_again(http, state, &choosing.then, &refused.to_string(), status)?;
                return Ok(retry_later(form, retry_after));
            }
        }
    }
    show_again(http, state, &choosing.then, PASSWORD_CHANGED, StatusCode::CONFLICT)
}

/// Whether the password is the account's, as an attempt to log in.
async fn is_password_of(
    http: &HttpRequest,
    state: &AppState,
    account: &Account,
    chosen: &str,
) -> Result<(), NotProven> {
    let (queue, _admission) = admit(http, state, Some(&account.username))?;
    let phc = Some(account.password.phc.clone());
    let proven = state.passwords.verify(phc, SecretString::from(chosen), queue).await?;
    if proven { Ok(()) } else { Err(NotProven::Wrong) }
}

/// The hash of the password that takes the place of the account's; none if it is the same one.
async fn hash_of_new(
    http: &HttpRequest,
    state: &AppState,
    account: &Account,
    chosen: &str,
) -> Result<Option<String>, NotProven> {
    match is_password_of(http, state, account, chosen).await {
        Ok(()) => Ok(None),
        Err(NotProven::Wrong) => Ok(Some(state.passwords.hash(SecretString::from(chosen)).await?)),
        Err(refused) => Err(refused),
    }
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
