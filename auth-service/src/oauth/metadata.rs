//! Authorization server metadata (RFC 8414), the same as an `OpenID` discovery document, and the JWK set.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use crate::config::Site;
use crate::policy::Policy;
use crate::state::AppState;

/// `GET /.well-known/oauth-authorization-server`, at the root with the issuer's path after it (RFC 8414 §3.1).
pub async fn authorization_server(state: web::Data<AppState>) -> HttpResponse {
    cacheable(&document(&state.config.site, &state.policy))
}

/// `GET /.well-known/openid-configuration`, in both places that clients look at (MCP authorization, "Authorization
/// Server Metadata Discovery"). No ID tokens are issued; the members that its schema requires are there all the same.
pub async fn openid_configuration(state: web::Data<AppState>) -> HttpResponse {
    let mut document = document(&state.config.site, &state.policy);
    if let Some(members) = document.as_object_mut() {
        members.insert("subject_types_supported".to_owned(), json!(["public"]));
        members.insert("id_token_signing_alg_values_supported".to_owned(), json!(["EdDSA"]));
    }
    cacheable(&document)
}

/// `GET /jwks` (RFC 7517 §5).
pub async fn jwks(state: web::Data<AppState>) -> HttpResponse {
    cacheable(state.keys.jwks())
}

fn cacheable(document: &Value) -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "public, max-age=300")).json(document)
}

fn document(site: &Site, policy: &Policy) -> Value {
    let issuer = &site.issuer;
    let scopes: Vec<&str> =
        policy.catalogue().tokens().map(crate::domain::scope::ScopeToken::as_str).collect();
    json!({
        "issuer": issuer.as_str(),
        "authorization_endpoint": issuer.endpoint("/authorize"),
        "token_endpoint": issuer.endpoint("/token"),
        "registration_endpoint": issuer.endpoint("/register"),
        "jwks_uri": issuer.endpoint("/jwks"),
        "scopes_supported": scopes,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": true,
    })
}
