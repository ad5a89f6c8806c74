//! Tests of the check at Traefik's entry point, where it also covers auth-service's own pages and endpoints.

use reqwest::{RequestBuilder, Response, StatusCode};

use super::app::{EDGE_SECRET, TestApp};

const ENTRY_POINT: &str = "traefik/entry-point";

fn ask(app: &TestApp, method: &str, host: &str, target: &str) -> RequestBuilder {
    app.check_by(ENTRY_POINT, method, host, target)
}

fn with_credentials(request: RequestBuilder) -> RequestBuilder {
    let lines = [
        ("authorization", "Basic a"),
        ("authorization", "Basic b"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("dpop", "p"),
    ];
    lines.into_iter().fold(request, |request, (name, value)| request.header(name, value))
}

fn values(response: &Response, name: &str) -> Vec<String> {
    response.headers().get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[actix_web::test]
async fn what_only_auth_service_answers_passes_with_its_credentials_and_without_an_identity() {
    let app = TestApp::start().await;
    for (method, host, target) in [
        ("GET", "auth.example", "/authorize?client_id=x"),
        ("POST", "auth.example", "/token"),
        ("PUT", "auth.example", "/register/abc"),
        ("GET", "auth.example:443", "/login"),
        ("PATCH", "auth.example", "/consent"),
        ("GET", "mcp.example", "/.well-known/oauth-protected-resource/mcp"),
        ("GET", "mcp.example", "/token"),
    ] {
        let response = with_credentials(ask(&app, method, host, target)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{method} {host} {target}");
        assert_eq!(values(&response, "authorization"), ["Basic a", "Basic b"], "{target}");
        assert_eq!(values(&response, "cookie"), ["a=1", "b=2"], "{target}");
        assert_eq!(values(&response, "dpop"), ["p"], "{target}");
        for name in &auth_service::forward_auth::IDENTITY {
            assert!(!response.headers().contains_key(name.as_str()), "{target}: {name}");
        }
    }
    for target in ["/mcp", "/login", "/anything"] {
        let response = with_credentials(ask(&app, "OPTIONS", "mcp.example", target)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{target}");
        for name in ["authorization", "cookie", "dpop", "x-auth-subject"] {
            assert!(values(&response, name).is_empty(), "{target}: {name}");
        }
    }
}

#[actix_web::test]
async fn a_service_gets_no_credential_back() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let token = app.tokens(&client).await.access;
    let request = ask(&app, "POST", "mcp.example", "/mcp").bearer_auth(&token).header("cookie", "a=1");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(values(&response, "x-auth-subject").len(), 1);
    for name in ["authorization", "cookie", "dpop", "x-edge-secret"] {
        assert!(values(&response, name).is_empty(), "{name}");
    }
}

#[actix_web::test]
async fn a077_what_is_in_doubt_is_judged_as_a_request_to_a_service() {
    let app = TestApp::start().await;
    for (method, host, target) in [
        ("GET", "mcp.example", "/mcp"),
        ("GET", "mcp.example", "/logins"),
        ("GET", "mcp.example", "/mcp/login"),
        ("GET", "mcp.example", "/mcp?/login"),
        ("GET", "mcp.example", "/login%2f"),
        ("GET", "mcp.example", "/login/../mcp"),
        ("GET", "mcp.example", "/login/%2e%2e/mcp"),
        ("GET", "mcp.example", "/%6cogin"),
        ("GET", "mcp.example", "//login"),
        ("GET", "mcp.example", "/login;x"),
        ("GET", "mcp.example", "/login\\..\\mcp"),
        ("GET", "mcp.example", "login"),
        ("GET", "mcp.example", "https://mcp.example/login"),
        ("GET", "mcp.example", "*"),
        ("GET", "evil.example", "/login"),
        ("GET", "auth.example@mcp.example", "/login"),
        ("GET", "auth.example, mcp.example", "/login"),
        ("options", "mcp.example", "/mcp"),
        ("OPTIONS", "evil.example", "/mcp"),
        ("OPTIONS", "mcp.example", "/mcp/../x"),
    ] {
        let response = ask(&app, method, host, target).send().await.unwrap();
        assert!(response.status().is_client_error(), "{method} {host} {target}: {response:?}");
    }
    for (name, value) in [
        ("x-forwarded-uri", "/login"),
        ("x-forwarded-host", "mcp.example"),
        ("x-forwarded-method", "GET"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", "/mcp"),
        ("x_forwarded_uri", "/mcp"),
    ] {
        let doubled = ask(&app, "GET", "mcp.example", "/login").header(name, value);
        assert!(doubled.send().await.unwrap().status().is_client_error(), "{name} twice");
    }
    let mut plain = ask(&app, "GET", "mcp.example", "/login").build().unwrap();
    plain.headers_mut().insert("x-forwarded-proto", "http".parse().unwrap());
    assert_eq!(app.http.execute(plain).await.unwrap().status(), StatusCode::BAD_REQUEST);
}

#[actix_web::test]
async fn a069_own_pages_pass_only_where_the_entry_point_of_the_edge_asks() {
    let app = TestApp::start().await;
    for proxy in ["traefik", "caddy", "nginx", "envoy"] {
        let request = app.check_by(proxy, "GET", "mcp.example", "/login");
        assert_eq!(request.send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{proxy}");
    }
    for secret in [None, Some("another")] {
        let mut request = with_credentials(ask(&app, "GET", "mcp.example", "/login")).build().unwrap();
        assert_eq!(request.headers_mut().remove("x-edge-secret").unwrap(), EDGE_SECRET);
        secret.map(|secret| request.headers_mut().insert("x-edge-secret", secret.parse().unwrap()));
        let response = app.http.execute(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(values(&response, "cookie").is_empty(), "{response:?}");
    }
}
