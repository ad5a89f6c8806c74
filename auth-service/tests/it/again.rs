//! Tests of pages after a second click, after the back button, after a reload, and in two tabs. Each page must
//! explain what happened and offer a link to continue.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::app::{ISSUER, PASSWORD, RESOURCE, TestApp, authorize_query};
use super::browser::{Browser, Page};
use super::device::{decide, send_code};

const NEW: &str = "a password of my own";
const SIGN_IN: [(&str, &str); 2] = [("username", "ana"), ("password", PASSWORD)];

/// The target of the page's "continue" link, as a path within the service.
fn way_on(page: &Page) -> String {
    let (_, rest) =
        page.body.split_once("class=\"way-on\"").unwrap_or_else(|| panic!("no link in {}", page.body));
    let url = rest.split_once("href=\"").unwrap().1.split('"').next().unwrap();
    let url = url.replace("&#38;", "&").replace("&amp;", "&");
    url.strip_prefix(ISSUER).unwrap().to_owned()
}

/// Follows the link to the consent page, and allows the application.
async fn allow_by_way_on(browser: &mut Browser<'_>, page: &Page) {
    let again = browser.open(&way_on(page)).await;
    assert!(again.body.contains("Allow an application"), "{}", again.body);
    assert!(browser.submit(&again, &[("decision", "allow")]).await.parameter("code").is_some());
}

#[actix_web::test]
async fn a_login_form_is_good_again_after_a_login() {
    let app = TestApp::start().await;
    let client = app.client().await;
    app.person("ana").await;
    let mut browser = app.browser();
    let query = format!("/authorize?{}", authorize_query(&client, &[]));
    let (tab, other) = (browser.follow(&query).await, browser.follow(&query).await);
    // The form is sent in the first tab, again in the first tab, and in the other tab.
    for page in [&tab, &tab, &other] {
        let answer = browser.submit(page, &SIGN_IN).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
        assert!(answer.location.unwrap().starts_with(&format!("{ISSUER}/authorize?")));
    }
    // After the back button, the form shows who is signed in, and offers a link to continue.
    let back = browser.open(&format!("/login?{}", authorize_query(&client, &[]))).await;
    assert!(back.body.contains("You are signed in as <strong>ana</strong>"), "{}", back.body);
    allow_by_way_on(&mut browser, &back).await;
}

