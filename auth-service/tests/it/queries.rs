//! Tests of MCP URLs with a query (`/mcp?toolset=a`), which several vendors publish. The metadata for such a URL
//! contains the query (RFC 9728 §3.1 and §3.3, RFC 8707 §2), but the token is issued for the resource without the
//! query.

use auth_service::domain::client::{GrantType, OperatorTerms};
use auth_service::operator::NewClient;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::app::{CHALLENGE, REDIRECT, RESOURCE, TestApp, Tokens, VERIFIER, authorize_query, error_code};
use super::machines::{claims, enter, new_client, resource};

const QUERIED: &str = "https://mcp.example/mcp?toolset=a&list[]=1,2/3?%20'{}|";

/// The `resource_metadata` URL of a challenge.
fn metadata_url(response: &Response) -> String {
    let challenge = response.headers()["www-authenticate"].to_str().unwrap();
    challenge.split_once("resource_metadata=\"").unwrap().1.split('"').next().unwrap().to_owned()
}

/// Fetches the document at a `resource_metadata` URL. The URL is sent byte for byte, because an HTTP library would
/// normalize it.
async fn document(app: &TestApp, url: &str) -> (u16, Value) {
    let (host, target) = url.strip_prefix("https://").unwrap().split_once('/').unwrap();
    let request = format!("GET /{target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let (status, body) = app.raw_public(&request).await;
    (status, serde_json::from_str(&body).unwrap_or_default())
}

#[actix_web::test]
async fn a_challenge_and_its_document_carry_the_query_through_every_proxy() {
    let app = TestApp::start().await;
    for proxy in ["traefik", "caddy", "nginx", "envoy"] {
        for (target, expected) in [
            ("/mcp?toolset=a", "/.well-known/oauth-protected-resource/mcp?toolset=a"),
            ("/mcp", "/.well-known/oauth-protected-resource/mcp"),
            ("/mcp?", "/.well-known/oauth-protected-resource/mcp"),
            ("/a/b?x=1&x=2&y", "/.well-known/oauth-protected-resource/a/b?x=1&x=2&y"),
            (
                "/mcp?u=https://a.example/b?c=%22",
                "/.well-known/oauth-protected-resource/mcp?u=https://a.example/b?c=%22",
            ),
            ("/?x=1", "/.well-known/oauth-protected-resource?x=1"),
        ] {
            let refused = app.check_by(proxy, "POST", "mcp.example", target).send().await.unwrap();
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{proxy} {target}");
            let url = metadata_url(&refused);
            assert_eq!(url, format!("https://mcp.example{expected}"), "{proxy} {target}");
            let (status, document) = document(&app, &url).await;
            let asked = target.strip_suffix('?').unwrap_or(target);
            assert_eq!((status, &document["resource"]), (200, &json!(format!("https://mcp.example{asked}"))));
        }
    }
}

#[actix_web::test]
async fn a_resource_with_a_query_is_that_without_it_in_every_request() {
    let app = TestApp::start_with(&[("ADDITIONAL_GRANTS", "client_credentials, device_code")]).await;
    let client = app.client().await;
    let query = authorize_query(&client, &[("resource", QUERIED)]);
    let code = app.browser_of("ana").await.allow(&query).await;
    let form = |grant: &'static str, name: &'static str, value: &str, resource: &str| {
        [
            ("grant_type", grant),
            ("client_id", &client),
            (name, value),
            ("code_verifier", VERIFIER),
            ("resource", resource),
        ]
        .map(|(name, value)| (name, value.to_owned()))
    };
    let send = async |form: [(&'static str, String); 5]| {
        app.http.post(format!("{}/token", app.public)).form(&form).send().await.unwrap()
    };
    let response = send(form("authorization_code", "code", &code, QUERIED)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut tokens = Tokens::of(response).await;
    for resource in [QUERIED, "https://mcp.example/mcp?other", RESOURCE, ""] {
        let response = send(form("refresh_token", "refresh_token", &tokens.refresh, resource)).await;
        assert_eq!(response.status(), StatusCode::OK, "{resource}");
        tokens = Tokens::of(response).await;
        assert_eq!(claims(&tokens.access)["aud"], json!([RESOURCE]), "{resource}");
    }
    for target in ["/mcp", "/mcp?toolset=a", "/mcp?toolset=b", "/mcp?%zz\"<>"] {
        for proxy in ["traefik", "nginx"] {
            let check = app.check_by(proxy, "POST", "mcp.example", target).bearer_auth(&tokens.access);
            assert_eq!(check.send().await.unwrap().status(), StatusCode::OK, "{proxy} {target}");
        }
    }

    let pushed = [
        ("client_id", client.as_str()),
        ("response_type", "code"),
        ("redirect_uri", REDIRECT),
        ("resource", QUERIED),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    let pushed = app.http.post(format!("{}/par", app.public)).form(&pushed).send().await.unwrap();
    assert_eq!(pushed.status(), StatusCode::CREATED);

    let credentials = NewClient {
        grant_types: vec![GrantType::ClientCredentials, GrantType::DeviceCode],
        terms: OperatorTerms { resources: vec![resource(RESOURCE)], ..OperatorTerms::default() },
        ..new_client("machine")
    };
    let (id, secret) = enter(&app, credentials).await;
    for (path, grant) in [("token", "client_credentials"), ("device_authorization", "")] {
        let request = app.http.post(format!("{}/{path}", app.public)).basic_auth(&id, Some(&secret));
        let response = request.form(&[("grant_type", grant), ("resource", QUERIED)]).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
}

#[actix_web::test]
async fn a_query_that_no_header_can_carry_is_left_out_of_the_challenge_and_no_resource() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let long = format!("x={}", "a".repeat(2047));
    for query in ["a=\"b\"", "a=b\\", "<a>", &long] {
        let target = format!("/mcp?{query}");
        for proxy in ["traefik", "nginx"] {
            let refused = app.check_by(proxy, "POST", "mcp.example", &target).send().await.unwrap();
            let expected = "https://mcp.example/.well-known/oauth-protected-resource/mcp";
            assert_eq!(metadata_url(&refused), expected, "{proxy} {query}");
        }
        let url = format!("https://mcp.example{target}");
        let form = [
            ("client_id", client.as_str()),
            ("response_type", "code"),
            ("redirect_uri", REDIRECT),
            ("resource", &url),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        let refused = app.http.post(format!("{}/par", app.public)).form(&form).send().await.unwrap();
        assert_eq!(error_code(refused).await, "invalid_target", "{query}");
    }
    let mut browser = app.browser_of("ana").await;
    browser.allow(&authorize_query(&client, &[])).await;
    for resource in [
        "https://mcp.example/mcp?a#b",
        "https://mcp.example/mcp#b",
        "https://evil.example/mcp?a",
        "https://mcp.example@evil.example?a",
    ] {
        let query = authorize_query(&client, &[("resource", resource)]);
        let page = browser.open(&format!("/authorize?{query}")).await;
        assert_eq!(page.parameter("error").as_deref(), Some("invalid_target"), "{resource}");
    }
    // A client that derives the document's URL from its own URL gets the same document as a client that follows
    // the challenge.
    let url = "https://mcp.example/.well-known/oauth-protected-resource/mcp";
    assert_eq!(document(&app, &format!("{url}?{long}")).await, document(&app, url).await);
    let odd = app
        .http
        .request(Method::GET, format!("{}/.well-known/oauth-protected-resource/mcp?a=%22", app.public));
    assert_eq!(odd.header("host", "mcp.example").send().await.unwrap().status(), StatusCode::OK);
}

#[actix_web::test]
async fn a_url_with_a_slash_at_its_end_is_described_as_the_client_wrote_it() {
    let app = TestApp::start().await;
    let refused = app.check_by("traefik", "POST", "mcp.example", "/mcp/?a=1").send().await.unwrap();
    let url = metadata_url(&refused);
    assert_eq!(url, "https://mcp.example/.well-known/oauth-protected-resource/mcp/?a=1");
    let (_, document) = document(&app, &url).await;
    assert_eq!(document["resource"], "https://mcp.example/mcp/?a=1");
    let client = app.client().await;
    let query = authorize_query(&client, &[("resource", "https://mcp.example/mcp/?a=1")]);
    let code = app.browser_of("ana").await.allow(&query).await;
    let token = Tokens::of(app.redeem(&client, &code).await).await.access;
    assert_eq!(claims(&token)["aud"], json!([RESOURCE]));
    for target in ["/mcp", "/mcp/", "/mcp/?a=1"] {
        let check = app.check_by("traefik", "POST", "mcp.example", target).bearer_auth(&token);
        assert_eq!(check.send().await.unwrap().status(), StatusCode::OK, "{target}");
    }
}
