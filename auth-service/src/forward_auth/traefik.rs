//! Traefik's `ForwardAuth`: a GET with everything about the request in `X-Forwarded-*`.

use actix_web::http::header::HeaderMap;

use super::forwarded;
use super::request::{AccessRequest, CheckError};

/// The path of Traefik's `address`.
pub const PATH: &str = "/verify/traefik";

/// The same where the check stands at an entry point, and so in front of the pages and endpoints of auth-service too.
/// Apart from [`PATH`], so that only who asks here lets them pass.
pub const ENTRY_POINT_PATH: &str = "/verify/traefik/entry-point";

/// Reads a check. Traefik sets `X-Forwarded-Method`, `-Proto`, `-Host` and `-Uri` itself, and gives a WebSocket the
/// scheme `ws` or `wss`. `X-Forwarded-Port` decides nothing: the port is ours to configure.
pub fn parse(headers: &HeaderMap) -> Result<AccessRequest<'_>, CheckError> {
    forwarded::parse(headers)
}
