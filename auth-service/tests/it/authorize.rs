//! Tests of `/authorize` and of the consent page.

use std::time::Duration;

use reqwest::StatusCode;

use super::app::{CHALLENGE, ISSUER, REDIRECT, TestApp, authorize_query};

#[actix_web::test]
async fn a_person_logs_in_consents_and_the_client_gets_a_code() {
    let app = TestApp::start().await;
    let client = app.client().await;
    app.person("ana").await;
    let mut browser = app.browser();
    let login = browser.follow(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    let back = browser.submit(&login, &[("username", " Ana "), ("password", super::app::PASSWORD)]).await;
    assert_eq!(back.status, StatusCode::SEE_OTHER);
    let consent = browser.follow(back.location.unwrap().strip_prefix(ISSUER).unwrap()).await;
    for shown in ["app.example", "Test client", "https://mcp.example/mcp", "mcp", "ana"] {
        assert!(consent.body.contains(shown), "{shown}");
    }
    let answer = browser.submit(&consent, &[("decision", "allow")]).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert!(answer.location.as_ref().unwrap().starts_with(REDIRECT));
    assert!(answer.parameter("code").unwrap().starts_with("mgc_"));
    assert_eq!(answer.parameter("state").unwrap(), "the state");
    assert_eq!(answer.parameter("iss").unwrap(), ISSUER);
}

#[actix_web::test]
async fn a_person_may_say_no() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let consent = browser.open(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    let answer = browser.submit(&consent, &[("decision", "deny")]).await;
    assert_eq!(answer.parameter("error").unwrap(), "access_denied");
    assert_eq!(answer.parameter("iss").unwrap(), ISSUER);
    assert_eq!(answer.parameter("state").unwrap(), "the state");
}

#[actix_web::test]
async fn a005_nothing_is_sent_anywhere_before_client_and_redirect_are_known() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser();
    for replaced in [
        ("client_id", "unknown"),
        ("client_id", ""),
        ("redirect_uri", "https://evil.example/cb"),
        ("redirect_uri", "https://app.example/cb/"),
        ("redirect_uri", "https://app.example/cb?x=1"),
        ("redirect_uri", "https://app.example@evil.example/cb"),
        ("redirect_uri", "javascript:alert(1)"),
        ("redirect_uri", "//app.example/cb"),
        ("redirect_uri", "https://app.example/CB"),
    ] {
        // Other parameters are invalid as well. The server must not redirect the browser to report those errors.
        let query = authorize_query(&client, &[replaced, ("response_type", "token"), ("scope", "\"")]);
        let page = browser.open(&format!("/authorize?{query}")).await;
        assert_eq!((page.status, page.location), (StatusCode::BAD_REQUEST, None), "{replaced:?}");
    }
    let doubled = format!("{}&redirect_uri=https%3A%2F%2Fevil.example", authorize_query(&client, &[]));
    assert_eq!(browser.open(&format!("/authorize?{doubled}")).await.status, StatusCode::BAD_REQUEST);
}

#[actix_web::test]
async fn a014_later_errors_go_to_the_client_with_state_and_iss() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    browser.allow(&authorize_query(&client, &[])).await;
    for (name, value, code) in [
        ("response_type", "token", "unsupported_response_type"),
        ("code_challenge", "", "invalid_request"),
        ("code_challenge_method", "plain", "invalid_request"),
        ("scope", "a\"b", "invalid_scope"),
        ("resource", "https://evil.example/", "invalid_target"),
        ("resource", "", "invalid_target"),
    ] {
        let page = browser.open(&format!("/authorize?{}", authorize_query(&client, &[(name, value)]))).await;
        assert_eq!(page.status, StatusCode::SEE_OTHER);
        assert_eq!(page.parameter("error").as_deref(), Some(code), "{name}={value}");
        assert_eq!(
            (page.parameter("state").as_deref(), page.parameter("iss").as_deref()),
            (Some("the state"), Some(ISSUER))
        );
    }
}

#[actix_web::test]
async fn a005_an_error_leads_no_browser_to_a_place_where_its_user_has_let_no_answer_go() {
    let app = TestApp::start().await;
    let (evil, deep) = ("https://evil.example/landing", "cursor://anysphere.cursor-mcp/oauth/callback");
    let client = app.client_with(&[REDIRECT, evil, deep]).await;
    let (mut nobody, mut ana) = (app.browser(), app.browser_of("ana").await);
    let mut eve = app.browser_of("eve").await;
    ana.allow(&authorize_query(&client, &[])).await;
    let wrong = [("response_type", "token"), ("resource", "https://evil.example/"), ("prompt", "none login")];
    for (name, value) in wrong {
        for uri in [REDIRECT, evil, deep] {
            let link =
                format!("/authorize?{}", authorize_query(&client, &[("redirect_uri", uri), (name, value)]));
            for browser in
                [&mut nobody, &mut eve, &mut ana].into_iter().take(if uri == REDIRECT { 2 } else { 3 })
            {
                let page = browser.open(&link).await;
                assert_eq!((page.status, &page.location), (StatusCode::BAD_REQUEST, &None), "{link}");
                // The page shows the user where the error would be sent, and lets the user decide.
                let host = if uri == REDIRECT { "app.example" } else { uri.split('/').nth(2).unwrap() };
                assert!(page.body.contains(host) && page.body.contains("Tell the application"));
                assert!(page.body.contains(&format!("href=\"{uri}?error=")), "{}", page.body);
            }
        }
    }
    // If the user is logged in and has consented to this exact redirect URI, the error is sent to the client
    // immediately. After the login has expired, the error is shown on a page instead.
    let link = format!("/authorize?{}", authorize_query(&client, &[("response_type", "token")]));
    assert!(ana.open(&link).await.location.unwrap().starts_with(REDIRECT));
    app.wait(Duration::from_secs(12 * 3600));
    assert_eq!(ana.open(&link).await.status, StatusCode::BAD_REQUEST);
}

