//! Tests of the metadata documents (RFC 8414, RFC 9728), and of health, readiness, version and metrics.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::app::{self, REDIRECT, TestApp, Tokens, VERIFIER, authorize_query};

async fn get(app: &TestApp, host: &str, path: &str) -> (StatusCode, Value) {
    let response = app.http.get(format!("{}{path}", app.public)).header("host", host).send().await.unwrap();
    (response.status(), response.json().await.unwrap_or_default())
}

#[actix_web::test]
async fn the_server_says_what_it_can() {
    let app = TestApp::start().await;
    let (status, document) = get(&app, "auth.example", "/.well-known/oauth-authorization-server").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(document["issuer"], "https://auth.example");
    assert_eq!(document["registration_endpoint"], "https://auth.example/register");
    assert_eq!(document["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(document["authorization_response_iss_parameter_supported"], true);
    assert!(!document["scopes_supported"].as_array().unwrap().contains(&json!("offline_access")));
}

#[actix_web::test]
async fn an_issuer_with_a_path_is_found_in_all_three_places() {
    let app = TestApp::start_with(&[("ISSUER", "https://auth.example/tenant1")]).await;
    for path in [
        "/.well-known/oauth-authorization-server/tenant1",
        "/.well-known/openid-configuration/tenant1",
        "/tenant1/.well-known/openid-configuration",
    ] {
        let (status, document) = get(&app, "auth.example", path).await;
        assert_eq!(
            (status, &document["issuer"]),
            (StatusCode::OK, &json!("https://auth.example/tenant1")),
            "{path}"
        );
        assert_eq!(document["token_endpoint"], "https://auth.example/tenant1/token");
    }
    assert_eq!(
        get(&app, "auth.example", "/.well-known/oauth-authorization-server").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(get(&app, "auth.example", "/tenant1/jwks").await.0, StatusCode::OK);
}

#[actix_web::test]
async fn a025_the_host_header_never_reaches_the_issuer() {
    let app = TestApp::start().await;
    let (_, document) = get(&app, "evil.example", "/.well-known/oauth-authorization-server").await;
    assert!(!document.to_string().contains("evil.example"));
}

#[actix_web::test]
async fn protected_resources_are_described_at_root_and_path() {
    let app = TestApp::start().await;
    for (host, path, resource) in [
        ("mcp.example", "/.well-known/oauth-protected-resource/mcp", "https://mcp.example/mcp"),
        ("MCP.example:443", "/.well-known/oauth-protected-resource/mcp", "https://mcp.example/mcp"),
        ("other.example", "/.well-known/oauth-protected-resource/a/b", "https://other.example/a/b"),
        ("mcp.example", "/.well-known/oauth-protected-resource", "https://mcp.example"),
        ("mcp.example", "/.well-known/oauth-protected-resource/", "https://mcp.example"),
    ] {
        let (status, document) = get(&app, host, path).await;
        assert_eq!(status, StatusCode::OK, "{host}{path}");
        assert_eq!(document["resource"], resource);
        assert_eq!(document["authorization_servers"], json!(["https://auth.example"]));
        assert_eq!(document["scopes_supported"], json!(["mcp"]));
    }
}

#[actix_web::test]
async fn whoever_asks_for_the_head_of_a_document_gets_it() {
    let app = TestApp::start_with(&[("ISSUER", "https://auth.example/tenant1")]).await;
    for (host, path) in [
        ("auth.example", "/.well-known/oauth-authorization-server/tenant1"),
        ("auth.example", "/.well-known/openid-configuration/tenant1"),
        ("auth.example", "/tenant1/.well-known/openid-configuration"),
        ("auth.example", "/tenant1/jwks"),
        ("mcp.example", "/.well-known/oauth-protected-resource"),
        ("mcp.example", "/.well-known/oauth-protected-resource/mcp?toolset=a"),
    ] {
        let url = format!("{}{path}", app.public);
        let [head, get] = [Method::HEAD, Method::GET].map(|method| {
            app.http
                .request(method, &url)
                .header("host", host)
                .header("origin", "https://inspector.example")
                .send()
        });
        let (head, get) = (head.await.unwrap(), get.await.unwrap());
        assert_eq!((head.status(), get.status()), (StatusCode::OK, StatusCode::OK), "{path}");
        for name in ["content-type", "content-length", "cache-control", "access-control-allow-origin"] {
            assert_eq!(head.headers()[name], get.headers()[name], "{path}: {name}");
        }
        assert_eq!(head.text().await.unwrap(), "", "{path}");
    }
    for path in ["/health", "/ready", "/version", "/metrics"] {
        let head = app.http.head(format!("{}{path}", app.ops)).send().await.unwrap();
        assert_eq!(head.status(), StatusCode::OK, "{path}");
    }
}

#[actix_web::test]
async fn unknown_hosts_and_odd_paths_are_not_described() {
    let app = TestApp::start().await;
    for (host, path) in [
        ("evil.example", "/.well-known/oauth-protected-resource/mcp"),
        ("mcp.example", "/.well-known/oauth-protected-resource/a//b"),
        ("mcp.example", "/.well-known/oauth-protected-resource/%2e%2e/x"),
        ("mcp.example", "/.well-known/oauth-protected-resourceful"),
    ] {
        assert_eq!(get(&app, host, path).await.0, StatusCode::NOT_FOUND, "{host}{path}");
    }
}

#[actix_web::test]
async fn a097_browsers_may_read_discovery_from_any_origin_without_cookies() {
    let app = TestApp::start().await;
    for (method, path) in [
        (Method::GET, "/.well-known/oauth-authorization-server"),
        (Method::POST, "/token"),
        (Method::POST, "/register"),
    ] {
        let preflight = app
            .http
            .request(Method::OPTIONS, format!("{}{path}", app.public))
            .header("origin", "https://inspector.example")
            .header("access-control-request-method", method.as_str())
            .header("access-control-request-headers", "content-type,mcp-protocol-version")
            .send()
            .await
            .unwrap();
        assert_eq!(preflight.status(), StatusCode::OK, "{path}");
        assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
        assert!(!preflight.headers().contains_key("access-control-allow-credentials"));
    }
    let page = app
        .http
        .get(format!("{}/login", app.public))
        .header("origin", "https://evil.example")
        .send()
        .await
        .unwrap();
    assert!(!page.headers().contains_key("access-control-allow-origin"));
}

#[actix_web::test]
async fn operators_see_health_readiness_version_and_metrics() {
    let app = TestApp::start().await;
    for path in ["/health", "/ready", "/version", "/metrics"] {
        let response = app.http.get(format!("{}{path}", app.ops)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let elsewhere = app.http.get(format!("{}{path}", app.public)).send().await.unwrap();
        assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND, "{path} on the public listener");
    }
}

#[actix_web::test]
async fn a_client_of_2025_03_26_connects_on_the_mcp_host_when_it_has_a_default_resource() {
    for issuer in ["https://auth.example/tenant1", app::ISSUER] {
        let settings = [("ISSUER", issuer), ("DEFAULT_RESOURCE", "https://mcp.example/mcp")];
        let app = TestApp::start_with(&settings).await;
        let (status, document) = get(&app, "mcp.example", "/.well-known/oauth-authorization-server").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(document["issuer"], issuer);
        assert_eq!(document["authorization_endpoint"], "https://mcp.example/authorize");

        let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
        let register = app.http.post(format!("{}/register", app.public)).header("host", "mcp.example");
        let registered = register.json(&metadata).send().await.unwrap();
        assert_eq!(registered.status(), StatusCode::CREATED);
        let client = registered.json::<Value>().await.unwrap()["client_id"].as_str().unwrap().to_owned();

        let query = authorize_query(&client, &[("resource", "")]);
        let authorize =
            app.http.get(format!("{}/authorize?{query}", app.public)).header("host", "mcp.example");
        let redirect = authorize.send().await.unwrap();
        assert_eq!(redirect.status(), StatusCode::SEE_OTHER);
        let location = redirect.headers()["location"].to_str().unwrap();
        assert_eq!(location, format!("{issuer}/authorize?{query}&resource=https%3A%2F%2Fmcp.example%2Fmcp"));

        if issuer != app::ISSUER {
            // The test browser does not support an issuer with a path, so only the target of the redirect is
            // checked there.
            continue;
        }
        let mut browser = app.browser_of("ana").await;
        let page = browser.follow(location.strip_prefix(issuer).unwrap()).await;
        let code = browser.submit(&page, &[("decision", "allow")]).await.parameter("code").unwrap();
        let token = app.http.post(format!("{}/token", app.public)).header("host", "mcp.example");
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", client.as_str()),
            ("code", code.as_str()),
            ("code_verifier", VERIFIER),
            ("redirect_uri", REDIRECT),
        ];
        let tokens = Tokens::of(token.form(&form).send().await.unwrap()).await;
        assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
    }
}

#[actix_web::test]
async fn without_a_default_resource_an_old_client_is_told_what_is_missing() {
    let app = TestApp::start_with(&[("ISSUER", "https://auth.example/tenant1")]).await;
    for path in ["/.well-known/oauth-authorization-server", "/authorize", "/token", "/register"] {
        assert_eq!(get(&app, "mcp.example", path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let app = TestApp::start_with(&[("DEFAULT_RESOURCE", "https://other.example/mcp")]).await;
    let client = app.client().await;
    let query = authorize_query(&client, &[("resource", "")]);
    for host in ["mcp.example", "auth.example", "evil.example"] {
        let request = app.http.get(format!("{}/authorize?{query}", app.public)).header("host", host);
        let refused = request.send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{host}");
        assert!(refused.text().await.unwrap().contains("error=invalid_target"), "{host}");
    }
}
