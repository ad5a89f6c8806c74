//! Answers that endpoints share: JSON that is never cached, and OAuth errors (RFC 6749 §5).

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HeaderName, PRAGMA, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use serde_json::json;

/// JSON with the headers of RFC 6749 §5.1.
pub(super) fn json_no_store(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    HttpResponseBuilder::new(status)
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((PRAGMA, "no-cache"))
        .insert_header((HeaderName::from_static("x-content-type-options"), "nosniff"))
        .json(body)
}

/// The answer where there is nothing, or nothing that is switched on.
pub(super) fn not_found() -> HttpResponse {
    HttpResponse::NotFound()
        .json(json!({ "error": "not_found", "error_description": "there is nothing at this address" }))
}

/// An error answer (RFC 6749 §5.2). `challenge` asks for HTTP authentication.
pub(super) fn error(
    status: StatusCode,
    code: &str,
    description: &str,
    challenge: Option<&str>,
) -> HttpResponse {
    let mut response = json_no_store(status, &json!({ "error": code, "error_description": description }));
    if let Some(value) = challenge.and_then(|text| text.parse().ok()) {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}