#[actix_web::test]
async fn a007_a_loopback_client_is_shown_with_a_warning_and_on_any_port() {
    let app = TestApp::start().await;
    let client = app.client_with(&["http://127.0.0.1/cb"]).await;
    let mut browser = app.browser_of("ana").await;
    let query = authorize_query(&client, &[("redirect_uri", "http://127.0.0.1:50123/cb")]);
    let page = browser.open(&format!("/authorize?{query}")).await;
    assert!(page.body.contains("127.0.0.1:50123") && page.body.contains("any program here could be asking"));
    let answer = browser.submit(&page, &[("decision", "allow")]).await;
    assert!(answer.location.unwrap().starts_with("http://127.0.0.1:50123/cb?code="));
}

#[actix_web::test]
async fn only_a_form_whose_answer_stays_here_is_held_here() {
    let app = TestApp::start_with(&[("ADDITIONAL_GRANTS", "device_code")]).await;
    let client = app.client().await;
    app.account("ana", true).await;
    let mut browser = app.browser();
    let held = |page: &super::browser::Page| {
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("base-uri 'none'"), "{policy}");
        policy.contains("form-action 'self'")
    };
    // The response to the login, new-password or consent form can redirect to the client, which can redirect to
    // any other address. Chromium applies `form-action` to all of these redirects.
    let login = browser.follow(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    let choose =
        browser.submit_and_follow(&login, &[("username", "ana"), ("password", super::app::PASSWORD)]).await;
    let fields = [("new_password", "a password of my own"), ("new_password_repeat", "a password of my own")];
    let there = browser.submit(&choose, &fields).await.location.unwrap();
    let consent = browser.open(there.strip_prefix(ISSUER).unwrap()).await;
    assert!(!held(&login) && !held(&choose) && !held(&consent));
    for path in ["/login", "/device", "/login/device"] {
        assert!(held(&browser.open(path).await), "{path}");
    }
}

#[actix_web::test]
async fn a016_a_consent_counts_once_for_one_browser_in_time() {
    let app = TestApp::start_with(&[("REMEMBER_CONSENT", "off")]).await;
    let client = app.client().await;
    let query = format!("/authorize?{}", authorize_query(&client, &[]));
    let mut ana = app.browser_of("ana").await;
    let mut eve = app.browser_of("eve").await;
    let page = ana.open(&query).await;
    // The form is refused from another user's browser, from a browser without a login, without a form token, and
    // without an answer.
    assert_eq!(eve.submit(&page, &[("decision", "allow")]).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(app.browser().submit(&page, &[("decision", "allow")]).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(ana.post("/consent", &[("decision", "allow")]).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(ana.submit(&page, &[]).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(ana.submit(&page, &[("decision", "allow")]).await.status, StatusCode::SEE_OTHER);
    let replay = ana.submit(&page, &[("decision", "allow")]).await;
    assert_eq!((replay.status, replay.location), (StatusCode::CONFLICT, None));
    let late = ana.open(&query).await;
    app.wait(Duration::from_secs(16 * 60));
    assert_eq!(ana.submit(&late, &[("decision", "allow")]).await.status, StatusCode::BAD_REQUEST);
}

#[actix_web::test]
async fn a018_a019_a098_the_consent_page_is_inert() {
    let app = TestApp::start().await;
    let hostile = "<img src=x onerror=alert(1)>\u{202e}";
    let metadata = serde_json::json!({ "redirect_uris": [REDIRECT], "client_name": hostile, "token_endpoint_auth_method": "none" });
    let client: serde_json::Value = app.register(&metadata).await.json().await.unwrap();
    let mut browser = app.browser_of("ana").await;
    let page = browser
        .open(&format!("/authorize?{}", authorize_query(client["client_id"].as_str().unwrap(), &[])))
        .await;
    assert!(!page.body.contains("<img") && !page.body.contains('\u{202e}'));
    assert_eq!(page.headers["x-frame-options"], "DENY");
    assert_eq!(page.headers["cache-control"], "no-store");
    assert_eq!(page.headers["referrer-policy"], "no-referrer");
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
}

#[actix_web::test]
async fn a_resource_may_be_spelled_with_capitals_and_a_slash() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let query = authorize_query(
        &client,
        &[("resource", "HTTPS://MCP.example:443/mcp/"), ("code_challenge", CHALLENGE)],
    );
    assert_eq!(browser.open(&format!("/authorize?{query}")).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn a017_consent_to_one_client_is_no_consent_to_another() {
    let app = TestApp::start().await;
    let (one, other) = (app.client().await, app.client_with(&[REDIRECT, "https://app.example/other"]).await);
    let mut browser = app.browser_of("ana").await;
    browser.allow(&authorize_query(&one, &[])).await;
    let page = browser.open(&format!("/authorize?{}", authorize_query(&other, &[]))).await;
    assert_eq!((page.status, page.location), (StatusCode::OK, None));
}
