//! Pages that show the result of a submitted form, each at its own URL.
//!
//! If the response to a form is a page, the browser asks the user whether to send the form again after a reload or
//! the back button. Therefore the response is a redirect, and the URL of the next page contains its content in a
//! sealed form token. Nothing is stored, and a link cannot show one user a message for another user. After too
//! many attempts or a server error, the user should be able to send the form again. In these two cases, the page
//! itself is the response, with the status code of the error.

use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use crate::domain::opaque_token::TokenHash;
use crate::identity::cookies::OurCookie;
use crate::identity::form_token::Form;
use crate::pages::{FormTarget, Link, MessagePage, page};
use crate::state::AppState;

use super::params::Params;
use super::responses::see_other;

/// Maximum length in bytes of a form token in a URL. Common proxies limit the request line to 8 kB.
const MAX_LEN_IN_QUERY: usize = 4 * 1024;

/// Path of the page that shows the result of a form.
pub const MESSAGE_PATH: &str = "/consent/answered";

/// Returns a redirect to the page at `path`, with the form token in its query. Returns `None` if the form token is
/// too long for a URL. The caller must then respond with the page itself.
pub(super) fn redirect(state: &AppState, path: &str, form_token: &str) -> Option<HttpResponse> {
    let is_short = form_token.len() <= MAX_LEN_IN_QUERY;
    is_short
        .then(|| see_other(&state.config.site.issuer.endpoint(&format!("{path}?form_token={form_token}"))))
}

/// Why a form was not accepted. The reason is shown together with the form.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Problem {
    pub(super) text: String,
    status: u16,
    /// Seconds until the form can succeed if it is sent again.
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

    /// Whether the same form can succeed later, unchanged.
    pub(super) fn is_temporary(&self) -> bool {
        self.retry_after.is_some()
    }

    /// Sets the `Retry-After` header of the page, if the delay is known.
    pub(super) fn mark(&self, response: &mut HttpResponse) {
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
    }
}

/// The result of a form, shown to the user as a page.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Message {
    status: u16,
    title: String,
    text: String,
    way_on: Option<(String, String)>,
}

impl Message {
    /// Creates a message. `way_on` is a link to a URL of this server at which the user can continue.
    pub(super) fn new(status: StatusCode, title: &str, text: String, way_on: Option<Link<'_>>) -> Self {
        let way_on = way_on.map(|link| (link.text.to_owned(), link.url.to_owned()));
        Self { status: status.as_u16(), title: title.to_owned(), text, way_on }
    }

    pub(super) fn page(&self) -> HttpResponse {
        let way_on = self.way_on.as_ref().map(|(text, url)| Link { text, url });
        let template = MessagePage { title: &self.title, text: &self.text, code: None, way_on };
        page(status_of(self.status), &template, FormTarget::Ourselves)
    }

    /// The page as the response to a request that can succeed if it is sent again after this number of seconds.
    pub(super) fn page_until(&self, seconds: u64) -> HttpResponse {
        let mut response = self.page();
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
        response
    }

    /// Responds to a form with a redirect to [`MESSAGE_PATH`]. The form token in that URL is valid only in this
    /// browser, so that an attacker's link cannot show a message with a link. For server errors, and for browsers
    /// without a session cookie, the response is the page itself.
    pub(super) fn answer(&self, http: &HttpRequest, state: &AppState) -> HttpResponse {
        let reader = reader(http, state).filter(|_| !status_of(self.status).is_server_error());
        let expires_at = state.now().plus(state.config.lifetimes.form);
        let form_token =
            reader.and_then(|reader| state.form_tokens.issue(Form::Message, reader, expires_at, self).ok());
        let redirect = form_token.and_then(|form_token| redirect(state, MESSAGE_PATH, &form_token));
        redirect.unwrap_or_else(|| self.page())
    }
}

/// Identifies the browser by its session cookie, even if the session has expired.
fn reader(http: &HttpRequest, state: &AppState) -> Option<TokenHash> {
    OurCookie::Session.read(http, &state.config.site.issuer).map(|cookie| cookie.hash())
}

fn status_of(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::BAD_REQUEST)
}

/// `GET /consent/answered`: shows the result of a form.
pub async fn show(http: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let params = Params::of_query(http.query_string()).ok();
    let form_token =
        params.as_ref().and_then(|params| params.one("form_token").ok().flatten()).unwrap_or_default();
    let message = reader(&http, &state)
        .and_then(|reader| state.form_tokens.read(Form::Message, reader, state.now(), form_token).ok());
    message.unwrap_or_else(over).page()
}

fn over() -> Message {
    let text = "This page is too old to be shown again, or was created for another browser. If an application is not connected although it should be, go back to the \
                application and connect it again.";
    Message::new(StatusCode::GONE, "This page has expired", text.to_owned(), None)
}
