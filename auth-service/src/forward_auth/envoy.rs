//! Envoy's `ext_authz` over HTTP. A check has the method and the `Host` of the client's request. Its path is a
//! prefix, followed by the path and the query of the client's request.

use actix_web::http::Method;
use actix_web::http::header::HeaderMap;

use super::check_headers::{CheckHeaders, Field};
use super::error::CheckError;
use super::headers::{host, method, path_and_query, scheme};
use super::request::{AccessRequest, Target};

/// The `path_prefix` in Envoy's configuration.
pub const PREFIX: &str = "/verify/envoy";

/// Reads a check. `original_target` is the text after the prefix. Anything ambiguous is an error.
pub fn parse<'a>(
    asked: &Method,
    original_target: &'a str,
    headers: &'a HeaderMap,
) -> Result<AccessRequest<'a>, CheckError> {
    let sent = CheckHeaders::of(headers);
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
