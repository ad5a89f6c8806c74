//! The login form that is shown again after a failed attempt.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::domain::opaque_token::TokenHash;
use crate::identity::cookies::OurCookie;
use crate::identity::form_token::Form;
use crate::oauth::after_form::{Problem, redirect};
use crate::oauth::login_attempt::{NotProven, address_of};
use crate::oauth::params::Params;
use crate::oauth::responses::see_other;
use crate::oauth::session;
use crate::ops::audit;
use crate::state::AppState;
use crate::store::StoreError;

use super::{Continuation, LoginError, STALE, attempt, form_for, set_attempt, shown_here};

#[derive(Serialize, Deserialize)]
struct RepeatedLogin {
    then: Continuation,
    username: String,
    problem: Problem,
    /// The hash of the session cookie that the browser sent with the failed attempt, valid or not.
    session: Option<TokenHash>,
}

/// `GET /login/again`: shows the form with the problem. The form token in the query is bound to the browser that
/// sent the form, so that an attacker's link cannot fill in the form.
pub async fn form(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    open(&http, &state).await.unwrap_or_else(|error| error.response())
}

async fn open(http: &HttpRequest, state: &AppState) -> Result<HttpResponse, LoginError> {
    let params = Params::of_query(http.query_string())?;
    let Some(form_token) = params.one("form_token")? else {
        return Ok(see_other(&state.config.site.issuer.endpoint("/login")));
    };
    let Ok((_, again)) = shown_here::<RepeatedLogin>(http, state, Form::LoginAgain, form_token) else {
        return open_stale(http, state, form_token).await;
    };
    match session::of(http, state).await? {
        // After the failed attempt, the user logged in and then pressed the back button.
        Some((session, _)) if again.session != Some(session.id) => {
            form_for(http, state, &again.then, ("", None)).await
        }
        _ => show(http, state, &again).await,
    }
}

/// Handles a form token that has expired or was issued to a different browser. This also happens if a browser
/// stores no cookies, so the form is shown with a message about this. The destination after the login is still
/// taken from the form token, which is safe because any link to the login page can set it.
async fn open_stale(
    http: &HttpRequest,
    state: &AppState,
    form_token: &str,
) -> Result<HttpResponse, LoginError> {
    let then = state.form_tokens.content(Form::LoginAgain, form_token).map(|again: RepeatedLogin| again.then);
    let then = then.unwrap_or(Continuation::Nowhere);
    if session::of(http, state).await?.is_some() {
        return form_for(http, state, &then, ("", None)).await;
    }
    let problem = Problem::new(StatusCode::BAD_REQUEST, STALE);
    show(http, state, &RepeatedLogin { then, username: String::new(), problem, session: None }).await
}

async fn show(
    http: &HttpRequest,
    state: &AppState,
    again: &RepeatedLogin,
) -> Result<HttpResponse, LoginError> {
    form_for(http, state, &again.then, (&again.username, Some(&again.problem))).await
}

/// Redirects to a new form after a failed attempt. The destination of the old form is kept, which is safe because
/// any link to the login page can set it.
pub(super) async fn lead_to(
    http: &HttpRequest,
    state: &AppState,
    then: &Continuation,
    username: &str,
    problem: Problem,
) -> Result<HttpResponse, LoginError> {
    let session = OurCookie::Session.read(http, &state.config.site.issuer).map(|cookie| cookie.hash());
    let again = RepeatedLogin { then: then.clone(), username: username.to_owned(), problem, session };
    if again.problem.is_temporary() {
        return show(http, state, &again).await;
    }
    let cookie = attempt(http, state)?;
    let expires_at = state.now().plus(state.config.lifetimes.form);
    let form_token = state.form_tokens.issue(Form::LoginAgain, cookie.hash(), expires_at, &again)?;
    let Some(mut response) = redirect(state, "/login/again", &form_token) else {
        return show(http, state, &again).await;
    };
    set_attempt(&mut response, &cookie, state);
    Ok(response)
}

/// Returns the problem to show after a failed attempt, or an error if the server has failed.
pub(super) fn problem_of(
    refused: &NotProven,
    http: &HttpRequest,
    state: &AppState,
) -> Result<Problem, LoginError> {
    let address = address_of(http, state);
    match refused {
        NotProven::Wrong => audit::Event::LoginFailed { address }.emit(),
        NotProven::TooFast(_) | NotProven::Crowded | NotProven::Busy => {
            audit::Event::LoginThrottled { address }.emit();
        }
        NotProven::Store(_) | NotProven::Hashing(_) => {
            tracing::error!(error = %refused, "a login could not be handled");
        }
    }
    let fault = match refused {
        NotProven::Store(StoreError::NeedsOperator(_)) => LoginError::NeedsOperator,
        _ => LoginError::Unavailable,
    };
    let (status, seconds) = refused.again().ok_or(fault)?;
    Ok(Problem::new(status, &refused.to_string()).retry_after(seconds))
}
