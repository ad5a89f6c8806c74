//! HTTP responses that several endpoints share: JSON that is never cached, redirects, and OAuth errors (RFC 6749 §5).

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, HeaderName, HeaderValue, LOCATION, PRAGMA, REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE,
};
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use serde_json::json;

use crate::domain::error_code::ErrorCode;
use crate::domain::issuer::Issuer;
use crate::guard::pace::TooManyRequests;

/// Maximum size in bytes of a request body at any endpoint. This is enough for a form with two long tokens, or for
/// a registration.
pub const BODY_LIMIT: usize = 16 * 1024;

/// Maximum length of a query in bytes. The login form contains the query in a sealed form token.
pub const QUERY_LIMIT: usize = 8 * 1024;

/// Maximum length of a form token in bytes. The rest of a body is for the fields that the user fills in.
pub(super) const TICKET_LIMIT: usize = BODY_LIMIT - 4 * 1024;

/// Why a request is refused before it reaches its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EarlyRefusal {
    /// The body exceeds [`BODY_LIMIT`].
    #[error("the body has more than 16384 bytes")]
    TooLarge,
    /// The query exceeds [`QUERY_LIMIT`].
    #[error("the query has more than 8192 bytes")]
    LongQuery,
    /// The body arrives too slowly. It would occupy memory for too long.
    #[error("the body did not arrive in time; send it within ten seconds, without a pause of three seconds")]
    Slow,
    /// The body was incomplete when another body from the same network needed its slot.
    #[error("too many requests from this network have incomplete bodies; send the request again")]
    DisplacedByOwn,
    /// The body was incomplete when another body needed its slot.
    #[error("too many requests have incomplete bodies; send the request again")]
    Displaced,
    /// The body is incomplete, or its encoding is invalid.
    #[error("the body cannot be read")]
    Broken,
    /// The store has lost its data. The data that the request would change is missing, and any new data would be
    /// lost when a backup is restored.
    #[error(
        "the store of this server has lost its data, and nothing can be changed until the operator has restored it; try again later"
    )]
    StoreLost,
    /// The address has the maximum number of requests in progress.
    #[error("too many requests from this network at the same time; try again in a moment")]
    Crowded,
    /// The address has sent more requests per second than allowed.
    #[error("{TooManyRequests}")]
    TooManyRequests,
}

impl EarlyRefusal {
    /// The error response, with `Retry-After` if a later attempt can succeed.
    pub fn response(self, issuer: &Issuer) -> HttpResponse {
        let (status, code, retry_after) = match self {
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::InvalidRequest, None),
            Self::LongQuery => (StatusCode::URI_TOO_LONG, ErrorCode::InvalidRequest, None),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, ErrorCode::InvalidRequest, None),
            Self::Broken => (StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, None),
            Self::StoreLost => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable, Some(60)),
            Self::Displaced => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable, Some(1)),
            Self::DisplacedByOwn | Self::Crowded | Self::TooManyRequests => {
                (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TemporarilyUnavailable, Some(1))
            }
        };
        let mut response = error(issuer, status, code, &self.to_string(), None);
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A JSON response with the headers of RFC 6749 §5.1.
pub(super) fn json_no_store(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    HttpResponseBuilder::new(status)
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((PRAGMA, "no-cache"))
        .insert_header((HeaderName::from_static("x-content-type-options"), "nosniff"))
        .json(body)
}

/// Redirects with status 303, so that the browser does not send a POST with a password to the next URL (RFC 9700
/// §4.12).
pub(super) fn see_other(location: &str) -> HttpResponse {
    HttpResponse::SeeOther()
        .insert_header((LOCATION, location))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .finish()
}

/// The 404 response at an address that does not exist or belongs to a disabled feature.
pub(super) fn not_found(issuer: &Issuer) -> HttpResponse {
    error(issuer, StatusCode::NOT_FOUND, ErrorCode::NotFound, "there is nothing at this address", None)
}

/// An error response (RFC 6749 §5.2). `challenge` becomes the `WWW-Authenticate` header.
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

/// Replaces the characters that a description must not contain (RFC 6749 §4.1.2.1, §5.2). Some descriptions
/// contain text from the client.
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
