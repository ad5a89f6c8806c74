//! Tests of the device flow (RFC 8628), from the side of the device and of the user in another browser.

use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::app::{ISSUER, RESOURCE, TestApp, Tokens, error_code};
use super::browser::{Browser, Page};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

async fn app() -> TestApp {
    TestApp::start_with(&[("ADDITIONAL_GRANTS", "device_code")]).await
}

async fn television(app: &TestApp) -> String {
    let metadata = json!({ "client_name": "Television", "token_endpoint_auth_method": "none", "grant_types": [GRANT, "refresh_token"] });
    let response = app.register(&metadata).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let registered: Value = response.json().await.unwrap();
    assert_eq!((&registered["redirect_uris"], &registered["response_types"]), (&json!([]), &json!([])));
    registered["client_id"].as_str().unwrap().to_owned()
}

async fn start(app: &TestApp, form: &[(&str, &str)]) -> Response {
    app.http.post(format!("{}/device_authorization", app.public)).form(form).send().await.unwrap()
}

struct Codes {
    device: String,
    user: String,
}

async fn codes(app: &TestApp, client: &str) -> Codes {
    let response = start(app, &[("client_id", client), ("resource", RESOURCE), ("scope", "mcp")]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body: Value = response.json().await.unwrap();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    assert_eq!(text("verification_uri"), format!("{ISSUER}/device"));
    assert_eq!(text("verification_uri_complete"), format!("{ISSUER}/device?user_code={}", text("user_code")));
    assert_eq!((&body["expires_in"], &body["interval"]), (&json!(600), &json!(5)));
    Codes { device: text("device_code"), user: text("user_code") }
}

async fn poll(app: &TestApp, client: &str, device_code: &str) -> Response {
    app.token(&[("grant_type", GRANT), ("client_id", client), ("device_code", device_code)]).await
}

/// Types the code on the page, and returns the next page.
pub(crate) async fn type_code(browser: &mut Browser<'_>, code: &str) -> Page {
    let page = browser.open("/device").await;
    send_code(browser, &page, code).await
}

/// Sends the code in this page's form, and follows the redirect.
pub(crate) async fn send_code(browser: &mut Browser<'_>, page: &Page, code: &str) -> Page {
    browser.submit_and_follow(page, &[("user_code", code)]).await
}

/// Answers the question about the device, and follows the redirect.
pub(crate) async fn decide(browser: &mut Browser<'_>, page: &Page, decision: &str) -> Page {
    browser.submit_and_follow(page, &[("decision", decision)]).await
}

async fn allow(browser: &mut Browser<'_>, code: &str) {
    let page = type_code(browser, code).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.body);
    let answer = decide(browser, &page, "allow").await;
    assert!(answer.status == StatusCode::OK && answer.body.contains("is connected"), "{}", answer.body);
}

