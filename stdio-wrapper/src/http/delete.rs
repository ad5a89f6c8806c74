//! DELETE: the client ends its session (2025-11-25, "Session Management").

use actix_web::{HttpRequest, HttpResponse};

use super::Endpoint;
use super::guard::RequestHeaders;
use super::problem::Problem;
use crate::identity::Caller;

pub(super) fn handle(
    request: &HttpRequest,
    endpoint: &Endpoint,
    caller: &Caller,
) -> Result<HttpResponse, Problem> {
    if RequestHeaders::new(request).is_stateless() {
        return Err(Problem::method_not_allowed("POST"));
    }
    RequestHeaders::new(request).check_version()?;
    let session = endpoint.session(request, caller)?;
    endpoint.sessions.end(&session, "the client ended it");
    Ok(HttpResponse::NoContent().finish())
}
