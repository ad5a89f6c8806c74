//! The four `X-Forwarded-*` headers in which Traefik and Caddy say what a check is about.

use actix_web::http::header::HeaderMap;

use crate::domain::path::UnambiguousPath;

use super::headers::{host, method, required, scheme};
use super::names;
use super::request::{AccessRequest, CheckError, Target};

/// All four exactly once: a proxy that leaves one out is not configured as it must be, and one that comes twice was
/// written by the client.
pub(super) fn parse(headers: &HeaderMap) -> Result<AccessRequest<'_>, CheckError> {
    let target = Target {
        scheme: Some(scheme(required(headers, &names::X_FORWARDED_PROTO)?, "X-Forwarded-Proto")?),
        host: host(required(headers, &names::X_FORWARDED_HOST)?)?,
        path: UnambiguousPath::of_target(required(headers, &names::X_FORWARDED_URI)?)
            .map_err(|_| CheckError::AmbiguousPath)?,
        method: method(required(headers, &names::X_FORWARDED_METHOD)?)?,
    };
    AccessRequest::read(target, headers)
}
