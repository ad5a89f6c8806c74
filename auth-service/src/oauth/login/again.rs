//! The login form once more, for who was not let in.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::domain::opaque_token::TokenHash;
use crate::identity::cookies::OurCookie;
use crate::identity::ticket::Form;
use crate::oauth::after_form::{Problem, redirect};
use crate::oauth::authorize::see_other;
use crate::oauth::login_attempt::NotProven;
use crate::oauth::params::Params;
use crate::oauth::session;
use crate::ops::audit;
use crate::state::AppState;

use super::{Continuation, LoginError, STALE, attempt, form_for, set_attempt, shown_here};

#[derive(Serialize, Deserialize)]
struct Again {
    then: Continuation,
    username: String,
    problem: Problem,
    /// The login that the browser had before, good or not.
    session: Option<TokenHash>,
}

/// `GET /login/again`: the form with what was wrong. The ticket in the query is bound to the form that was sent, so that no link
/// of somebody else fills it in.
pub async fn form(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    open(&http, &state).await.unwrap_or_else(|error| error.response())
}

async fn open(http: &HttpRequest, state: &AppState) -> Result<HttpResponse, LoginError> {
    let params = Params::of_query(http.query_string())?;
    let Some(ticket) = params.one("ticket")? else {
        return Ok(see_other(&state.config.site.issuer.endpoint("/login")));
    };
    let Ok((_, again)) = shown_here::<Again>(http, state, Form::LoginAgain, ticket) else {
        return open_stale(http, state, ticket).await;
    };
    match session::of(http, state).await? {
        // The back button, after a login that succeeded.
        Some((session, _)) if again.session != Some(session.id) => {
            form_for(http, state, &again.then, ("", None)).await
        }
        _ => show(http, state, &again).await,
    }
}

/// The page of another browser, an old one, or one of a browser that keeps no cookies. Without this message, that one would be
/// shown the form again and again. It leads on as any link could.
async fn open_stale(http: &HttpRequest, state: &AppState, ticket: &str) -> Result<HttpResponse, LoginError> {
    let then = state.tickets.content(Form::LoginAgain, ticket).map(|again: Again| again.then);
    let then = then.unwrap_or(Continuation::Nowhere);
    if session::of(http, state).await?.is_some() {
        return form_for(http, state, &then, ("", None)).await;
    }
    let problem = Problem::new(StatusCode::BAD_REQUEST, STALE);
    show(http, state, &Again { then, username: String::new(), problem, session: None }).await
}

async fn show(http: &HttpRequest, state: &AppState, again: &Again) -> Result<HttpResponse, LoginError> {
    form_for(http, state, &again.then, (&again.username, Some(&again.problem))).await
}

/// Leads to a fresh form in the place of one that did not help. It leads on where that one would have led, as any link could.
pub(super) async fn lead_to(
    http: &HttpRequest,
    state: &AppState,
    then: &Continuation,
    username: &str,
    problem: Problem,
) -> Result<HttpResponse, LoginError> {
    let session = OurCookie::Session.read(http, &state.config.site.issuer).map(|cookie| cookie.hash());
    let again = Again { then: then.clone(), username: username.to_owned(), problem, session };
    if again.problem.is_temporary() {
        return show(http, state, &again).await;
    }
    let cookie = attempt(http, state)?;
    let expires_at = state.now().plus(state.config.lifetimes.form);
    let ticket = state.tickets.issue(Form::LoginAgain, cookie.hash(), expires_at, &again)?;
    let Some(mut response) = redirect(state, "/login/again", &ticket) else {
        return show(http, state, &again).await;
    };
    set_attempt(&mut response, &cookie, state);
    Ok(response)
}

/// Why somebody was not let in, as the form says it; an error if the fault is ours.
pub(super) fn problem_of(refused: &NotProven) -> Result<Problem, LoginError> {
    match refused {
        NotProven::Wrong => audit::Event::LoginFailed.emit(),
        NotProven::TooFast(_) | NotProven::Busy => audit::Event::LoginThrottled.emit(),
        NotProven::Store(_) | NotProven::Hashing(_) => {
            tracing::error!(error = %refused, "a login could not be handled");
        }
    }
    let (status, seconds) = refused.again().ok_or(LoginError::Unavailable)?;
    Ok(Problem::new(status, &refused.to_string()).retry_after(seconds))
}
