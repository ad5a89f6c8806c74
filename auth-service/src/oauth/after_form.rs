//! Pages that answer a form, at addresses of their own.
//!
//! A browser that is to show the answer to a form once more, after the back button or a reload, first asks whether it shall
//! send the form again. So a form is answered by a redirect, and what the page says is in its address, sealed: nothing is
//! stored for it, and no link makes a page of ours say to one what we said to another. Where sending the form again is what
//! helps (too many attempts, a fault of ours), the page itself is the answer, with the status that programs understand.

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::domain::opaque_token::TokenHash;
use crate::identity::cookies::OurCookie;
use crate::identity::ticket::Form;
use crate::pages::{FormTarget, Link, MessagePage, page};
use crate::state::AppState;

use super::authorize::see_other;
use super::params::Params;

/// Bytes in the longest ticket that goes into an address. Proxies take a request line of 8 kB.
const LONGEST_IN_ADDRESS: usize = 4 * 1024;

/// Where a message is shown.
pub const MESSAGE_PATH: &str = "/consent/answered";

/// Leads to the page at `path` that the ticket is for; nowhere if the ticket is too long for an address. Then the page itself
/// has to be the answer.
pub(super) fn redirect(state: &AppState, path: &str, ticket: &str) -> Option<HttpResponse> {
    let is_short = ticket.len() <= LONGEST_IN_ADDRESS;
    is_short.then(|| see_other(&state.config.site.issuer.endpoint(&format!("{path}?ticket={ticket}"))))
}

/// What was wrong with a form, on the page that shows it once more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Problem {
    pub(super) text: String,
    status: u16,
    /// Seconds until it is worth sending again.
    retry_after: Option<u64>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, text: &str) -> Self {
        Self { text: text.to_owned(), status: status.as_u16(), retry_after: None }
    }

    pub(super) fn retry_after(self, seconds: Option<u64>) -> Self {
        Self { retry_after: seconds, ..self }
    }

    pub(super) fn status(&self) -> StatusCode {
        status_of(self.status)
    }

    /// Whether the same form may do better in a while.
    pub(super) fn is_temporary(&self) -> bool {
        self.retry_after.is_some()
    }

    /// Adds to the page what its header says of the problem.
    pub(super) fn mark(&self, response: &mut HttpResponse) {
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
    }
}

/// What becomes of a form, for a person to read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Message {
    status: u16,
    title: String,
    text: String,
    way_on: Option<(String, String)>,
}

impl Message {
    /// `way_on` is what a link says and where in this service it leads.
    pub(super) fn new(status: StatusCode, title: &str, text: String, way_on: Option<Link<'_>>) -> Self {
        let way_on = way_on.map(|link| (link.text.to_owned(), link.url.to_owned()));
        Self { status: status.as_u16(), title: title.to_owned(), text, way_on }
    }

    /// The page.
    pub(super) fn page(&self) -> HttpResponse {
        let way_on = self.way_on.as_ref().map(|(text, url)| Link { text, url });
        let template = MessagePage { title: &self.title, text: &self.text, code: None, way_on };
        page(status_of(self.status), &template, FormTarget::Ourselves)
    }

    /// The answer to a form. Its address is good in this browser only: a link of somebody else's must not show what we said to
    /// them, and lead on from there. A browser that has never signed in gets the page.
    pub(super) fn answer(&self, http: &HttpRequest, state: &AppState) -> HttpResponse {
        let reader = reader(http, state).filter(|_| !status_of(self.status).is_server_error());
        let expires_at = state.now().plus(state.config.lifetimes.form);
        let ticket =
            reader.and_then(|reader| state.tickets.issue(Form::Message, reader, expires_at, self).ok());
        let redirect = ticket.and_then(|ticket| redirect(state, MESSAGE_PATH, &ticket));
        redirect.unwrap_or_else(|| self.page())
    }
}

/// The browser, by its login, valid or expired.
fn reader(http: &HttpRequest, state: &AppState) -> Option<TokenHash> {
    OurCookie::Session.read(http, &state.config.site.issuer).map(|cookie| cookie.hash())
}

fn status_of(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::BAD_REQUEST)
}

/// `GET /consent/answered`: what became of a form.
pub async fn show(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let params = Params::of_query(http.query_string()).ok();
    let ticket = params.as_ref().and_then(|params| params.one("ticket").ok().flatten()).unwrap_or_default();
    let message = reader(&http, &state)
        .and_then(|reader| state.tickets.read(Form::Message, reader, state.now(), ticket).ok());
    message.unwrap_or_else(over).page()
}

fn over() -> Message {
    let text = "What stood here is too old to be shown again, or was for another browser. If something is not connected that should be, go back to the \
                application and connect it again.";
    Message::new(StatusCode::GONE, "This page has expired", text.to_owned(), None)
}
