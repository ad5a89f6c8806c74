//! Protected resource metadata (RFC 9728) of every protected host, at the root and with the resource's path.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use crate::domain::host::split_authority;
use crate::domain::path::UnambiguousPath;
use crate::domain::resource::{ResourceUri, WELL_KNOWN};
use crate::domain::resource_query::ResourceQuery;
use crate::domain::scope::ScopeToken;
use crate::state::AppState;

/// `GET /.well-known/oauth-protected-resource[/path]`: describes the resource with that path.
pub async fn document(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let Some((resource, described)) = resource_of(&request, &state) else {
        let message = json!({ "error": "not_found", "error_description": "this host or path is not a protected resource" });
        return HttpResponse::NotFound().insert_header((CACHE_CONTROL, "no-store")).json(message);
    };
    let policy = state.policy.now();
    let scopes: Vec<&str> = policy.required_scope(&resource).tokens().map(ScopeToken::as_str).collect();
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "public, max-age=300")).json(json!({
        "resource": described,
        "authorization_servers": [state.config.site.issuer.as_str()],
        "scopes_supported": scopes,
        "bearer_methods_supported": ["header"],
    }))
}

/// Finds the resource, and the URL that the client used for it (RFC 9728 §3.3). The `Host` header only selects one
/// of the configured hosts.
fn resource_of(request: &HttpRequest, state: &AppState) -> Option<(ResourceUri, String)> {
    // A query that cannot be repeated unchanged is omitted, as in the challenge.
    let query = ResourceQuery::parse(request.query_string()).unwrap_or_default();
    let path = request.uri().path().strip_prefix(WELL_KNOWN)?;
    let path = UnambiguousPath::of_target(if path.is_empty() { "/" } else { path }).ok()?;
    let mut hosts = request.headers().get_all(actix_web::http::header::HOST);
    let authority = hosts.next()?.to_str().ok()?;
    if hosts.next().is_some() {
        return None;
    }
    let (host, _) = split_authority(authority).ok()?;
    let protected = &state.config.site.protected_hosts;
    Some((protected.resource(&host, &path)?, protected.described(&host, &path, query)?))
}