#[actix_web::test]
async fn a_device_is_connected_by_a_person_in_another_browser() {
    let app = app().await;
    let client = television(&app).await;
    let codes = codes(&app, &client).await;
    assert_eq!(error_code(poll(&app, &client, &codes.device).await).await, "authorization_pending");
    // A user code in the link is preserved across the login, and is then filled in.
    app.person("ana").await;
    let mut browser = app.browser();
    let login = browser.follow(&format!("/device?user_code={}", codes.user)).await;
    assert!(login.body.contains("Sign in"));
    let there = browser.submit(&login, &[("username", "ana"), ("password", super::app::PASSWORD)]).await;
    let path = there.location.unwrap();
    let page = browser.open(path.strip_prefix(ISSUER).unwrap()).await;
    assert!(page.body.contains(&format!("value=\"{}\"", codes.user)), "{}", page.body);
    let shown = send_code(&mut browser, &page, &codes.user.to_lowercase()).await;
    let title = "<title>Allow a device";
    for text in
        [codes.user.as_str(), "Television", RESOURCE, "127.0.0.1", "If somebody sent you the code", title]
    {
        assert!(shown.body.contains(text), "{text} in {}", shown.body);
    }
    browser.submit(&shown, &[("decision", "allow")]).await;
    app.wait(Duration::from_secs(5));
    let response = poll(&app, &client, &codes.device).await;
    assert_eq!(response.status(), StatusCode::OK);
    let tokens = Tokens::of(response).await;
    let passed = app.check_token(&tokens.access).await;
    assert_eq!(
        (passed.status(), &passed.headers()["x-auth-username"]),
        (StatusCode::OK, &"ana".parse().unwrap())
    );
    assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn a043_a_link_alone_approves_nothing() {
    let app = app().await;
    let client = television(&app).await;
    let codes = codes(&app, &client).await;
    let mut browser = app.browser_of("ana").await;
    let mut eve = app.browser_of("eve").await;
    let link = format!("/device?user_code={}&decision=allow", codes.user);
    let page = browser.open(&link).await;
    assert!(page.status == StatusCode::OK && page.body.contains("name=\"user_code\""));
    assert_eq!(page.headers["x-frame-options"], "DENY");
    // POST requests are refused without a form token and with the form token of a different form.
    let decision = [("user_code", codes.user.as_str()), ("decision", "allow")];
    assert_eq!(browser.post("/device", &decision).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(browser.post("/device/consent", &decision).await.status, StatusCode::BAD_REQUEST);
    let form_token = page.form_token();
    let form = [("form_token", form_token.as_str()), ("decision", "allow")];
    assert_eq!(browser.post("/device/consent", &form).await.status, StatusCode::BAD_REQUEST);
    let shown = send_code(&mut browser, &page, &codes.user).await;
    // The address of the question is valid only in the login session that entered the code.
    let form = [("form_token", page.form_token()), ("user_code", codes.user.clone())];
    let form: Vec<_> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let there = browser.post("/device", &form).await.location.unwrap();
    let there = there.strip_prefix(ISSUER).unwrap();
    assert_eq!(browser.open(there).await.status, StatusCode::OK);
    for stranger in [&mut eve, &mut app.browser()] {
        let page = stranger.open(there).await;
        assert!(page.status == StatusCode::BAD_REQUEST && !page.body.contains("Television"));
    }
    assert_eq!(eve.submit(&shown, &[("decision", "allow")]).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(app.browser().submit(&shown, &[("decision", "allow")]).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(browser.submit(&shown, &[]).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(error_code(poll(&app, &client, &codes.device).await).await, "authorization_pending");
    // A denial takes effect, and cannot be changed afterwards.
    assert_eq!(decide(&mut browser, &shown, "deny").await.status, StatusCode::OK);
    assert_eq!(browser.submit(&shown, &[("decision", "allow")]).await.status, StatusCode::CONFLICT);
    app.wait(Duration::from_secs(5));
    assert_eq!(error_code(poll(&app, &client, &codes.device).await).await, "access_denied");
}

#[actix_web::test]
async fn a043_polling_too_fast_slows_the_device_down() {
    let app = app().await;
    let client = television(&app).await;
    let codes = codes(&app, &client).await;
    let mut answers = Vec::new();
    for wait in [0, 1, 5, 16] {
        app.wait(Duration::from_secs(wait));
        answers.push(error_code(poll(&app, &client, &codes.device).await).await);
    }
    assert_eq!(answers, ["authorization_pending", "slow_down", "slow_down", "authorization_pending"]);
    app.wait(Duration::from_secs(600));
    assert_eq!(error_code(poll(&app, &client, &codes.device).await).await, "expired_token");
    let mut browser = app.browser_of("ana").await;
    assert_eq!(type_code(&mut browser, &codes.user).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[actix_web::test]
async fn a043_user_codes_are_not_guessed() {
    let app = app().await;
    let client = television(&app).await;
    let codes = codes(&app, &client).await;
    let mut browser = app.browser_of("eve").await;
    for _ in 0..10 {
        assert_eq!(type_code(&mut browser, "BCDF-GHJK").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    // After too many attempts, even the right code is refused.
    assert_eq!(type_code(&mut browser, &codes.user).await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[actix_web::test]
async fn a043_a_device_code_is_its_clients_and_works_once() {
    let app = app().await;
    let (client, other) = (television(&app).await, app.client().await);
    let codes = codes(&app, &client).await;
    allow(&mut app.browser_of("ana").await, &codes.user).await;
    let metadata =
        json!({ "client_name": "Other", "token_endpoint_auth_method": "none", "grant_types": [GRANT] });
    let registered: Value = app.register(&metadata).await.json().await.unwrap();
    let stranger = registered["client_id"].as_str().unwrap();
    // Polls by another client do not slow down the device.
    for _ in 0..5 {
        assert_eq!(error_code(poll(&app, stranger, &codes.device).await).await, "invalid_grant");
    }
    assert_eq!(error_code(poll(&app, &other, &codes.device).await).await, "unauthorized_client");
    assert_eq!(error_code(poll(&app, &client, "mgd_x").await).await, "invalid_grant");
    let tokens = Tokens::of(poll(&app, &client, &codes.device).await).await;
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
    assert_eq!(error_code(poll(&app, &client, &codes.device).await).await, "invalid_grant");
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(error_code(app.refresh(&client, &tokens.refresh).await).await, "invalid_grant");
}

#[actix_web::test]
async fn a016_a_page_that_was_open_while_the_device_s_client_changed_allows_nothing() {
    let app = app().await;
    let metadata = |name: &str| json!({ "client_name": name, "token_endpoint_auth_method": "none", "grant_types": [GRANT, "refresh_token"] });
    let registered: Value = app.register(&metadata("Television")).await.json().await.unwrap();
    let text = |name: &str| registered[name].as_str().unwrap();
    let client = text("client_id");
    let codes = codes(&app, client).await;
    let mut browser = app.browser_of("ana").await;
    let page = type_code(&mut browser, &codes.user).await;
    assert!(page.body.contains("Television"));
    let mut update = metadata("Bank");
    update["client_id"] = json!(client);
    let url = format!("{}/register/{client}", app.public);
    let changed =
        app.http.put(url).bearer_auth(text("registration_access_token")).json(&update).send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::OK);
    let answer = browser.submit(&page, &[("decision", "allow")]).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
    assert_eq!(error_code(poll(&app, client, &codes.device).await).await, "authorization_pending");
    // The page shows the changed client, which the user can then allow.
    let page = type_code(&mut browser, &codes.user).await;
    assert!(page.body.contains("Bank"));
    assert_eq!(decide(&mut browser, &page, "allow").await.status, StatusCode::OK);
}

#[actix_web::test]
async fn what_a_device_cannot_have_it_is_told_at_once() {
    let app = app().await;
    let client = television(&app).await;
    let ordinary = app.client().await;
    for (form, error) in [
        (vec![("client_id", ordinary.as_str()), ("resource", RESOURCE)], "unauthorized_client"),
        (vec![("client_id", client.as_str())], "invalid_target"),
        (vec![("client_id", client.as_str()), ("resource", "https://evil.example/")], "invalid_target"),
        (vec![("client_id", client.as_str()), ("resource", RESOURCE), ("scope", "\"")], "invalid_scope"),
        (vec![("client_id", "nobody"), ("resource", RESOURCE)], "invalid_client"),
        (vec![("client_id", client.as_str()), ("client_id", "b"), ("resource", RESOURCE)], "invalid_request"),
    ] {
        assert_eq!(error_code(start(&app, &form).await).await, error);
    }
}

#[actix_web::test]
async fn there_is_no_device_flow_where_nobody_turned_it_on() {
    let app = TestApp::start().await;
    let metadata = json!({ "redirect_uris": [super::app::REDIRECT], "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", GRANT] });
    let registered: Value = app.register(&metadata).await.json().await.unwrap();
    assert_eq!(registered["grant_types"], json!(["authorization_code"]));
    let client = registered["client_id"].as_str().unwrap();
    assert_eq!(
        start(&app, &[("client_id", client), ("resource", RESOURCE)]).await.status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(error_code(poll(&app, client, "mgd_x").await).await, "unsupported_grant_type");
    assert_eq!(app.browser().open("/device").await.status, StatusCode::NOT_FOUND);
}

/// Submits "Allow" and closes the connection after `moment`, as a browser does when the user clicks again.
async fn allow_and_hang_up(app: &TestApp, browser: &Browser<'_>, page: &Page, moment: Duration) {
    let form = format!("form_token={}&decision=allow", page.form_token());
    let cookies: Vec<_> = browser.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let request = format!(
        "POST /device/consent HTTP/1.1\r\nHost: auth.example\r\nCookie: {}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        cookies.join("; "),
        form.len()
    );
    let mut stream = TcpStream::connect(app.public.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(moment).await;
}

#[actix_web::test]
async fn a155_two_clicks_on_allow_are_one_answer() {
    for app in TestApp::on_both_stores(&[("ADDITIONAL_GRANTS", "device_code"), ("WORKERS", "4")]).await {
        let client = television(&app).await;
        let mut ana = app.browser_of("ana").await;
        for moment in [None, Some(0), Some(0), Some(1), Some(3), Some(50)] {
            let codes = codes(&app, &client).await;
            let page = type_code(&mut ana, &codes.user).await;
            let mut same = app.browser_with(&ana);
            let answers = match moment {
                None => {
                    let clicks = [decide(&mut ana, &page, "allow"), decide(&mut same, &page, "allow")];
                    futures_util::future::join_all(clicks).await
                }
                Some(moment) => {
                    allow_and_hang_up(&app, &ana, &page, Duration::from_millis(moment)).await;
                    vec![decide(&mut ana, &page, "allow").await]
                }
            };
            for answer in answers {
                assert!(
                    answer.status == StatusCode::OK && answer.body.contains("is connected"),
                    "{moment:?}: {}",
                    answer.body
                );
            }
            app.wait(Duration::from_secs(5));
            assert_eq!(poll(&app, &client, &codes.device).await.status(), StatusCode::OK);
        }
    }
}
