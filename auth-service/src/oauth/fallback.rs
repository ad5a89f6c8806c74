//! Support for clients of MCP 2025-03-26, which look for the endpoints on the host of the MCP server itself
//! (`basic/authorization`, "Server Metadata Discovery" and "Fallbacks for Servers without Metadata
//! Discovery").
//!
//! These clients do not support protected resource metadata, and send no `resource`. The host of the request
//! determines the resource, according to the setting `DEFAULT_RESOURCE`. Without that setting, this module does
//! nothing. Only the authorization endpoint must be on the MCP host, because the host identifies the resource. It
//! redirects the browser to the issuer, where the user logs in.

use actix_web::guard::GuardContext;
use actix_web::http::header::{HOST, HeaderMap};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};

use crate::domain::host::split_authority;
use crate::domain::resource::ResourceUri;
use crate::state::AppState;

use super::responses::see_other;

/// The default resource of the host in a request, and the origin of that host.
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

/// Whether a request is for a host that has a default resource. If the issuer has a path, only these hosts also
/// serve the endpoints at the root.
pub fn applies(context: &GuardContext<'_>) -> bool {
    context.app_data::<Data<AppState>>().is_some_and(|state| of(&context.head().headers, state).is_some())
}

/// Redirects an authorization request without a resource to the issuer, with the default resource added.
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

/// The authorization endpoint for the metadata that a client reads on an MCP host.
pub(super) fn authorization_endpoint(request: &HttpRequest, state: &AppState) -> Option<String> {
    of(request.headers(), state).map(|fallback| format!("{}/authorize", fallback.origin))
}
