//! Fuzzes the check parsers of all proxies that use HTTP, including the parsers of the bearer token, `Origin` and
//! `Mcp-Name`. They must not panic, and must accept only unambiguous requests.
#![no_main]

use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use auth_service::forward_auth::{AccessRequest, Bearer, CheckError, caddy, envoy, nginx, traefik};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 20] = [
    "host",
    "authorization",
    "origin",
    "dpop",
    "connection",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "access-control-request-method",
    "access-control-request-headers",
    "x-forwarded-method",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-uri",
    "x-forwarded-prefix",
    "x-original-method",
    "x-original-url",
    "x_auth_subject",
    "mcp_name",
    "x-auth-subject",
];

fuzz_target!(|input: (&str, &str, Vec<(u8, &[u8])>)| {
    let (method, target, lines) = input;
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        headers.append(HeaderName::from_static(NAMES[usize::from(name) % NAMES.len()]), value);
    }
    check(traefik::parse(&headers), &headers);
    check(caddy::parse(&headers), &headers);
    check(nginx::parse(&headers), &headers);
    if let Ok(method) = Method::from_bytes(method.as_bytes()) {
        check(envoy::parse(&method, target, &headers), &headers);
    }
});

fn check(read: Result<AccessRequest<'_>, CheckError>, headers: &HeaderMap) {
    let Ok(asked) = read else { return };
    assert!(asked.path.as_str().starts_with('/') && !asked.path.as_str().contains("//"));
    assert!(asked.path.as_str().split('/').all(|segment| segment != ".."));
    assert!(["GET", "POST", "DELETE", "HEAD", "OPTIONS"].contains(&asked.method.as_str()));
    for name in ["origin", "dpop", "mcp-method", "mcp-name", "mcp-protocol-version"] {
        assert!(headers.get_all(name).count() <= 1, "{name} came twice");
    }
    assert!(!headers.contains_key("x_auth_subject") && !headers.contains_key("mcp_name"));
    if let Bearer::Token(token) = asked.bearer {
        assert_eq!(headers.get_all("authorization").count(), 1);
        assert!(!token.is_empty() && token.is_ascii() && !token.contains([' ', ',', '"', '\r', '\n']));
    }
}
