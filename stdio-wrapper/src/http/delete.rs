//! DELETE: the client ends its session (2025-11-25, "Session Management").

use actix_web::{HttpRequest, HttpResponse};

use super::Endpoint;
use super::guard::RequestHeaders;
use super::problem::Problem;

pub(super) async fn handle(request: &HttpRequest, endpoint: &Endpoint) -> Result<HttpResponse, Problem> {
    let caller = endpoint.admit(request).await?;
    if RequestHeaders::new(request).is_stateless() {
        return Err(Problem::method_not_allowed("POST"));
    }
    RequestHeaders::new(request).check_version()?;
    let session = endpoint.session(request, &caller)?;
    endpoint.sessions.end(&session, "the client ended it");
    Ok(HttpResponse::NoContent().finish())
}
