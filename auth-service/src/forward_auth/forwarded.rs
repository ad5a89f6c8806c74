//! The four `X-Forwarded-*` headers in which Traefik and Caddy say what a check is about.

use actix_web::http::header::HeaderMap;

use super::headers::{host, method, path_and_query, scheme};
use super::request::{AccessRequest, CheckError, Target};
use super::sent::{Field, Sent};

/// All four exactly once: a proxy that leaves one out is not configured as it must be, and one that comes twice was
/// written by the client.
pub(super) fn parse(headers: &HeaderMap) -> Result<AccessRequest<'_>, CheckError> {
    let sent = Sent::of(headers);
    let (path, query) = path_and_query(sent.required(Field::XForwardedUri)?)?;
    let target = Target {
        scheme: Some(scheme(sent.required(Field::XForwardedProto)?, "X-Forwarded-Proto")?),
        host: host(sent.required(Field::XForwardedHost)?)?,
        path,
        query,
        method: method(sent.required(Field::XForwardedMethod)?)?,
    };
    AccessRequest::read(target, &sent)
}
