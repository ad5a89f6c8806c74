//! Pages for users whose browser requests an address without a page. A program receives JSON, but a user needs an
//! explanation and a link.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpResponse};

use crate::domain::issuer::Issuer;
use crate::oauth::responses::EarlyRefusal;
use crate::pages::{FormTarget, Link, MessagePage, page};
use crate::state::AppState;

const NOTHING: &str = "There is nothing at this address. If an application or a bookmark brought you here, go back to the application \
                       and connect it again.";
const NO_PAGE: &str = "This address has no page: it only accepts data from a form or an application. Go back to the \
                       application and connect it again.";

/// Middleware that replaces the responses 404 and 405 with a page if a browser sent the request.
pub(super) async fn with_pages<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let state = request.app_data::<Data<AppState>>().cloned().filter(|_| is_browser(request.headers()));
    let response = next.call(request).await?.map_into_boxed_body();
    let text = match response.status() {
        StatusCode::NOT_FOUND => NOTHING,
        StatusCode::METHOD_NOT_ALLOWED => NO_PAGE,
        _ => return Ok(response),
    };
    let is_page =
        response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
    let Some(state) = state.filter(|_| !is_page) else {
        return Ok(response);
    };
    let mut page = message(response.status(), text, &state.config.site.issuer);
    // A 405 response must list the allowed methods (RFC 9110 §15.5.6).
    if let Some(allow) = response.headers().get(ALLOW) {
        page.headers_mut().insert(ALLOW, allow.clone());
    }
    Ok(response.into_response(page))
}

/// The response to a request that is refused before it reaches an endpoint: a page for a browser, otherwise JSON.
pub(super) fn refused_early(refusal: EarlyRefusal, headers: &HeaderMap, issuer: &Issuer) -> HttpResponse {
    let answer = refusal.response(issuer);
    if !is_browser(headers) {
        return answer;
    }
    let text = format!(
        "This server refused the request: {refusal}. Go back to the application and connect it again."
    );
    let mut page = message(answer.status(), &text, issuer);
    if let Some(retry_after) = answer.headers().get(RETRY_AFTER) {
        page.headers_mut().insert(RETRY_AFTER, retry_after.clone());
    }
    page
}

/// Whether a browser sent the request. A browser that navigates to a page explicitly accepts HTML. Programs and
/// scripts in web pages do not.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).filter_map(|value| value.to_str().ok()).any(|value| value.contains("text/html"))
}

fn message(status: StatusCode, text: &str, issuer: &Issuer) -> HttpResponse {
    let url = issuer.endpoint("/login");
    let way_on = Some(Link { text: "Go to the sign-in page", url: &url });
    let template = MessagePage { title: "This request cannot be answered", text, code: None, way_on };
    page(status, &template, FormTarget::Ourselves)
}
