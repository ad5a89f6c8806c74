//! Caddy's `forward_auth`: a GET with everything about the request in `X-Forwarded-*`.

use actix_web::http::header::HeaderMap;

use super::forwarded;
use super::request::{AccessRequest, CheckError};

/// The path of Caddy's `uri`. Caddy appends the client's query to it, which means nothing.
pub const PATH: &str = "/verify/caddy";

/// Reads a check. The directive sets `X-Forwarded-Method` and `-Uri`, and Caddy's reverse proxy `-Proto` and `-Host`.
/// All other headers of the client come along.
pub fn parse(headers: &HeaderMap) -> Result<AccessRequest<'_>, CheckError> {
    forwarded::parse(headers)
}
