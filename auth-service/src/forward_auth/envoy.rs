//! Envoy's `ext_authz` over HTTP: the original path and query behind a prefix, the original method and Host.

use actix_web::http::Method;
use actix_web::http::header::HeaderMap;

use super::headers::{host, method, path_and_query, scheme};
use super::request::{AccessRequest, CheckError, Target};
use super::sent::{Field, Sent};

/// Envoy's `path_prefix`.
pub const PREFIX: &str = "/verify/envoy";

/// Reads a check. `original_target` is what follows the prefix.
pub fn parse<'a>(
    asked: &Method,
    original_target: &'a str,
    headers: &'a HeaderMap,
) -> Result<AccessRequest<'a>, CheckError> {
    let sent = Sent::of(headers);
    let proto = sent.single(Field::XForwardedProto)?;
    let authority = sent.single(Field::Host).ok().flatten().ok_or(CheckError::BadHost)?;
    let (path, query) = path_and_query(original_target)?;
    let target = Target {
        scheme: proto.map(|text| scheme(text, "X-Forwarded-Proto")).transpose()?,
        host: host(authority)?,
        path,
        query,
        method: method(asked.as_str())?,
    };
    AccessRequest::read(target, &sent)
}
