//! Traefik's `ForwardAuth`: a GET whose `X-Forwarded-*` headers describe the original request.

use actix_web::http::header::HeaderMap;

use super::error::CheckError;
use super::forwarded;
use super::request::AccessRequest;

/// The path in the `address` of Traefik's middleware.
pub const PATH: &str = "/verify/traefik";

/// The path of a check at an entry point, which also applies to the pages and endpoints of auth-service. It
/// differs from [`PATH`], so that only a check at an entry point allows requests to them.
pub const ENTRY_POINT_PATH: &str = "/verify/traefik/entry-point";

/// Reads a check. Traefik sets `X-Forwarded-Method`, `-Proto`, `-Host` and `-Uri`. The scheme of a WebSocket is
/// `ws` or `wss`. `X-Forwarded-Port` is ignored, because the settings of this program contain the port. Anything
/// ambiguous is an error.
pub fn parse(headers: &HeaderMap) -> Result<AccessRequest<'_>, CheckError> {
    forwarded::parse(headers)
}
