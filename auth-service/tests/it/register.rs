//! Tests of `/register` (RFC 7591).

use auth_service::domain::client::GrantType;
use auth_service::operator::{Command, NewClient, Reply};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::app::{REDIRECT, TestApp, error_code};
use super::machines::new_client;
use super::operator::ask;

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

#[actix_web::test]
async fn a_member_that_says_nothing_is_as_good_as_none() {
    let app = TestApp::start().await;
    let plain = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    let known: Value = app.register(&plain).await.json().await.unwrap();
    for nothing in [json!(""), Value::Null] {
        let mut metadata = plain.clone();
        for name in [
            "client_name",
            "client_uri",
            "logo_uri",
            "policy_uri",
            "tos_uri",
            "software_id",
            "software_version",
            "scope",
            "application_type",
            "jwks_uri",
        ] {
            metadata[name] = nothing.clone();
        }
        for name in ["contacts", "grant_types", "response_types", "dpop_bound_access_tokens", "jwks"] {
            metadata[name] = Value::Null;
        }
        let response = app.register(&metadata).await;
        assert_eq!(response.status(), StatusCode::CREATED, "{nothing}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["client_id"], known["client_id"], "the same client: {body}");
        assert!(body.get("logo_uri").is_none() && body.get("client_name").is_none(), "{body}");
    }
    let mut device = json!({ "redirect_uris": null, "token_endpoint_auth_method": "", "grant_types": ["authorization_code"] });
    assert_eq!(error_code(app.register(&device).await).await, "invalid_redirect_uri");
    device["redirect_uris"] = json!([REDIRECT]);
    let body: Value = app.register(&device).await.json().await.unwrap();
    assert_eq!(body["token_endpoint_auth_method"], "client_secret_basic");
}

/// Redirect URIs whose query contains a parameter of authorization responses (RFC 6749 §4.1.2, RFC 9207 §2). Two
/// parsers of the response could then read different values.
const ANSWERS: [&str; 9] = [
    "https://app.example/cb?code=x",
    "https://app.example/cb?x=1&state=y",
    "https://app.example/cb?iss=https://evil.example",
    "https://app.example/cb?error=access_denied",
    "https://app.example/cb?%63ode=x",
    "https://app.example/cb?Code=x",
    "https://app.example/cb?code[]=x",
    "http://localhost/cb?response=eyJ",
    "https://app.example/cb?access_token",
];

#[actix_web::test]
async fn a001_a_redirect_uri_does_not_carry_a_part_of_an_answer() {
    let app = TestApp::start().await;
    for uri in ANSWERS {
        let refused = app.register(&json!({ "redirect_uris": [REDIRECT, uri] })).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{uri}");
        let body: Value = refused.json().await.unwrap();
        assert_eq!(body["error"], "invalid_redirect_uri", "{uri}");
        assert!(body["error_description"].as_str().unwrap().contains("authorization response"), "{body}");
        let new = NewClient {
            grant_types: vec![GrantType::AuthorizationCode],
            redirect_uris: vec![uri.to_owned().try_into().unwrap()],
            ..new_client("app")
        };
        assert!(matches!(ask(&app, Command::AddClient(new)).await, Reply::Refused(_)), "{uri}");
    }
    for uri in ["https://app.example/cb?codec=x&states=y", "https://app.example/code/state?provider=code"] {
        let registered = app.register(&json!({ "redirect_uris": [uri] })).await;
        assert_eq!(registered.status(), StatusCode::CREATED, "{uri}");
    }
}
