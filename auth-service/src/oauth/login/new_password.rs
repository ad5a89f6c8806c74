//! The page on which a one-time password is exchanged for one of one's own.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::domain::account::{Account, StoredPassword, Subject};
use crate::domain::opaque_token::OpaqueToken;
use crate::identity::password::{LONGEST, SHORTEST};
use crate::identity::ticket::Form;
use crate::oauth::params::Params;
use crate::ops::audit;
use crate::pages::{NewPasswordPage, page};
use crate::state::AppState;

use super::{Continuation, LoginError, STALE, TOO_MANY, may_try, show_again, shown_here, start_session};

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
    let same_as_before =
        state.passwords.verify(Some(choosing.one_time.phc.clone()), SecretString::from(chosen)).await?;
    if let Some(problem) = problem_with(chosen, repeated, same_as_before) {
        return ask(state, &cookie, &choosing, &account, Some(&problem));
    }
    let phc = state.passwords.hash(SecretString::from(chosen)).await?;
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
        if !may_try(http, state, &account.username) {
            audit::Event::LoginThrottled.emit();
            return show_again(http, state, &choosing.then, TOO_MANY, StatusCode::TOO_MANY_REQUESTS);
        }
        let phc = account.password.phc.clone();
        if state.passwords.verify(Some(phc), SecretString::from(chosen)).await? {
            return start_session(state, &account, &choosing.then).await;
        }
        audit::Event::LoginFailed.emit();
    }
    show_again(http, state, &choosing.then, PASSWORD_CHANGED, StatusCode::CONFLICT)
}

fn problem_with(chosen: &str, repeated: &str, same_as_before: bool) -> Option<String> {
    if chosen.chars().count() < SHORTEST {
        Some(format!("That is too short: at least {SHORTEST} characters, please."))
    } else if chosen.len() > LONGEST {
        Some(format!("That is too long: at most {LONGEST} characters, please."))
    } else if chosen != repeated {
        Some("The two are not the same.".to_owned())
    } else if same_as_before {
        Some("That is the one-time password. Choose another one.".to_owned())
    } else {
        None
    }
}
