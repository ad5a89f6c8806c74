//! Tests of the responses to web pages whose requests are refused before they reach their endpoint.

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, Response, StatusCode};

use super::app::TestApp;

/// The endpoints that web pages can call.
const FOR_WEB_PAGES: [(Method, &str); 9] = [
    (Method::GET, "/.well-known/oauth-authorization-server"),
    (Method::GET, "/.well-known/openid-configuration"),
    (Method::GET, "/.well-known/oauth-protected-resource/mcp"),
    (Method::GET, "/jwks"),
    (Method::POST, "/token"),
    (Method::POST, "/revoke"),
    (Method::POST, "/device_authorization"),
    (Method::POST, "/par"),
    (Method::POST, "/register"),
];
/// The pages and endpoints that no web page of another origin can call.
const FOR_NO_WEB_PAGE: [(Method, &str); 3] =
    [(Method::GET, "/login"), (Method::POST, "/consent"), (Method::POST, "/introspect")];

/// A request from a web page of another origin, with this last byte of the client's address.
fn request(app: &TestApp, method: &Method, target: &str, from: usize) -> RequestBuilder {
    app.http
        .request(method.clone(), format!("{}{target}", app.public))
        .header("origin", "https://inspector.example")
        .header("x-forwarded-for", format!("198.51.100.{from}"))
}

/// Whether a web page can read the response, including its `Retry-After` and `WWW-Authenticate`.
fn is_readable(answer: &Response) -> bool {
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("access-control-allow-credentials"), None, "{answer:?}");
    match header("access-control-allow-origin") {
        None => false,
        Some(origin) => {
            assert_eq!(origin, "*", "{answer:?}");
            let exposed = header("access-control-expose-headers").unwrap();
            assert!(exposed.contains("retry-after") && exposed.contains("www-authenticate"), "{exposed}");
            true
        }
    }
}

/// All methods and paths, and whether web pages can call them.
fn all() -> impl Iterator<Item = (Method, &'static str, bool)> {
    let readable = FOR_WEB_PAGES.into_iter().map(|(method, path)| (method, path, true));
    readable.chain(FOR_NO_WEB_PAGE.into_iter().map(|(method, path)| (method, path, false)))
}

#[actix_web::test]
async fn a097_a_web_page_can_read_why_its_request_is_refused_early() {
    let app = TestApp::start().await;
    let (long, large) = ("a".repeat(9000), "a".repeat(17_000));
    for (method, path, readable) in all() {
        let answer = request(&app, &method, &format!("{path}?{long}"), 1).send().await.unwrap();
        assert_eq!((answer.status(), is_readable(&answer)), (StatusCode::URI_TOO_LONG, readable), "{path}");
        if method == Method::POST {
            let answer = request(&app, &method, path, 1).body(large.clone()).send().await.unwrap();
            let seen = (answer.status(), is_readable(&answer));
            assert_eq!(seen, (StatusCode::PAYLOAD_TOO_LARGE, readable), "{path}");
        }
    }
    // The response to a refused preflight gets no headers that allow access.
    let target = format!("/token?{long}");
    let preflight =
        request(&app, &Method::OPTIONS, &target, 1).header("access-control-request-method", "POST");
    assert!(!is_readable(&preflight.send().await.unwrap()));
    let slow = "POST /token HTTP/1.1\r\nHost: auth.example\r\nOrigin: https://a.example\r\nContent-Length: 9\r\n\r\na";
    let head = app.raw_public_head(slow).await;
    assert!(head.starts_with("HTTP/1.1 408") && head.contains("access-control-allow-origin: *"), "{head}");
}

#[actix_web::test]
async fn a097_a_web_page_can_read_that_the_endpoints_get_too_many_requests() {
    let app = TestApp::start_with(&[("REQUESTS_PER_SECOND", "1")]).await;
    for (from, (method, path, readable)) in all().enumerate() {
        let answers = join_all((0..6).map(|_| request(&app, &method, path, from).send())).await;
        let mut answers = answers.into_iter().map(Result::unwrap);
        let refused = answers.find(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS).unwrap();
        assert_eq!(is_readable(&refused), readable, "{path}");
        assert_eq!(refused.headers()["retry-after"], "1", "{path}");
    }
}
