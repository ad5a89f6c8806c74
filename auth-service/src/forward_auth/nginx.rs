//! nginx's `auth_request`: a GET whose headers `X-Original-Method` and `X-Original-URL` describe the original
//! request. The nginx configuration of this project sets them.
//!
//! nginx matches locations against the normalized path, and sends the raw path in the check. A path that is
//! different after normalization is refused.

use actix_web::http::header::HeaderMap;

use super::check_headers::{CheckHeaders, Field};
use super::error::CheckError;
use super::headers::{host, method, path_and_query, scheme};
use super::request::{AccessRequest, Target};

/// The path to which nginx sends the authorization subrequest.
pub const PATH: &str = "/verify/nginx";

/// Reads a check. `X-Original-URL` is `$scheme://$host$request_uri`: the host by which nginx selected the server,
/// and the request target that the client sent. Anything ambiguous is an error.
pub fn parse(headers: &HeaderMap) -> Result<AccessRequest<'_>, CheckError> {
    let sent = CheckHeaders::of(headers);
    let malformed = CheckError::BadHeader("X-Original-URL");
    let Some((proto, rest)) = sent.required(Field::XOriginalUrl)?.split_once("://") else {
        return Err(malformed);
    };
    let path_at = rest.find('/').unwrap_or(rest.len());
    let Some((authority, original_target)) = rest.split_at_checked(path_at) else {
        return Err(malformed);
    };
    let (path, query) = path_and_query(original_target)?;
    let target = Target {
        scheme: Some(scheme(proto, "X-Original-URL")?),
        host: host(authority)?,
        path,
        query,
        method: method(sent.required(Field::XOriginalMethod)?)?,
    };
    AccessRequest::read(target, &sent)
}
