//! Tests of error responses. Each has a stable code and description and a link to a page that explains it, and
//! reveals no internals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use auth_service::domain::clock::{Random, RandomUnavailable};
use auth_service::keys::seal::SystemRandomSource;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::app::{ISSUER, REDIRECT, TestApp, authorize_query};

const PAGE: &str = include_str!("../../../docs/errors.md");

type Form<'a> = &'a [(&'a str, &'a str)];

/// The section of the error page that `uri` links to.
fn section(uri: &str) -> &'static str {
    let code = uri.strip_prefix(&format!("{ISSUER}/errors#")).unwrap_or_else(|| panic!("error_uri {uri}"));
    let (_, rest) = PAGE.split_once(&format!("\n## {code}\n")).unwrap_or_else(|| panic!("no section {code}"));
    rest.split("\n## ").next().unwrap()
}

/// Asserts that `uri` links to the section of this error code, and that the section lists this description.
fn assert_explained(code: &str, description: &str, uri: &str) {
    assert_eq!(uri, format!("{ISSUER}/errors#{code}"));
    let lines = section(uri).lines().filter_map(|line| line.strip_prefix("- "));
    let said = |line: &str| {
        // Words in capitals are placeholders for values from the request.
        let line = line
            .replace("NAME", "\0")
            .replace("REASON", "\0")
            .replace("HOST", "\0")
            .replace(" URI URI ", " URI \0 ");
        line.split('\0').all(|piece| description.contains(piece))
    };
    assert!(lines.clone().any(said), "{code}: {description:?} is not among {:?}", lines.collect::<Vec<_>>());
}

async fn assert_error(response: Response, status: u16, code: &str) {
    assert_eq!(response.status(), status, "{code}");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body: Value = response.json().await.unwrap();
    let member = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("no {name} in {body}"));
    assert_eq!(member("error"), code, "{body}");
    assert_explained(code, member("error_description"), member("error_uri"));
    assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
}

#[actix_web::test]
async fn every_endpoint_says_what_is_wrong_and_where_it_is_explained() {
    let app = TestApp::start_with(&[("ADDITIONAL_GRANTS", "device_code, token_exchange")]).await;
    let client = app.client().await;
    let id = ("client_id", client.as_str());
    let known =
        [id, ("grant_type", "authorization_code"), ("code_verifier", "v"), ("redirect_uri", REDIRECT)];

    let token: [(Form<'_>, u16, &str); 9] = [
        (&[], 401, "invalid_client"),
        (&[("client_id", "nobody"), ("grant_type", "authorization_code")], 401, "invalid_client"),
        (&[id, ("client_secret", "s"), ("grant_type", "refresh_token")], 401, "invalid_client"),
        (&[id], 400, "invalid_request"),
        (&[id, ("grant_type", "password")], 400, "unsupported_grant_type"),
        (&[id, ("grant_type", "urn:ietf:params:oauth:grant-type:device_code")], 400, "unauthorized_client"),
        (&known, 400, "invalid_request"),
        (&[id, ("grant_type", "authorization_code"), ("code", "x")], 400, "invalid_grant"),
        (&[id, ("grant_type", "refresh_token"), ("refresh_token", "x")], 400, "invalid_grant"),
    ];
    for (form, status, code) in token {
        assert_error(app.token(form).await, status, code).await;
    }
    let tokens = app.tokens(&client).await;
    let refresh = [id, ("grant_type", "refresh_token"), ("refresh_token", tokens.refresh.as_str())];
    for (more, code) in [
        (("scope", "\""), "invalid_scope"),
        (("resource", "https://elsewhere.example/mcp"), "invalid_target"),
        (("client_id", "twice"), "invalid_request"),
    ] {
        let form: Vec<_> = refresh.into_iter().chain([more]).collect();
        assert_error(app.token(&form).await, 400, code).await;
    }

    let post =
        |path: &str, form: &[(&str, &str)]| app.http.post(format!("{}{path}", app.public)).form(form).send();
    assert_error(post("/revoke", &[id]).await.unwrap(), 400, "invalid_request").await;
    assert_error(post("/introspect", &[id, ("token", "x")]).await.unwrap(), 401, "invalid_client").await;
    assert_error(post("/device_authorization", &[id]).await.unwrap(), 400, "unauthorized_client").await;
    assert_error(post("/par", &[id]).await.unwrap(), 400, "unsupported_response_type").await;
    for (metadata, code) in [
        (json!({}), "invalid_redirect_uri"),
        (json!({ "redirect_uris": ["http://evil.example/\"\u{202e}"] }), "invalid_redirect_uri"),
        (json!({ "redirect_uris": [REDIRECT], "grant_types": ["implicit"] }), "invalid_client_metadata"),
        (json!({ "redirect_uris": [REDIRECT], "software_statement": "x" }), "unapproved_software_statement"),
        (json!([]), "invalid_client_metadata"),
    ] {
        assert_error(app.register(&metadata).await, 400, code).await;
    }
    let unmanaged = app.http.get(format!("{}/register/{client}", app.public)).send().await.unwrap();
    assert_error(unmanaged, 401, "invalid_token").await;
}

#[actix_web::test]
async fn the_redirect_says_it_too_and_the_page_is_there() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    browser.allow(&authorize_query(&client, &[])).await;
    for (replaced, code) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("code_challenge", ""), "invalid_request"),
        (("resource", "https://elsewhere.example"), "invalid_target"),
        (("request", "x"), "request_not_supported"),
        (("scope", "\u{1}"), "invalid_scope"),
    ] {
        let answer = browser.open(&format!("/authorize?{}", authorize_query(&client, &[replaced]))).await;
        let parameter = |name| answer.parameter(name).unwrap();
        assert_eq!(parameter("error"), code);
        assert_eq!(parameter("iss"), ISSUER);
        assert_explained(code, &parameter("error_description"), &parameter("error_uri"));
    }
    // If no redirect is possible, the user sees a page that links to the explanation.
    let nobody = browser.open(&format!("/authorize?{}", authorize_query("nobody", &[]))).await;
    assert_eq!(nobody.status, StatusCode::BAD_REQUEST);
    assert!(nobody.body.contains(&format!("href=\"{ISSUER}/errors#invalid_client\"")), "{}", nobody.body);

    let page = browser.open("/errors").await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    for heading in PAGE.lines().filter_map(|line| line.strip_prefix("## ")) {
        assert!(page.body.contains(&format!("<h2 id=\"{heading}\">{heading}</h2>")), "{heading}");
    }
}

