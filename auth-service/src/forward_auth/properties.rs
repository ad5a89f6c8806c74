//! Property tests of all parsers with arbitrary requests.

use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::{AccessRequest, CheckError, caddy, envoy, nginx, traefik};

/// A request as each proxy describes it over HTTP.
struct Put {
    forwarded: HeaderMap,
    original: HeaderMap,
    plain: HeaderMap,
}

/// Describes a request with additional headers from the client. Returns `None` if the request cannot be sent.
fn put(method: &str, host: &str, target: &str, client: &[(String, Vec<u8>)]) -> Option<Put> {
    let of = |own: &[(&'static str, &str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in own {
            let value = HeaderValue::from_str(value).ok()?;
            headers.append(HeaderName::from_static(name), value);
        }
        for (name, value) in client {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(value).ok()?);
        }
        Some(headers)
    };
    let forwarded = of(&[
        ("x-forwarded-method", method),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", host),
        ("x-forwarded-uri", target),
    ]);
    let url = format!("https://{host}{target}");
    let original = of(&[("x-original-method", method), ("x-original-url", &url)]);
    let plain = of(&[("host", host), ("x-forwarded-proto", "https")]);
    Some(Put { forwarded: forwarded?, original: original?, plain: plain? })
}

impl Put {
    fn read_by_all<'a>(
        &'a self,
        method: &Method,
        target: &'a str,
    ) -> Vec<Result<AccessRequest<'a>, CheckError>> {
        let Self { forwarded, original, plain } = self;
        let mut read =
            vec![traefik::parse(forwarded), caddy::parse(forwarded), envoy::parse(method, target, plain)];
        // nginx refuses a target without a slash. In `X-Original-URL`, the target would be read as part of the
        // host.
        if target.starts_with('/') {
            read.push(nginx::parse(original));
        }
        read
    }
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("authorization".to_owned()),
        Just("origin".to_owned()),
        Just("mcp-name".to_owned()),
        Just("mcp-method".to_owned()),
        Just("x_auth_subject".to_owned()),
        Just("x-forwarded-prefix".to_owned()),
        Just("connection".to_owned()),
        "[a-z_.!-]{1,12}",
    ]
}

proptest! {
    /// All parsers read the same request from the checks of the different proxies, and no input makes a parser
    /// panic.
    #[test]
    fn a072_every_parser_reads_a_request_alike_or_refuses_it(
        method in prop_oneof![Just("POST".to_owned()), Just("GET".to_owned()), "[A-Za-z]{1,8}"],
        host in prop_oneof![Just("mcp.example".to_owned()), "[a-zA-Z0-9.:@\\[\\], -]{0,20}"],
        target in prop_oneof![Just("/mcp".to_owned()), "[/a-z.%0-9;?#\\\\ ]{0,20}", "\\PC{0,20}"],
        client in proptest::collection::vec((names(), proptest::collection::vec(any::<u8>(), 0..20)), 0..4),
    ) {
        let asked = Method::from_bytes(method.as_bytes()).unwrap();
        let Some(put) = put(&method, &host, &target, &client) else { return Ok(()) };
        let read = put.read_by_all(&asked, &target);
        for result in &read {
            if let (Ok(asked), Ok(other)) = (result, read.first().unwrap()) {
                prop_assert_eq!(asked, other);
            }
            prop_assert_eq!(result.is_ok(), read.first().unwrap().is_ok());
        }
        if let Some(Ok(asked)) = read.first() {
            prop_assert_eq!(asked.method.as_str(), method);
            prop_assert_eq!(asked.path.as_str(), target.split('?').next().unwrap());
            let doubled = client.iter().filter(|(name, _)| name == "mcp-name").count();
            prop_assert!(doubled <= 1);
        }
    }
}

#[test]
fn a072_bytes_that_no_target_can_have_are_refused_by_every_parser() {
    for target in ["/mcp?é", "/é", "/mcp?\u{840}"] {
        let put = put("POST", "mcp.example", target, &[]).unwrap();
        assert!(put.read_by_all(&Method::POST, target).iter().all(Result::is_err), "{target}");
    }
}
