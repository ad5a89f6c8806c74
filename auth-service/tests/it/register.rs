//! `/register` (RFC 7591).

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::app::{TestApp, error_code};

#[actix_web::test]
async fn a_public_client_gets_everything_echoed_and_no_secret() {
    let app = TestApp::start().await;
    let response = app.register(&json!({
        "redirect_uris": ["http://localhost:33418/cb", "https://app.example/cb"], "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token", "urn:example:unknown"], "response_types": ["code"],
        "client_name": "Näme", "client_uri": "https://app.example", "scope": "mcp unheard_of", "x_unknown": { "a": 1 },
    })).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["token_endpoint_auth_method"], "none");
    assert_eq!(body["grant_types"], json!(["authorization_code", "refresh_token"]));
    assert_eq!(body["scope"], "mcp");
    assert_eq!(body["client_name"], "Näme");
    assert!(body["client_id_issued_at"].is_u64());
    assert!(body.get("client_secret").is_none() && body.get("x_unknown").is_none());
}

#[actix_web::test]
async fn a044_a_client_that_registers_on_every_connect_stays_one_client() {
    let app = TestApp::start().await;
    let first = app.client().await;
    for _ in 0..20 {
        assert_eq!(app.client().await, first);
    }
}

#[actix_web::test]
async fn a_confidential_client_gets_its_own_secret_each_time() {
    let app = TestApp::start().await;
    let metadata = json!({ "redirect_uris": ["https://app.example/cb"] });
    let one: Value = app.register(&metadata).await.json().await.unwrap();
    let two: Value = app.register(&metadata).await.json().await.unwrap();
    assert_eq!(one["token_endpoint_auth_method"], "client_secret_basic");
    assert_eq!(one["client_secret_expires_at"], 0);
    assert!(one["client_secret"].as_str().unwrap().starts_with("mgk_"));
    assert_ne!(one["client_id"], two["client_id"]);
}

#[actix_web::test]
async fn what_cannot_be_registered_is_refused_with_the_code_of_the_rfc() {
    let app = TestApp::start().await;
    let refused = app.register(&json!({ "redirect_uris": ["http://app.example/cb"] })).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(error_code(refused).await, "invalid_redirect_uri");
    for (content_type, body) in [
        ("text/plain", "{}"),
        ("application/json", "{"),
        ("application/x-www-form-urlencoded", "redirect_uris=x"),
    ] {
        let refused = app
            .http
            .post(format!("{}/register", app.public))
            .header("content-type", content_type)
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        assert_eq!(error_code(refused).await, "invalid_client_metadata");
    }
}

#[actix_web::test]
async fn a040_oversize_and_deep_bodies_are_refused() {
    let app = TestApp::start().await;
    for body in [format!("{{\"client_name\":\"{}\"}}", "x".repeat(100_000)), "[".repeat(60_000)] {
        let response = app
            .http
            .post(format!("{}/register", app.public))
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        assert!(response.status().is_client_error(), "{}", response.status());
    }
}