#[actix_web::test]
async fn a096_without_the_store_nothing_of_the_inside_is_told() {
    let Some(mut app) = TestApp::start_on_redis().await else { return };
    let client = app.client().await;
    app.kill_store();
    let form = [("client_id", client.as_str()), ("grant_type", "refresh_token"), ("refresh_token", "x")];
    for path in ["/token", "/revoke", "/introspect", "/par"] {
        let answer = app.http.post(format!("{}{path}", app.public)).form(&form).send().await.unwrap();
        assert_error(answer, 503, "temporarily_unavailable").await;
    }
    assert_error(app.register(&json!({ "redirect_uris": [REDIRECT] })).await, 503, "temporarily_unavailable")
        .await;
    let page = app.browser().open(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    let lower = page.body.to_ascii_lowercase();
    for inside in ["redis", "127.0.0.1", "connection", "timed out", "panicked", ".rs"] {
        assert!(!lower.contains(inside), "{inside} in {lower}");
    }
    // The error page does not need the store.
    assert_eq!(app.browser().open("/errors").await.status, StatusCode::OK);
}

/// A source of randomness that panics on request, to simulate a bug.
#[derive(Default)]
struct Panicking(AtomicBool);

impl Random for Panicking {
    fn bytes(&self) -> Result<[u8; 32], RandomUnavailable> {
        assert!(!self.0.load(Ordering::SeqCst), "the inside of the service");
        SystemRandomSource.bytes()
    }
}

#[actix_web::test]
async fn a096_a_panic_in_one_request_hurts_no_other_and_tells_nothing() {
    let random = Arc::new(Panicking::default());
    let app = TestApp::start_with_random(Arc::clone(&random) as Arc<dyn Random>).await;
    let metadata = json!({ "redirect_uris": [REDIRECT] });
    for _ in 0..20 {
        random.0.store(true, Ordering::SeqCst);
        let answer = app.http.post(format!("{}/register", app.public)).json(&metadata).send().await;
        if let Ok(answer) = answer {
            let (status, body) = (answer.status(), answer.text().await.unwrap_or_default());
            assert!(status.is_server_error() && !body.contains("inside"), "{status} {body}");
        }
        random.0.store(false, Ordering::SeqCst);
        // The only worker still serves requests.
        assert_eq!(app.register(&metadata).await.status(), StatusCode::CREATED);
    }
}

#[actix_web::test]
async fn an_address_without_a_page_gives_a_browser_a_sentence_and_a_way_on_and_a_program_its_answer() {
    let app = TestApp::start().await;
    let html = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let get = async |path: &str, accept: &str| {
        app.http.get(format!("{}{path}", app.public)).header("accept", accept).send().await.unwrap()
    };
    let long = format!("/authorize?{}", "a".repeat(9000));
    for (path, status) in [
        ("/consent", 405),
        ("/token", 405),
        ("/par", 405),
        ("/revoke", 405),
        ("/register", 405),
        ("/introspect", 405),
        ("/device_authorization", 405),
        ("/logout", 404),
        ("/account", 404),
        // The device flow is disabled in this test.
        ("/device", 404),
        (&long, 414),
    ] {
        let page = get(path, html).await;
        assert_eq!(page.status(), status, "{path}");
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8", "{path}");
        assert_eq!(page.headers()["x-frame-options"], "DENY", "{path}");
        let body = page.text().await.unwrap();
        assert!(body.contains(&format!("class=\"way-on\" href=\"{ISSUER}/login\"")), "{path}: {body}");
        let answer = get(path, "application/json").await;
        assert_eq!(answer.status(), status, "{path}");
        assert!(!answer.text().await.unwrap().contains("<html"), "{path}");
    }
}
