//! Caddy's `forward_auth`: a GET whose `X-Forwarded-*` headers describe the original request.

use actix_web::http::header::HeaderMap;

use super::error::CheckError;
use super::forwarded;
use super::request::AccessRequest;

/// The path in the `uri` of Caddy's directive. Caddy appends the client's query to it, which is ignored.
pub const PATH: &str = "/verify/caddy";

/// Reads a check. The directive sets `X-Forwarded-Method` and `-Uri`, and Caddy's reverse proxy sets `-Proto` and
/// `-Host`. All other headers from the client are passed on unchanged. Anything ambiguous is an error.
pub fn parse(headers: &HeaderMap) -> Result<AccessRequest<'_>, CheckError> {
    forwarded::parse(headers)
}