#[actix_web::test]
async fn a_login_form_that_is_too_old_is_replaced_by_a_fresh_one_that_leads_to_the_same_place() {
    let app = TestApp::start().await;
    let client = app.client().await;
    app.person("ana").await;
    let mut browser = app.browser();
    let old = browser.follow(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    app.wait(Duration::from_secs(16 * 60));
    let fresh = browser.submit(&old, &SIGN_IN).await;
    assert!(fresh.status == StatusCode::BAD_REQUEST && fresh.body.contains("open for too long"));
    let answer = browser.submit(&fresh, &SIGN_IN).await;
    assert!(answer.location.unwrap().starts_with(&format!("{ISSUER}/authorize?")));
    // A form from another browser does not sign the user in, and the user name that was typed there is not shown
    // (a015).
    let mut other = app.browser();
    let fresh = other.submit(&old, &[("username", "mallory"), ("password", PASSWORD)]).await;
    assert!(fresh.status == StatusCode::BAD_REQUEST && !fresh.body.contains("mallory"));
    assert!(!other.cookies.iter().any(|(name, _)| name.ends_with("_session")));
    assert_eq!(other.submit(&fresh, &SIGN_IN).await.status, StatusCode::SEE_OTHER);
}

#[actix_web::test]
async fn a_mistyped_password_has_a_page_of_its_own_that_leads_on_after_the_login() {
    let app = TestApp::start().await;
    let client = app.client().await;
    app.person("ana").await;
    let mut browser = app.browser();
    let login = browser.follow(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    let fields = [("username", "ana"), ("password", "wrong wrong wrong")];
    let answer = app.http.post(format!("{}/login", app.public)).header("cookie", browser.cookie_header());
    let answer = answer
        .form(&[[("form_token", login.form_token().as_str())].as_slice(), &fields].concat())
        .send()
        .await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let there = answer.headers()["location"].to_str().unwrap().strip_prefix(ISSUER).unwrap().to_owned();
    // The page can be reloaded any number of times. It keeps the typed user name, and shows it only in this
    // browser.
    for _ in 0..2 {
        let page = browser.open(&there).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN);
        assert!(
            page.body.contains("password is wrong") && page.body.contains("value=\"ana\""),
            "{}",
            page.body
        );
    }
    let page = app.browser().open(&there).await;
    assert!(page.status == StatusCode::BAD_REQUEST && !page.body.contains("ana"), "{}", page.body);
    // The user presses the back button after the login.
    assert_eq!(browser.submit(&login, &SIGN_IN).await.status, StatusCode::SEE_OTHER);
    let back = browser.open(&there).await;
    assert!(!back.body.contains("password is wrong"), "{}", back.body);
    assert!(back.body.contains("You are signed in as <strong>ana</strong>"), "{}", back.body);
    allow_by_way_on(&mut browser, &back).await;
    // A user who is already signed in and mistypes the password of another account sees an error.
    let page = browser.submit(&back, &[("username", "eve"), ("password", PASSWORD)]).await;
    assert!(page.status == StatusCode::FORBIDDEN && page.body.contains("password is wrong"), "{}", page.body);
    assert!(page.body.contains("You are signed in as <strong>ana</strong>"), "{}", page.body);
    assert!(way_on(&page).starts_with("/authorize?"), "{}", page.body);
}

#[actix_web::test]
async fn a_browser_that_keeps_no_cookies_is_told_so() {
    let app = TestApp::start().await;
    app.person("ana").await;
    let mut page = app.browser().open("/login").await;
    for _ in 0..2 {
        let mut forgetful = app.browser();
        let form = [("form_token", page.form_token().as_str()), SIGN_IN[0], SIGN_IN[1]]
            .map(|(name, value)| (name, value.to_owned()));
        let answer = app.http.post(format!("{}/login", app.public)).form(&form).send().await.unwrap();
        let there = answer.headers()["location"].to_str().unwrap().strip_prefix(ISSUER).unwrap().to_owned();
        page = forgetful.open(&there).await;
        assert!(page.body.contains("allow your browser to keep cookies of this site"), "{}", page.body);
    }
}

#[actix_web::test]
async fn what_became_of_an_answer_is_told_by_a_page_that_can_be_loaded_again_for_a_while() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let page = browser.open(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    assert!(browser.submit(&page, &[("decision", "allow")]).await.parameter("code").is_some());
    let form = [("form_token", page.form_token()), ("decision", "allow".to_owned())];
    let request = app.http.post(format!("{}/consent", app.public)).header("cookie", browser.cookie_header());
    let answer = request.form(&form).send().await.unwrap();
    let there = answer.headers()["location"].to_str().unwrap().strip_prefix(ISSUER).unwrap().to_owned();
    for _ in 0..2 {
        let page = browser.open(&there).await;
        assert!(page.status == StatusCode::CONFLICT && page.body.contains("You have already answered"));
    }
    // The page is shown only in this browser. Otherwise, an attacker could send other users a link to a page of
    // this service that makes a false statement and links to an address of the attacker's choice.
    for other in [&mut app.browser(), &mut app.browser_of("eve").await] {
        let page = other.open(&there).await;
        assert!(page.status == StatusCode::GONE && !page.body.contains("class=\"way-on\""), "{}", page.body);
    }
    // A made-up form token does not produce a result page.
    for made_up in ["", "?form_token=", "?form_token=AAAA", &format!("?form_token={}", page.form_token())] {
        let page = browser.open(&format!("/consent/answered{made_up}")).await;
        assert!(
            page.status == StatusCode::GONE && page.body.contains("This page has expired"),
            "{}",
            page.body
        );
    }
    app.wait(Duration::from_secs(16 * 60));
    assert_eq!(browser.open(&there).await.status, StatusCode::GONE);
}

#[actix_web::test]
async fn a_password_that_is_chosen_with_two_clicks_signs_in() {
    let app = TestApp::start().await;
    let client = app.client().await;
    app.account("ana", true).await;
    let mut browser = app.browser();
    let login = browser.follow(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    let choose = browser.submit_and_follow(&login, &SIGN_IN).await;
    let chosen = [("new_password", NEW), ("new_password_repeat", NEW)];
    for _ in 0..2 {
        let answer = browser.submit(&choose, &chosen).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
        assert!(answer.location.unwrap().starts_with(&format!("{ISSUER}/authorize?")));
    }
    // The earlier form, with the one-time password, is no longer accepted.
    assert_eq!(browser.submit(&login, &SIGN_IN).await.status, StatusCode::FORBIDDEN);
    // A form with a different password changes nothing and leads back to the login form. The number of attempts is
    // limited (a022).
    let mut last = StatusCode::OK;
    for n in 0..12 {
        let wrong = format!("guess number {n}");
        let fields = [("new_password", wrong.as_str()), ("new_password_repeat", wrong.as_str())];
        let page = app.browser_with(&browser).submit(&choose, &fields).await;
        assert!(page.body.contains("<h1>Sign in</h1>"), "{}", page.body);
        last = page.status;
        if n == 0 {
            assert!(
                last == StatusCode::CONFLICT && page.body.contains("has already been used"),
                "{}",
                page.body
            );
        }
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
}

#[actix_web::test]
async fn a155_a_second_answer_to_one_question_makes_no_second_grant_and_leads_on() {
    let app = TestApp::start().await;
    let client = app.client_with(&["http://127.0.0.1/cb"]).await;
    let mut browser = app.browser_of("ana").await;
    let query = authorize_query(&client, &[("redirect_uri", "http://127.0.0.1:5000/cb")]);
    let page = browser.open(&format!("/authorize?{query}")).await;
    assert!(browser.submit(&page, &[("decision", "allow")]).await.parameter("code").is_some());
    let again = browser.submit(&page, &[("decision", "allow")]).await;
    assert_eq!((again.status, &again.location), (StatusCode::CONFLICT, &None));
    assert!(again.body.contains("You have already answered"), "{}", again.body);
    assert!(!again.body.contains("Nothing was allowed") && !again.body.contains("not signed in"));
    allow_by_way_on(&mut browser, &again).await;
}

#[actix_web::test]
async fn a_second_answer_after_the_login_has_ended_does_not_deny_the_first() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let query = format!("/authorize?{}", authorize_query(&client, &[]));
    let page = browser.open(&query).await;
    assert!(browser.submit(&page, &[("decision", "allow")]).await.parameter("code").is_some());
    // The form is sent first without session cookies, and then with the cookies of another login.
    let mut other = app.browser();
    for _ in 0..2 {
        let again = other.submit(&page, &[("decision", "allow")]).await;
        assert_eq!(again.status, StatusCode::BAD_REQUEST);
        assert!(!again.body.contains("Nothing was allowed"), "{}", again.body);
        assert!(again.body.contains("An earlier answer of yours is still valid"), "{}", again.body);
        assert!(again.body.contains("Show the question again"), "{}", again.body);
        let login = other.open("/login").await;
        assert_eq!(other.submit(&login, &SIGN_IN).await.status, StatusCode::OK);
    }
}

#[actix_web::test]
async fn a_question_that_cannot_be_answered_any_more_can_be_asked_again() {
    let app = TestApp::start_with(&[("REMEMBER_CONSENT", "off")]).await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let query = format!("/authorize?{}", authorize_query(&client, &[]));
    // The user signs in again in another tab before answering.
    let page = browser.open(&query).await;
    let login = browser.open("/login").await;
    browser.submit(&login, &SIGN_IN).await;
    let refused = browser.submit(&page, &[("decision", "allow")]).await;
    assert!(refused.status == StatusCode::BAD_REQUEST && refused.body.contains("before you signed in again"));
    allow_by_way_on(&mut browser, &refused).await;
    // The page was open for too long.
    let page = browser.open(&query).await;
    app.wait(Duration::from_secs(16 * 60));
    let refused = browser.submit(&page, &[("decision", "allow")]).await;
    assert!(refused.body.contains("open for too long"), "{}", refused.body);
    allow_by_way_on(&mut browser, &refused).await;
    // The form is sent without an answer.
    let page = browser.open(&query).await;
    let refused = browser.submit(&page, &[]).await;
    allow_by_way_on(&mut browser, &refused).await;
    // The session has ended. The user must sign in first, and is then asked again.
    let page = browser.open(&query).await;
    browser.cookies.retain(|(name, _)| !name.ends_with("_session"));
    let refused = browser.submit(&page, &[("decision", "allow")]).await;
    assert!(refused.status == StatusCode::BAD_REQUEST && refused.body.contains("Sign in again"));
    let login = browser.follow(&way_on(&refused)).await;
    let there = browser.submit(&login, &SIGN_IN).await.location.unwrap();
    let page = browser.open(there.strip_prefix(ISSUER).unwrap()).await;
    assert!(browser.submit(&page, &[("decision", "allow")]).await.parameter("code").is_some());
}

#[actix_web::test]
async fn a_device_that_is_allowed_twice_by_its_user_is_connected() {
    let app = TestApp::start_with(&[("ADDITIONAL_GRANTS", "device_code")]).await;
    let grant = "urn:ietf:params:oauth:grant-type:device_code";
    let metadata =
        json!({ "client_name": "Television", "token_endpoint_auth_method": "none", "grant_types": [grant] });
    let registered: Value = app.register(&metadata).await.json().await.unwrap();
    let client = registered["client_id"].as_str().unwrap();
    let form = [("client_id", client), ("resource", RESOURCE)];
    let started = app.http.post(format!("{}/device_authorization", app.public)).form(&form).send().await;
    let codes: Value = started.unwrap().json().await.unwrap();
    let (device, user) = (codes["device_code"].as_str().unwrap(), codes["user_code"].as_str().unwrap());
    let (mut ana, mut eve) = (app.browser_of("ana").await, app.browser_of("eve").await);
    let code_page = ana.open("/device").await;
    let page = send_code(&mut ana, &code_page, user).await;
    let page_of_eve = eve.open("/device").await;
    let page_of_eve = send_code(&mut eve, &page_of_eve, user).await;
    let is_connected = |answer: &Page| {
        assert!(answer.status == StatusCode::OK && answer.body.contains("is connected"), "{}", answer.body);
    };
    // The form is sent twice at the same moment, as Firefox does after a double click.
    let mut same = app.browser_with(&ana);
    let clicks = futures_util::join!(decide(&mut ana, &page, "allow"), decide(&mut same, &page, "allow"));
    is_connected(&clicks.0);
    is_connected(&clicks.1);
    // The form is sent again later, and the page that shows the result is reloaded.
    let result = ana.submit(&page, &[("decision", "allow")]).await;
    assert_eq!(result.status, StatusCode::SEE_OTHER);
    let result = result.location.unwrap();
    let result = result.strip_prefix(ISSUER).unwrap();
    is_connected(&ana.open(result).await);
    app.token(&[("grant_type", grant), ("client_id", client), ("device_code", device)]).await;
    is_connected(&decide(&mut ana, &page, "allow").await);
    is_connected(&ana.open(result).await);
    // Without the parameters of the question, the address redirects to the page for the user code.
    assert_eq!(ana.open("/device/consent").await.location.unwrap(), format!("{ISSUER}/device"));
    // The question has already been answered. Whether another user now allows the device or the same user now
    // denies it, the response is a page that explains this and offers to accept another code.
    for answer in [decide(&mut eve, &page_of_eve, "allow").await, decide(&mut ana, &page, "deny").await] {
        assert_eq!(answer.status, StatusCode::CONFLICT);
        assert_eq!(way_on(&answer), "/device");
    }
    // The user goes back to the page for the code, where the code is still filled in, and submits it again.
    let again = ana.submit(&code_page, &[("user_code", user)]).await;
    assert!(again.body.contains("If you have already answered, look at the device"), "{}", again.body);
    // After the codes have expired, the page still makes no false statement about the result.
    app.wait(Duration::from_secs(601));
    let late = ana.open(result).await;
    assert!(late.body.contains("If the device is not connected"), "{}", late.body);
    assert!(!late.body.contains("Nothing was allowed"), "{}", late.body);
}
