//! Tests of `prompt`, with which a client requests a login page, a consent page, or no page (`OpenID` Connect Core
//! §3.1.2.1).

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::app::{ISSUER, PASSWORD, TestApp, authorize_query};

fn link(client: &str, prompt: &str) -> String {
    format!("/authorize?{}", authorize_query(client, &[("prompt", prompt)]))
}

#[actix_web::test]
async fn prompt_consent_shows_the_page_although_everything_is_allowed_already() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    browser.allow(&authorize_query(&client, &[])).await;
    assert!(browser.open(&link(&client, "")).await.parameter("code").is_some());
    let page = browser.open(&link(&client, "consent")).await;
    assert_eq!((page.status, &page.location), (StatusCode::OK, &None));
    assert!(page.body.contains("You allowed it before"));
    assert!(browser.submit(&page, &[("decision", "allow")]).await.parameter("code").is_some());
}

#[actix_web::test]
async fn prompt_login_and_select_account_show_the_login_although_somebody_is_signed_in() {
    let app = TestApp::start().await;
    let client = app.client().await;
    app.person("eve").await;
    for (n, prompt) in ["login", "select_account", "consent login"].into_iter().enumerate() {
        let mut browser = app.browser_of(&format!("ana{n}")).await;
        browser.allow(&authorize_query(&client, &[])).await;
        app.wait(Duration::from_secs(60));
        let login = browser.follow(&link(&client, prompt)).await;
        assert!(login.body.contains("<h1>Sign in</h1>"), "{}", login.body);
        // The form cannot be skipped, and the request continues for the user who signs in now.
        assert!(!login.body.contains("Go on"), "{}", login.body);
        assert!(login.body.contains("The application asks you to sign in again"), "{}", login.body);
        let there = browser.submit(&login, &[("username", "eve"), ("password", PASSWORD)]).await.location;
        let page = browser.open(there.unwrap().strip_prefix(ISSUER).unwrap()).await;
        assert!(page.status == StatusCode::OK && page.body.contains("<dd>eve</dd>"), "{}", page.body);
    }
}

async fn push(app: &TestApp, client: &str, prompt: &str) -> String {
    let query = authorize_query(client, &[("prompt", prompt)]);
    let push = app.http.post(format!("{}/par", app.public)).body(query);
    let response = push.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
    let body: Value = response.json().await.unwrap();
    let uri = body["request_uri"].as_str().unwrap();
    url::form_urlencoded::Serializer::new("/authorize?".to_owned())
        .extend_pairs([("client_id", client), ("request_uri", uri)])
        .finish()
}

#[actix_web::test]
async fn what_a_pushed_request_wants_shown_has_no_way_around_it() {
    let app = TestApp::start().await;
    let client = app.client().await;
    for (n, prompt) in ["login", "select_account"].into_iter().enumerate() {
        let mut browser = app.browser_of(&format!("ana{n}")).await;
        app.wait(Duration::from_secs(60));
        let link = push(&app, &client, prompt).await;
        let login = browser.follow(&link).await;
        assert!(login.body.contains("You are signed in as"), "{}", login.body);
        assert!(!login.body.contains("Go on"), "{}", login.body);
        let name = format!("ana{n}");
        let there = browser.submit(&login, &[("username", &name), ("password", PASSWORD)]).await.location;
        let page = browser.open(there.unwrap().strip_prefix(ISSUER).unwrap()).await;
        assert!(
            browser.submit(&page, &[("decision", "allow")]).await.parameter("code").is_some(),
            "{prompt}"
        );
    }
    // If the client does not request a login, the page offers to continue without one.
    let mut browser = app.browser_of("eve").await;
    let link = push(&app, &client, "consent").await;
    let login = browser.open(&link.replace("/authorize?", "/login?")).await;
    assert!(login.body.contains("Go on"), "{}", login.body);
}

#[actix_web::test]
async fn who_has_just_signed_in_for_something_else_can_still_choose_another_account() {
    let app = TestApp::start().await;
    let client = app.client().await;
    app.person("eve").await;
    let mut browser = app.browser_of("ana").await;
    // After a recent login, `prompt=login` does not require another one.
    assert_eq!(browser.open(&link(&client, "login")).await.status, StatusCode::OK);
    let login = browser.follow(&link(&client, "select_account")).await;
    assert!(login.body.contains("You are signed in as"), "{}", login.body);
    let there = browser.submit(&login, &[("username", "eve"), ("password", PASSWORD)]).await.location;
    let page = browser.open(there.unwrap().strip_prefix(ISSUER).unwrap()).await;
    assert!(page.status == StatusCode::OK && page.body.contains("<dd>eve</dd>"), "{}", page.body);
}

#[actix_web::test]
async fn prompt_none_is_answered_without_a_page_or_not_at_all() {
    let app = TestApp::start().await;
    let (client, other) = (app.client().await, app.client_with(&["http://127.0.0.1/cb"]).await);
    // A browser without a login is not redirected. Otherwise, an attacker could use the service as an open
    // redirector (a005).
    let page = app.browser().open(&link(&client, "none")).await;
    assert_eq!((page.status, &page.location), (StatusCode::BAD_REQUEST, &None));
    assert!(page.body.contains("login_required") && page.body.contains("Tell the application"));
    let mut browser = app.browser_of("ana").await;
    let page = browser.open(&link(&client, "none")).await;
    assert!(page.status == StatusCode::BAD_REQUEST && page.body.contains("consent_required"));
    browser.allow(&authorize_query(&client, &[("scope", "mcp:read")])).await;
    let narrow = authorize_query(&client, &[("prompt", "none"), ("scope", "mcp:read")]);
    assert!(browser.open(&format!("/authorize?{narrow}")).await.parameter("code").is_some());
    // The request is for more scopes than the user has allowed. The error is sent to the client, because the user
    // has allowed this redirect URI.
    let more = browser.open(&link(&client, "none")).await;
    assert_eq!(more.parameter("error").as_deref(), Some("consent_required"), "{}", more.body);
    assert_eq!(more.parameter("state").as_deref(), Some("the state"));
    let login = browser.open(&link(&client, "none login")).await;
    assert_eq!(login.parameter("error").as_deref(), Some("invalid_request"));
    // For a loopback redirect URI, the consent page is always shown, so a request that forbids pages is refused.
    let local = |more: &[(&str, &str)]| {
        let uri = [("redirect_uri", "http://127.0.0.1:5000/cb")];
        authorize_query(&other, &[&uri[..], more].concat())
    };
    browser.allow(&local(&[])).await;
    let silent = browser.open(&format!("/authorize?{}", local(&[("prompt", "none")]))).await;
    assert_eq!(silent.parameter("error").as_deref(), Some("consent_required"), "{}", silent.body);
}

#[actix_web::test]
async fn what_prompt_may_say_is_announced_and_checked_when_it_is_pushed() {
    let app = TestApp::start().await;
    let url = format!("{}/.well-known/oauth-authorization-server", app.public);
    let metadata: Value = app.http.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(metadata["prompt_values_supported"], json!(["none", "login", "consent", "select_account"]));
    let client = app.client().await;
    let query = authorize_query(&client, &[("prompt", "none consent")]);
    let push = app.http.post(format!("{}/par", app.public)).body(query);
    let response = push.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
    assert_eq!(super::app::error_code(response).await, "invalid_request");
}
