//! What clients of MCP 2025-03-26 look for on the host of the MCP server itself (`basic/authorization`, "Server
//! Metadata Discovery" and "Fallbacks for Servers without Metadata Discovery").
//!
//! They know no protected resource metadata and send no `resource`, so the host has to say what they want a token for:
//! `DEFAULT_RESOURCE`. Without that setting nothing here applies. Only the authorization endpoint has to be on the MCP
//! host, to hear which one it is; it hands the browser on to the issuer, where the person's login is.

use actix_web::guard::GuardContext;
use actix_web::http::header::{HOST, HeaderMap};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};

use crate::domain::host::split_authority;
use crate::domain::resource::ResourceUri;
use crate::state::AppState;

use super::authorize::see_other;

/// The default resource of the host that a request names, and the origin of that host.
struct Fallback {
    resource: ResourceUri,
    origin: String,
}

fn of(headers: &HeaderMap, state: &AppState) -> Option<Fallback> {
    let mut hosts = headers.get_all(HOST);
    let (host, _) = split_authority(hosts.next()?.to_str().ok()?).ok()?;
    if hosts.next().is_some() {
        return None;
    }
    let site = &state.config.site;
    let resource = site.default_resources.of_host(&host, &site.protected_hosts)?;
    Some(Fallback { resource, origin: site.protected_hosts.origin(&host)? })
}

/// Whether a request is for a host with a default resource: where the issuer has a path, only there the endpoints are
/// at the root as well.
pub fn applies(context: &GuardContext<'_>) -> bool {
    context.app_data::<Data<AppState>>().is_some_and(|state| of(&context.head().headers, state).is_some())
}

/// Sends an authorization request that came without a resource to the issuer, with one.
pub(super) fn complete(request: &HttpRequest, state: &AppState) -> Option<HttpResponse> {
    let query = request.query_string();
    let says_for_what =
        |name: std::borrow::Cow<'_, str>| matches!(&*name, "resource" | "request" | "request_uri");
    if url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| says_for_what(name)) {
        return None;
    }
    let Fallback { resource, .. } = of(request.headers(), state)?;
    let resource: String = url::form_urlencoded::byte_serialize(resource.as_str().as_bytes()).collect();
    Some(see_other(&state.config.site.issuer.endpoint(&format!("/authorize?{query}&resource={resource}"))))
}

/// The authorization endpoint that a client is told which read the metadata on an MCP host.
pub(super) fn authorization_endpoint(request: &HttpRequest, state: &AppState) -> Option<String> {
    of(request.headers(), state).map(|fallback| format!("{}/authorize", fallback.origin))
}
