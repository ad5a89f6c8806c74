//! Answers that endpoints share: JSON that is never cached, and OAuth errors (RFC 6749 §5).

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HeaderName, PRAGMA, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use serde_json::json;

use crate::domain::error_code::ErrorCode;
use crate::domain::issuer::Issuer;

/// JSON with the headers of RFC 6749 §5.1.
pub(super) fn json_no_store(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    HttpResponseBuilder::new(status)
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((PRAGMA, "no-cache"))
        .insert_header((HeaderName::from_static("x-content-type-options"), "nosniff"))
        .json(body)
}

/// The answer where there is nothing, or nothing that is switched on.
pub(super) fn not_found(issuer: &Issuer) -> HttpResponse {
    error(issuer, StatusCode::NOT_FOUND, ErrorCode::NotFound, "there is nothing at this address", None)
}

/// An error answer (RFC 6749 §5.2). `challenge` asks for HTTP authentication.
pub(super) fn error(
    issuer: &Issuer,
    status: StatusCode,
    code: ErrorCode,
    description: &str,
    challenge: Option<&str>,
) -> HttpResponse {
    let body = json!({
        "error": code.as_str(),
        "error_description": plain(description),
        "error_uri": code.uri(issuer),
    });
    let mut response = json_no_store(status, &body);
    if let Some(value) = challenge.and_then(|text| text.parse().ok()) {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

/// A description in the characters that it may have (RFC 6749 §4.1.2.1, §5.2): some repeat what the client sent.
pub(super) fn plain(description: &str) -> String {
    let allowed = |c: char| match c {
        '"' | '\\' => '\'',
        ' '..='~' => c,
        _ => '?',
    };
    description.chars().map(allowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a019_descriptions_have_only_the_characters_that_they_may_have() {
        assert_eq!(plain("the scope is malformed"), "the scope is malformed");
        assert_eq!(plain("\"a\\\r\n\u{202e}b\u{e9}"), "'a'???b?");
    }
}
