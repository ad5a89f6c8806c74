//! The four `X-Forwarded-*` headers in which Traefik and Caddy say what a check is about.

use actix_web::http::header::HeaderMap;

use crate::domain::path::UnambiguousPath;

use super::headers::{host, method, scheme};
use super::request::{AccessRequest, CheckError, Target};
use super::sent::{Field, Sent};

/// All four exactly once: a proxy that leaves one out is not configured as it must be, and one that comes twice was
/// written by the client.
pub(super) fn parse(headers: &HeaderMap) -> Result<AccessRequest<'_>, CheckError> {
    let sent = Sent::of(headers);
    let target = Target {
        scheme: Some(scheme(sent.required(Field::XForwardedProto)?, "X-Forwarded-Proto")?),
        host: host(sent.required(Field::XForwardedHost)?)?,
        path: UnambiguousPath::of_target(sent.required(Field::XForwardedUri)?)
            .map_err(|_| CheckError::AmbiguousPath)?,
        method: method(sent.required(Field::XForwardedMethod)?)?,
    };
    AccessRequest::read(target, &sent)
}
