//! The four `X-Forwarded-*` headers with which Traefik and Caddy describe the original request.

use actix_web::http::header::HeaderMap;

use super::check_headers::{CheckHeaders, Field};
use super::error::CheckError;
use super::headers::{host, method, path_and_query, scheme};
use super::request::{AccessRequest, Target};

/// Reads the four headers. Each must be present exactly once. If one is missing, the proxy is misconfigured. If
/// one is repeated, the client has sent it as well.
pub(super) fn parse(headers: &HeaderMap) -> Result<AccessRequest<'_>, CheckError> {
    let sent = CheckHeaders::of(headers);
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
