//! What the edge is told: identity headers or a challenge.

use actix_web::HttpResponse;
use actix_web::HttpResponseBuilder;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HeaderValue, WWW_AUTHENTICATE};
use serde_json::json;

use crate::domain::host::HostName;
use crate::domain::resource::ResourceUri;
use crate::facts::Facts;
use crate::keys::tokens::{ASSERTION_TYPE, AssertionClaims};
use crate::oauth::protected_resource::metadata_url;
use crate::policy::Denial;
use crate::state::AppState;

use super::request::CheckError;

/// How long an assertion lasts: one hop, and some clock skew.
const ASSERTION_LIFETIME: std::time::Duration = std::time::Duration::from_secs(60);

/// 200 with all identity headers, empty where there is no value: a header that we left out would let the
/// client's own through.
pub(super) fn allow(facts: &Facts, resource: &ResourceUri, state: &AppState) -> (HttpResponse, &'static str) {
    let groups: Vec<&str> = facts.groups.iter().map(crate::domain::account::Group::as_str).collect();
    let scope = facts.scope.to_string();
    let email = facts.email.as_deref().unwrap_or_default();
    let now = state.now();
    let claims = AssertionClaims {
        iss: state.config.site.issuer.as_str(),
        aud: resource.as_str(),
        sub: facts.subject.as_str(),
        username: facts.username.as_str(),
        email,
        groups: &facts.groups,
        client_id: facts.client_id.as_str(),
        scope: &scope,
        iat: now,
        exp: now.plus(ASSERTION_LIFETIME),
        token_exp: facts.expires_at,
    };
    let Ok(assertion) = state.keys.sign(ASSERTION_TYPE, &claims) else {
        tracing::error!("an assertion could not be signed");
        return (unavailable(), "unavailable");
    };
    let headers = [
        ("x-auth-subject", facts.subject.as_str()),
        ("x-auth-username", facts.username.as_str()),
        ("x-auth-email", email),
        ("x-auth-groups", &groups.join(",")),
        ("x-auth-client-id", facts.client_id.as_str()),
        ("x-auth-scope", &scope),
        ("x-auth-assertion", &assertion),
    ];
    let mut response = HttpResponse::Ok();
    for (name, value) in headers {
        response.insert_header((name, header_value(value)));
    }
    (response.insert_header((CACHE_CONTROL, "no-store")).finish(), "allowed")
}

/// A header value that says `text` and nothing else: what is not visible ASCII is percent-encoded.
fn header_value(text: &str) -> HeaderValue {
    let encoded: String = text
        .bytes()
        .map(|byte| match byte {
            b' '..=b'~' if byte != b'%' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// 401 or 403 with the challenge that leads a client to log in (RFC 6750 §3, RFC 9728 §5.1).
pub(super) fn deny(
    denial: &Denial,
    resource: &ResourceUri,
    host: &HostName,
    state: &AppState,
) -> (HttpResponse, &'static str) {
    let (status, error, scope) = match denial {
        Denial::Unauthenticated { scope } => (StatusCode::UNAUTHORIZED, None, scope),
        Denial::InvalidToken { reason, scope } => {
            (StatusCode::UNAUTHORIZED, Some(("invalid_token", *reason)), scope)
        }
        Denial::InsufficientScope { scope } => (
            StatusCode::FORBIDDEN,
            Some(("insufficient_scope", "the access token lacks a scope that this needs")),
            scope,
        ),
    };
    let origin = state.config.site.protected_hosts.origin(host).unwrap_or_default();
    let metadata = metadata_url(&origin, resource);
    // RFC 6750 §3.1: no error code when the request brought no credentials.
    let problem = error.map(|(code, reason)| format!("error=\"{code}\", error_description=\"{reason}\", "));
    let challenge =
        format!("Bearer {}resource_metadata=\"{metadata}\", scope=\"{scope}\"", problem.unwrap_or_default());
    let (code, reason) =
        error.unwrap_or(("unauthorized", "log in first: see resource_metadata in WWW-Authenticate"));
    let response = HttpResponseBuilder::new(status)
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((WWW_AUTHENTICATE, challenge))
        .json(json!({ "error": code, "error_description": reason }));
    (response, if status == StatusCode::FORBIDDEN { "insufficient_scope" } else { "unauthenticated" })
}

/// The answer to a check that cannot be decided. Never 200, never a word about internals.
pub(super) fn refuse(error: &CheckError) -> HttpResponse {
    let status = match error {
        CheckError::Store(cause) => {
            tracing::error!(error = %cause, "the store failed during a check");
            return unavailable();
        }
        CheckError::Untrusted | CheckError::UnknownHost => StatusCode::FORBIDDEN,
        CheckError::UnknownProxy => StatusCode::NOT_FOUND,
        CheckError::Method => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::BAD_REQUEST,
    };
    tracing::warn!(reason = %error, "a check was refused");
    let body = json!({ "error": "invalid_request", "error_description": error.to_string() });
    HttpResponseBuilder::new(status).insert_header((CACHE_CONTROL, "no-store")).json(body)
}

fn unavailable() -> HttpResponse {
    let body = json!({ "error": "temporarily_unavailable", "error_description": "access cannot be checked at the moment; try again in a minute" });
    HttpResponse::ServiceUnavailable().insert_header((CACHE_CONTROL, "no-store")).json(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a087_a_header_value_stays_one_line() {
        assert_eq!(header_value("a b\r\nX-Auth-Groups: admin"), "a b%0D%0AX-Auth-Groups: admin");
        assert_eq!(header_value("100% é"), "100%25 %C3%A9");
        assert_eq!(header_value(""), "");
    }
}
