//! nginx's `auth_request`: a GET with `X-Original-Method` and `X-Original-URL`, as our configuration sets them.
//!
//! nginx matches locations against a normalised path and hands on the raw one: what is normalised differently is
//! refused here.

use actix_web::http::header::HeaderMap;

use super::headers::{host, method, path_and_query, scheme};
use super::request::{AccessRequest, CheckError, Target};
use super::sent::{Field, Sent};

/// The path that the authorization subrequest is passed to.
pub const PATH: &str = "/verify/nginx";

/// Reads a check. `X-Original-URL` is `$scheme://$host$request_uri`: the host that nginx chose the server by, and the
/// request target as the client sent it.
pub fn parse(headers: &HeaderMap) -> Result<AccessRequest<'_>, CheckError> {
    let sent = Sent::of(headers);
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
