//! Traefik's `ForwardAuth`: a GET whose `X-Forwarded-*` headers describe the original request.

use actix_web::http::header::HeaderMap;

use super::forwarded;
use super::request::{AccessRequest, CheckError};

/// The path in the `address` of Traefik's middleware.
pub const PATH: &str = "/verify/traefik";

/// The path of a check at an entry point, which stands in front of the pages and endpoints of auth-service,
/// too. It differs from [`PATH`], so that only a check at an entry point lets requests to them pass.
pub const ENTRY_POINT_PATH: &str = "/verify/traefik/entry-point";

/// Reads a check. Traefik sets `X-Forwarded-Method`, `-Proto`, `-Host` and `-Uri` itself, and gives a
/// WebSocket the scheme `ws` or `wss`. `X-Forwarded-Port` is ignored, because the port is in this program's
/// settings. Anything ambiguous is an error.
pub fn parse(headers: &HeaderMap) -> Result<AccessRequest<'_>, CheckError> {
    forwarded::parse(headers)
}
