//! Cross-origin requests: the response headers that a browser requires before it lets a web page call a protected
//! service (Fetch standard, "HTTP-CORS protocol").
//!
//! A page can only send a token that it has received itself: an MCP request contains no cookie, and no answer
//! allows credentials. Therefore pages of any origin can call a service, unless `ALLOWED_ORIGINS` lists the
//! allowed origins. The response to a page from a different origin has no header that would let the page read it.
//!
//! **Preflight.** Before a browser sends a request with a token, it sends `OPTIONS` without the token, and expects
//! a response with a status from 200 to 299. Traefik, Caddy and nginx allow a request if the status of the check
//! is 2xx, so the check cannot answer a preflight for them. Instead, the shipped configuration of every edge
//! routes `OPTIONS` on the protected paths to `PUBLIC_LISTEN`, where [`preflight_at_public_listener`] answers. If
//! a preflight reaches the check anyway, the check answers Envoy with 204, because Envoy treats every status
//! except 200 as a denial and sends it to the client unchanged. The other edge proxies receive an error. An
//! `OPTIONS` request never reaches the service.

use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HOST, HeaderMap, HeaderName, HeaderValue, VARY,
};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use crate::domain::origin::{AllowedOrigins, Origin};
use crate::domain::path::UnambiguousPath;
use crate::state::AppState;

use super::answer::{Answer, value};
use super::check_headers::{CheckHeaders, Field};
use super::error::CheckError;
use super::headers;
use super::outcome::Outcome;
use super::refused_check::RefusedCheck;

/// The methods of an MCP endpoint.
const METHODS: &str = "GET, POST, DELETE";
/// Response headers that a page must be able to read: the challenge, the DPoP nonce, the session, and the time to
/// retry.
const EXPOSED: &str = "WWW-Authenticate, DPoP-Nonce, Mcp-Session-Id, Retry-After";
/// Request headers that MCP clients send.
const HEADERS: &str = "authorization, content-type, accept, last-event-id, mcp-session-id, mcp-protocol-version, mcp-method, mcp-name, dpop";
/// Prefix of the request headers whose names a server chooses (MCP 2026-07-28, "x-mcp-header").
const PARAMETER: &str = "mcp-param-";
/// How long a browser can cache the answer to a preflight, in seconds.
const MAX_AGE: &str = "600";

/// Headers that let a page of `origin` read the answer to a check.
pub(super) fn on_answer(origins: &AllowedOrigins, origin: &Origin) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = vec![
        allow_origin(origins, origin),
        (ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED)),
    ];
    if matches!(origins, AllowedOrigins::Listed(_)) {
        headers.push((VARY, HeaderValue::from_static("Origin")));
    }
    headers
}

/// No answer has `Access-Control-Allow-Credentials`, so this header gives no access to a page without a token.
fn allow_origin(origins: &AllowedOrigins, origin: &Origin) -> (HeaderName, HeaderValue) {
    let value = match origins {
        AllowedOrigins::Any => HeaderValue::from_static("*"),
        AllowedOrigins::Listed(_) => value(origin.as_str()),
    };
    (ACCESS_CONTROL_ALLOW_ORIGIN, value)
}

/// Answers a preflight for a page whose origin is allowed. `wanted` is the value of
/// `Access-Control-Request-Headers`.
pub(super) fn preflight(origins: &AllowedOrigins, origin: &Origin, wanted: &str) -> Answer {
    let headers = vec![
        allow_origin(origins, origin),
        (ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS)),
        (ACCESS_CONTROL_ALLOW_HEADERS, value(&allowed_headers(wanted))),
        (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE)),
        (VARY, HeaderValue::from_static("Origin, Access-Control-Request-Headers")),
    ];
    Answer {
        status: StatusCode::NO_CONTENT,
        identity: None,
        headers,
        body: None,
        outcome: Outcome::Preflight,
        refusal: None,
    }
}

/// The value of `Access-Control-Allow-Headers`. A wildcard would not cover `authorization` (Fetch standard), so
/// the headers are listed.
fn allowed_headers(wanted: &str) -> String {
    let wanted = wanted.split(',').map(str::trim);
    let parameters = wanted.filter(|name| {
        name.len() < 100
            && name.get(..PARAMETER.len()).is_some_and(|start| start.eq_ignore_ascii_case(PARAMETER))
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    });
    parameters
        .take(50)
        .fold(HEADERS.to_owned(), |list, name| format!("{list}, {}", name.to_ascii_lowercase()))
}

/// Answers `OPTIONS` at any path of a protected host on the public listener. The response to any other request is
/// 404.
pub async fn preflight_at_public_listener(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    if request.method() != Method::OPTIONS {
        return not_found();
    }
    match asked_at_public_listener(request.uri().path(), request.headers(), &state) {
        Ok(Some((origin, wanted))) => {
            preflight(&state.config.allowed_origins, &origin, wanted).into_response()
        }
        Ok(None) => not_found(),
        Err(error) => {
            let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
            let answer = Answer::refuse(&error);
            RefusedCheck { peer: request.peer_addr().map(|peer| peer.ip()), host }.log(&answer);
            answer.into_response()
        }
    }
}

type PreflightOrigin<'a> = (Origin, &'a str);

fn asked_at_public_listener<'a>(
    path: &str,
    client: &'a HeaderMap,
    state: &AppState,
) -> Result<Option<PreflightOrigin<'a>>, CheckError> {
    let sent = CheckHeaders::of(client);
    let authority = sent.single(Field::Host)?.ok_or(CheckError::BadHost)?;
    let host = headers::host(authority)?;
    let Some(own) = state.config.site.protected_hosts.origin(&host) else {
        return Ok(None);
    };
    UnambiguousPath::of_target(path).map_err(|_| CheckError::AmbiguousPath)?;
    let origin = headers::origin(&sent)?.ok_or(CheckError::Missing("Origin"))?;
    let wanted = headers::preflight(&sent)?.ok_or(CheckError::Missing("Access-Control-Request-Method"))?;
    if state.config.allowed_origins.allow(&origin, &own) {
        Ok(Some((origin, wanted)))
    } else {
        Err(CheckError::Origin)
    }
}

fn not_found() -> HttpResponse {
    HttpResponse::NotFound()
        .json(json!({ "error": "not_found", "error_description": "there is nothing at this address" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a097_any_origin_without_credentials_or_a_listed_one_by_name() {
        let origin: Origin = "https://app.example".parse().unwrap();
        let any = on_answer(&AllowedOrigins::Any, &origin);
        assert!(any.contains(&(ACCESS_CONTROL_ALLOW_ORIGIN, value("*"))));
        let listed = on_answer(&AllowedOrigins::Listed([origin.clone()].into()), &origin);
        assert!(listed.contains(&(ACCESS_CONTROL_ALLOW_ORIGIN, value("https://app.example"))));
        assert!(listed.contains(&(VARY, value("Origin"))));
        for headers in [any, listed] {
            assert!(headers.iter().all(|(name, _)| name != "access-control-allow-credentials"));
        }
    }

    #[test]
    fn only_headers_of_mcp_are_allowed() {
        let allowed =
            allowed_headers("Authorization, x-evil, Mcp-Param-Region, mcp-param-\r\nx, Mcp-Param-a b");
        assert_eq!(allowed, format!("{HEADERS}, mcp-param-region"));
        assert_eq!(allowed_headers(""), HEADERS);
    }
}
