//! Authorization server metadata (RFC 8414), the same metadata as an `OpenID` discovery document, and the JWK
//! set.

use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use actix_web::mime;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use crate::domain::client::GrantType;
use crate::domain::scope::Scope;
use crate::keys::dpop;
use crate::keys::signing::Jwks;
use crate::rotation::LOOK_EVERY;
use crate::state::AppState;

use super::client_assertion::ALGORITHMS;
use super::fallback;
use super::prompt::Prompt;
use super::requested_scope::offline_access;

/// `GET /.well-known/oauth-authorization-server`, at the root of the host. The issuer's path, if it has one,
/// follows this prefix (RFC 8414 §3.1).
pub async fn authorization_server(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let mut document = document(&state);
    if let Some(endpoint) = fallback::authorization_endpoint(&request, &state)
        && let Some(members) = document.as_object_mut()
    {
        members.insert("authorization_endpoint".to_owned(), json!(endpoint));
    }
    cacheable(&document)
}

/// `GET /.well-known/openid-configuration`, in both places that clients try (MCP authorization,
/// "Authorization Server Metadata Discovery"). This server issues no ID tokens, but the document has all
/// members that its schema requires.
pub async fn openid_configuration(state: web::Data<AppState>) -> HttpResponse {
    let mut document = document(&state);
    if let Some(members) = document.as_object_mut() {
        members.insert("subject_types_supported".to_owned(), json!(["public"]));
        members.insert(
            "id_token_signing_alg_values_supported".to_owned(),
            json!([state.config.signing.algorithm.name()]),
        );
    }
    cacheable(&document)
}

/// `GET /jwks`: the public keys that verify this server's tokens (RFC 7517 §5).
pub async fn jwks(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let Jwks { text, etag } = state.keys.jwks();
    let fresh_for = jwks_max_age(state.config.signing.lead).as_secs();
    let known = request.headers().get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok());
    let is_known = known.flat_map(|tags| tags.split(',')).any(|tag| {
        let tag = tag.trim();
        // RFC 9110 §13.1.2 requires a weak comparison.
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == &*etag
    });
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header((CACHE_CONTROL, format!("public, max-age={fresh_for}")))
        .insert_header((ETAG, &*etag));
    if is_known {
        response.finish()
    } else {
        response.content_type(mime::APPLICATION_JSON).body(text.to_string())
    }
}

/// How long verifiers can cache the key set. A new key is published `lead` before it signs, and a verifier that
/// fetched the set just before that must fetch it again in time. The result is half of `lead` minus the time that
/// replicas need to read the new key, and at most 300 seconds.
fn jwks_max_age(lead: Duration) -> Duration {
    (lead.saturating_sub(LOOK_EVERY) / 2).min(Duration::from_secs(300))
}

/// Client authentication methods at the token and revocation endpoints.
const AUTH_METHODS: [&str; 4] = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"];

/// Client authentication methods at endpoints that public clients cannot use.
const CONFIDENTIAL_AUTH_METHODS: [&str; 3] = ["client_secret_basic", "client_secret_post", "private_key_jwt"];

fn cacheable(document: &Value) -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "public, max-age=300")).json(document)
}

fn document(state: &AppState) -> Value {
    let issuer = &state.config.site.issuer;
    let grant_types: Vec<&str> = state.config.grants.offered().map(GrantType::as_str).collect();
    let catalogue = state.catalogue();
    // `offline_access` is listed only if it has an effect, because clients that find it in the metadata request
    // it.
    let offline_access = if state.config.grants.offline_access { offline_access() } else { Scope::default() };
    let scopes: Vec<&str> = catalogue
        .tokens()
        .chain(offline_access.tokens())
        .map(crate::domain::scope::ScopeToken::as_str)
        .collect();
    let mut document = json!({
        "issuer": issuer.as_str(),
        "authorization_endpoint": issuer.endpoint("/authorize"),
        "token_endpoint": issuer.endpoint("/token"),
        "pushed_authorization_request_endpoint": issuer.endpoint("/par"),
        "require_pushed_authorization_requests": state.config.grants.pushed_requests_only,
        "registration_endpoint": issuer.endpoint("/register"),
        "revocation_endpoint": issuer.endpoint("/revoke"),
        "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
        "revocation_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "introspection_endpoint": issuer.endpoint("/introspect"),
        "introspection_endpoint_auth_methods_supported": CONFIDENTIAL_AUTH_METHODS,
        "introspection_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "introspection_signing_alg_values_supported": [state.config.signing.algorithm.name()],
        "jwks_uri": issuer.endpoint("/jwks"),
        "scopes_supported": scopes,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": grant_types,
        "token_endpoint_auth_methods_supported": AUTH_METHODS,
        "token_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "code_challenge_methods_supported": ["S256"],
        "prompt_values_supported": Prompt::VALUES,
        "authorization_response_iss_parameter_supported": true,
        "client_id_metadata_document_supported": state.clients.documents().are_accepted(),
    });
    let Some(members) = document.as_object_mut() else { return document };
    if state.dpop.is_on() {
        // This member is defined in RFC 9449 §5.1.
        members.insert("dpop_signing_alg_values_supported".to_owned(), json!(dpop::ALGORITHMS));
    }
    if state.config.grants.offers(GrantType::DeviceCode) {
        members.insert(
            "device_authorization_endpoint".to_owned(),
            issuer.endpoint("/device_authorization").into(),
        );
    }
    if state.config.grants.offers(GrantType::JwtBearer) {
        members.insert("authorization_grant_profiles_supported".to_owned(), json!([ID_JAG_PROFILE]));
    }
    document
}

/// The grant profile of enterprise-managed authorization (MCP extension, SEP-990).
const ID_JAG_PROFILE: &str = "urn:ietf:params:oauth:grant-profile:id-jag";
