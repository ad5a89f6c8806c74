//! Requests that Traefik's entry point must allow without an identity, because auth-service itself answers them.
//!
//! At an entry point, the check applies to every router, so Traefik also sends a check for pages, endpoints,
//! well-known documents and preflights. The routers `open` and `preflight` in `traefik/dynamic.yaml.in` have
//! precedence, and send exactly these requests to `PUBLIC_LISTEN`. If in doubt, a request is treated as a request
//! to a service.

use actix_web::HttpResponse;
use actix_web::http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};

use crate::domain::host::{HostName, split_authority};
use crate::domain::issuer::Issuer;
use crate::domain::path::UnambiguousPath;
use crate::state::AppState;

use super::check_headers::{CheckHeaders, Field};
use super::headers::{self, host, path_and_query, scheme};

/// Names below `/.well-known/`. The path of a resource or of the issuer can follow (RFC 9728 §3.1, RFC 8414 §3.1).
const WELL_KNOWN: [&str; 3] =
    ["oauth-protected-resource", "oauth-authorization-server", "openid-configuration"];

/// Names below the issuer's path. All paths below these names also belong to auth-service.
const NAMES: [&str; 16] = [
    ".well-known/openid-configuration",
    "authorize",
    "par",
    "token",
    "register",
    "revoke",
    "introspect",
    "jwks",
    "device_authorization",
    "device",
    "login",
    "callback",
    "consent",
    "account",
    "logout",
    "errors",
];

/// Headers that the endpoints of auth-service need, but that must not reach a service. The edge removes them from
/// a request unless the answer to the check contains them.
static GIVEN_BACK: [HeaderName; 3] = [AUTHORIZATION, COOKIE, HeaderName::from_static("dpop")];

/// Answers the check for a request that auth-service itself answers. Returns `None` for any other request.
pub(super) fn pass(client: &HeaderMap, state: &AppState) -> Option<HttpResponse> {
    let site = &state.config.site;
    let sent = CheckHeaders::of(client);
    headers::refuse_reserved(&sent).ok()?;
    let single = |field| sent.single(field).ok().flatten();
    let (path, _) = path_and_query(single(Field::XForwardedUri)?).ok()?;
    let host = host(single(Field::XForwardedHost)?).ok()?;
    let scheme = scheme(single(Field::XForwardedProto)?, "X-Forwarded-Proto").ok()?;
    let ours = scheme == site.issuer.scheme()
        && (host_of(&site.issuer).as_ref() == Some(&host) || site.protected_hosts.origin(&host).is_some());
    let given_back: &[HeaderName] = match single(Field::XForwardedMethod)? {
        _ if !ours => return None,
        // The router `preflight` matches `OPTIONS` at any path. A preflight contains no credentials.
        method if method == Method::OPTIONS.as_str() => &[],
        _ if is_own(&path, site.issuer.path()) => &GIVEN_BACK,
        _ => return None,
    };
    let mut response = HttpResponse::new(StatusCode::OK);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for name in given_back {
        // All values are returned unchanged, even if a header is repeated. The endpoint decides whether to accept
        // them.
        for value in client.get_all(name) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    Some(response)
}

/// Whether auth-service itself serves this path. The method does not matter, because each endpoint refuses methods
/// that it does not accept, with a page for browsers.
fn is_own(path: &UnambiguousPath, base: &str) -> bool {
    if let Some(document) = path.as_str().strip_prefix("/.well-known/") {
        return WELL_KNOWN.iter().any(|name| is_at_or_below(document, name));
    }
    // No auth-service page needs a percent-encoded character in its path, and all servers read a path without
    // one in the same way.
    let page = path.as_str().strip_prefix(base).and_then(|page| page.strip_prefix('/'));
    page.is_some_and(|page| !page.contains('%') && NAMES.iter().any(|name| is_at_or_below(page, name)))
}

fn is_at_or_below(path: &str, name: &str) -> bool {
    path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn host_of(issuer: &Issuer) -> Option<HostName> {
    let (_, rest) = issuer.as_str().split_once("://")?;
    let authority = rest.split('/').next()?;
    split_authority(authority).ok().map(|(host, _)| host)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn text(below: &str) -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(below)).unwrap()
    }

    /// The strings between each `start` and the next quotation mark.
    fn quoted_after<'a>(source: &'a str, start: &str) -> Vec<&'a str> {
        source.split(start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    #[test]
    fn the_router_of_every_edge_takes_the_same_paths() {
        let escaped = NAMES.map(|name| name.replace('.', "\\."));
        let paths =
            format!("^(/\\.well-known/({})|@ISSUER_PATH@/({}))", WELL_KNOWN.join("|"), escaped.join("|"));
        let in_yaml = paths.replace('\\', "\\\\");
        assert!(text("../traefik/dynamic.yaml.in").contains(&format!("PathRegexp(`{in_yaml}(/|$)`)")));
        assert!(text("../compose/nginx/nginx.conf.in").contains(&format!("location ~ {paths}(/|$) {{")));
        assert!(text("../compose/caddy/Caddyfile.in").contains(&format!("uri}} {paths}(/|\\?|$)")));
    }

    #[test]
    fn every_route_of_the_public_listener_is_an_own_page() {
        let source = text("src/app.rs");
        let mut routes = quoted_after(&source, "format!(\"{base}/");
        assert!(routes.len() > 15, "{routes:?}");
        // The paths of two routes are constants.
        let elsewhere = text("src/domain/error_code.rs") + &text("src/oauth/after_form.rs");
        let constants = quoted_after(&elsewhere, "_PATH: &str = \"/");
        assert_eq!(quoted_after(&source, "format!(\"{base}{").len(), constants.len());
        routes.extend(constants);
        for base in ["", "/tenant1"] {
            for route in &routes {
                let path = format!("{base}/{}", route.replace("{{client_id}}", "mgd_abc"));
                assert!(is_own(&UnambiguousPath::of_target(&path).unwrap(), base), "{path}");
            }
            for name in quoted_after(&source, "well_known(\"") {
                let path = format!("/.well-known/{name}{base}");
                assert!(is_own(&UnambiguousPath::of_target(&path).unwrap(), base), "{path}");
            }
        }
    }

    #[test]
    fn a072_what_is_not_exactly_an_own_path_is_not_one() {
        let own =
            |path: &str, base: &str| UnambiguousPath::of_target(path).is_ok_and(|path| is_own(&path, base));
        for path in
            ["/login", "/login/", "/login/done?x=/mcp", "/.well-known/oauth-protected-resource/caf%C3%A9"]
        {
            assert!(own(path, ""), "{path}");
        }
        for path in [
            "/",
            "/mcp",
            "/logins",
            "/login.",
            "/Login",
            "/login%2f",
            "/login%2Fdone",
            "/login/%C3%A9",
            "/%6cogin",
            "//login",
            "/login/../mcp",
            "/login/%2e%2e/mcp",
            "/mcp/login",
            "/login;x",
            "/login\\x",
            "/.well-known",
            "/.well-known/",
            "/.well-known/oauth",
            "/.well-known/oauth-protected-resources",
            "/.Well-known/openid-configuration",
        ] {
            assert!(!own(path, ""), "{path}");
        }
        assert!(own("/tenant1/login", "/tenant1"));
        assert!(!own("/login", "/tenant1"));
        assert!(!own("/tenant1login", "/tenant1"));
    }
}
