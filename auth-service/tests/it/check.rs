//! Tests of the check and of its response to the edge.

use std::time::Duration;

use auth_service::domain::refresh_token::RefreshToken;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::app::{EDGE_SECRET, TestApp};

const IDENTITY: [&str; 7] = [
    "x-auth-subject",
    "x-auth-username",
    "x-auth-email",
    "x-auth-groups",
    "x-auth-client-id",
    "x-auth-scope",
    "x-auth-assertion",
];

fn challenge(response: &Response) -> String {
    response.headers()["www-authenticate"].to_str().unwrap().to_owned()
}

#[actix_web::test]
async fn a076_an_allowed_request_carries_every_identity_header() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let response = app.check_token(&tokens.access).await;
    assert_eq!(response.status(), StatusCode::OK);
    for name in IDENTITY {
        assert!(response.headers().contains_key(name), "{name}");
    }
    assert_eq!(response.headers()["x-auth-groups"], "staff,ops");
    assert_eq!(response.headers()["x-auth-client-id"], client.as_str());
    assert_eq!(response.headers()["x-auth-assertion"].to_str().unwrap().split('.').count(), 3);
}

#[actix_web::test]
async fn without_a_token_every_method_gets_a_challenge_without_error() {
    let app = TestApp::start().await;
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let response = app.check(method, "mcp.example", "/mcp").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let expected = "Bearer resource_metadata=\"https://mcp.example/.well-known/oauth-protected-resource/mcp\", scope=\"mcp\"";
        assert_eq!(challenge(&response), expected);
        assert_eq!(response.headers()["cache-control"], "no-store");
    }
}

#[actix_web::test]
async fn a_token_that_does_not_count_is_an_invalid_token() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let (head, signature) = tokens.access.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let flipped = format!("{first}{}", &signature[1..]);
    for bad in ["garbage", &format!("{head}.{flipped}"), &format!("{head}."), &tokens.refresh] {
        let response = app.check_token(bad).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(challenge(&response).starts_with("Bearer error=\"invalid_token\""), "{bad}");
    }
    let elsewhere =
        app.check(Method::POST, "other.example", "/mcp").bearer_auth(&tokens.access).send().await.unwrap();
    assert!(challenge(&elsewhere).contains("issued for another resource"));
    app.wait(Duration::from_secs(3600));
    assert!(challenge(&app.check_token(&tokens.access).await).contains("expired"));
}

#[actix_web::test]
async fn a069_a_check_from_a_stranger_is_refused() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let url = format!("{}/verify/envoy/mcp", app.edge);
    for secrets in [&[][..], &["wrong"], &[EDGE_SECRET, EDGE_SECRET], &[""]] {
        let request = app.http.post(&url).header("host", "mcp.example").bearer_auth(&tokens.access);
        let request =
            secrets.iter().fold(request, |request, secret| request.header("x-edge-secret", *secret));
        assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN, "{secrets:?}");
    }
}

#[actix_web::test]
async fn a071_a072_a078_what_has_two_readings_is_refused() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let token = app.tokens(&client).await.access;
    for (host, target) in [
        ("mcp.example", "//mcp"),
        ("mcp.example", "/mcp%2fx"),
        ("mcp.example", "/mcp;x=1"),
        ("mcp.example", "/mcp%00"),
        ("mcp.example", "/mcp/%252e"),
        ("unknown.example", "/mcp"),
        ("mcp.example.evil.example", "/mcp"),
        ("mcp.example:8443:1", "/mcp"),
        ("", "/mcp"),
    ] {
        let response = app.check(Method::POST, host, target).bearer_auth(&token).send().await.unwrap();
        assert!(
            response.status().is_client_error() && response.status() != StatusCode::UNAUTHORIZED,
            "{host}{target}: {}",
            response.status()
        );
    }
    let spelled =
        app.check(Method::POST, "MCP.Example.:443", "/mcp?x=//").bearer_auth(&token).send().await.unwrap();
    assert_eq!(spelled.status(), StatusCode::OK);
    let other_proxy = app
        .http
        .get(format!("{}/verify/unheard_of/mcp", app.edge))
        .header("x-edge-secret", EDGE_SECRET)
        .send()
        .await
        .unwrap();
    assert_eq!(other_proxy.status(), StatusCode::NOT_FOUND);
}

#[actix_web::test]
async fn a034_a_disabled_or_revoked_owner_is_refused() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let refresh = RefreshToken::parse(&tokens.refresh).unwrap().presented();
    let grant = app.state.store.grant_of_refresh(&refresh, app.state.now()).await.unwrap().unwrap();
    app.state.store.revoke_grant(&grant.id).await.unwrap();
    let response = app.check_token(&tokens.access).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(challenge(&response).contains("revoked"));
}

#[actix_web::test]
async fn a057_a060_a062_a063_a_signature_of_ours_is_not_enough() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let token = app.tokens(&client).await.access;
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let good: Value = serde_json::from_slice(&payload).unwrap();
    let now = app.state.now().0;
    let signed = |claims: &Value| app.state.keys.sign("at+jwt", claims).unwrap();
    assert_eq!(app.check_token(&signed(&good)).await.status(), StatusCode::OK);
    for (name, value) in [
        ("exp", json!("9999999999")),
        ("exp", json!(9_999_999_999.5)),
        ("exp", Value::Null),
        ("exp", json!(-1)),
        ("exp", json!(now)),
        ("iat", json!(now + 301)),
        ("iat", json!("0")),
        ("iss", json!("https://auth.example.evil.example")),
        ("iss", json!("https://auth.exampl")),
        ("iss", json!("https://auth.example/")),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("aud", json!("https://mcp.example/mcp")),
        ("aud", json!([["https://mcp.example/mcp"]])),
        ("aud", json!(["https://mcp.example/mc"])),
        ("aud", json!(["https://mcp.example/mcp-other"])),
        ("aud", json!(["https://mcp.example.evil/mcp"])),
        ("sub", json!("usr_someone_else")),
        ("client_id", json!("mcp_another")),
        ("gid", json!("grt_unknown")),
        ("gid", Value::Null),
        ("scope", json!(["mcp"])),
        ("scope", json!("mcp\"")),
    ] {
        let mut claims = good.clone();
        claims[name] = value.clone();
        let refused = app.check_token(&signed(&claims)).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{name}={value}");
        assert!(challenge(&refused).contains("invalid_token"));
    }
    let mut narrowed = good.clone();
    narrowed["scope"] = json!("mcp:read");
    assert_eq!(app.check_token(&signed(&narrowed)).await.status(), StatusCode::FORBIDDEN);
    // The same claims with another `typ` header do not make an access token.
    let assertion = app.state.keys.sign("mcp-assertion+jwt", &good).unwrap();
    assert_eq!(app.check_token(&assertion).await.status(), StatusCode::UNAUTHORIZED);
}

#[actix_web::test]
async fn a089_no_path_near_a_well_known_one_is_exempt() {
    let app = TestApp::start().await;
    for target in [
        "/.well-known/../mcp",
        "/.well-known/oauth-protected-resource/../../mcp",
        "/.well-known/%2e%2e/mcp",
        "/.well-known//mcp",
    ] {
        assert_eq!(app.raw_check(target).await, 400, "{target}");
    }
    let exact =
        app.check(Method::GET, "mcp.example", "/.well-known/oauth-protected-resource").send().await.unwrap();
    assert_eq!(exact.status(), StatusCode::UNAUTHORIZED);
}

/// Without these headers, the page learns nothing, not even when to try again.
#[actix_web::test]
async fn a097_a_web_page_can_read_that_it_has_sent_too_many_requests() {
    let app = TestApp::start_with(&[("REQUESTS_PER_SECOND", "1")]).await;
    for proxy in ["caddy", "traefik"] {
        let from = if proxy == "caddy" { "198.51.100.7:555" } else { "198.51.100.8" };
        let check = |origin: &'static str| {
            app.check_by(proxy, "POST", "mcp.example", "/mcp")
                .header("x-forwarded-for", from)
                .header("origin", origin)
        };
        let all = join_all((0..30).map(|_| check("https://app.example").send())).await;
        let mut refused = all.into_iter().map(Result::unwrap);
        let last = refused.find(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS).unwrap();
        let allowed = last.headers().get("access-control-allow-origin").unwrap();
        assert_eq!(allowed, "*", "{proxy}");
        assert!(last.headers()["access-control-expose-headers"].to_str().unwrap().contains("Retry-After"));
        let odd = check("not an origin").send().await.unwrap();
        assert!(odd.headers().get("access-control-allow-origin").is_none(), "{odd:?}");
    }
}
