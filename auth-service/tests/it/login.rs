//! Tests of `/login`, with passwords, sessions and one-time passwords.

use std::time::Duration;

use reqwest::StatusCode;

use super::app::{ISSUER, PASSWORD, TestApp, authorize_query};

const NEW: &str = "a password of my own";

#[actix_web::test]
async fn a021_a_wrong_password_and_an_unknown_name_look_the_same() {
    let app = TestApp::start().await;
    app.person("ana").await;
    let mut browser = app.browser();
    let page = browser.open("/login").await;
    let mut bodies = Vec::new();
    for (name, password) in
        [("ana", "wrong wrong wrong"), ("nobody", PASSWORD), ("a b", PASSWORD), ("ana", "")]
    {
        let answer = browser.submit(&page, &[("username", name), ("password", password)]).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{name}");
        bodies.push(answer.body.replace(&answer.form_token(), "").replace(&format!("value=\"{name}\""), ""));
    }
    assert!(bodies.iter().all(|body| body == &bodies[0]));
}

#[actix_web::test]
async fn a015_a_login_form_counts_in_its_own_browser_and_gives_a_new_session() {
    let app = TestApp::start().await;
    app.person("ana").await;
    let fields = [("username", "ana"), ("password", PASSWORD)];
    let mut mine = app.browser();
    let page = mine.open("/login").await;
    assert_eq!(app.browser().submit(&page, &fields).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(mine.post("/login", &fields).await.status, StatusCode::BAD_REQUEST);
    // A session cookie that an attacker planted is replaced at the login.
    mine.cookies.push(("__Host-mcp_gate_session".to_owned(), "planted".to_owned()));
    assert_eq!(mine.submit(&page, &fields).await.status, StatusCode::OK);
    let session = |browser: &super::browser::Browser<'_>| {
        browser.cookies.iter().find(|(name, _)| name.ends_with("_session")).unwrap().1.clone()
    };
    let first = session(&mine);
    assert_ne!(first, "planted");
    let page = mine.open("/login").await;
    mine.submit(&page, &fields).await;
    assert_ne!(session(&mine), first);
}

#[actix_web::test]
async fn a_login_ends_after_its_time() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let query = format!("/authorize?{}", authorize_query(&client, &[]));
    let mut browser = app.browser_of("ana").await;
    assert_eq!(browser.open(&query).await.status, StatusCode::OK);
    app.wait(Duration::from_secs(12 * 3600));
    let page = browser.open(&query).await;
    assert!(page.location.unwrap().contains("/login?"));
}

#[actix_web::test]
async fn a102_a_one_time_password_works_once_and_is_replaced() {
    let app = TestApp::start().await;
    app.account("ana", true).await;
    let mut browser = app.browser();
    let page = browser.open("/login").await;
    // A password copied from a terminal can be surrounded by whitespace.
    let pasted = format!(" {PASSWORD}\t ");
    let choose = browser.submit_and_follow(&page, &[("username", "ana"), ("password", &pasted)]).await;
    assert!(choose.body.contains("Choose your own password"));
    // A one-time password does not sign the user in before a new password is chosen.
    assert!(!browser.cookies.iter().any(|(name, _)| name.ends_with("_session")));
    for (chosen, repeated) in
        [("short", "short"), (NEW, "something else entirely"), (PASSWORD, PASSWORD), ("", "")]
    {
        let again =
            browser.submit(&choose, &[("new_password", chosen), ("new_password_repeat", repeated)]).await;
        assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY, "{chosen}");
    }
    let fields = [("new_password", NEW), ("new_password_repeat", NEW)];
    assert_eq!(app.browser().submit(&choose, &fields).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(browser.submit(&choose, &fields).await.status, StatusCode::OK);
    // The same form cannot be used to choose yet another password.
    let other = [("new_password", "yet another password"), ("new_password_repeat", "yet another password")];
    assert_eq!(browser.submit(&choose, &other).await.status, StatusCode::CONFLICT);
    let page = browser.open("/login").await;
    assert_eq!(
        browser.submit(&page, &[("username", "ana"), ("password", PASSWORD)]).await.status,
        StatusCode::FORBIDDEN
    );
    // Whitespace is not removed from a password that the user has chosen.
    let pasted = format!("{NEW} ");
    let answer = browser.submit(&page, &[("username", "ana"), ("password", &pasted)]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(browser.submit(&page, &[("username", "ana"), ("password", NEW)]).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn a022_a023_guessing_is_slowed_and_the_owner_still_gets_in() {
    let app = TestApp::start().await;
    let mut owner = app.browser_of("ana").await;
    let mut stranger = app.browser();
    let page = stranger.open("/login").await;
    let mut last = StatusCode::OK;
    for n in 0..12 {
        last = stranger
            .submit(&page, &[("username", "ana"), ("password", &format!("guess number {n}"))])
            .await
            .status;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    // After that, even the correct password is refused from a stranger's address, and the service computes no hash
    // for it.
    assert_eq!(
        stranger.submit(&page, &[("username", "ana"), ("password", PASSWORD)]).await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
    let page = owner.open("/login").await;
    assert_eq!(
        owner.submit(&page, &[("username", "ana"), ("password", PASSWORD)]).await.status,
        StatusCode::OK
    );
}

#[actix_web::test]
async fn a009_a010_after_a_password_comes_a_303_that_leaves_no_trace() {
    let app = TestApp::start().await;
    let client = app.client().await;
    app.person("ana").await;
    let mut browser = app.browser();
    let page = browser.follow(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    let answer = browser.submit(&page, &[("username", "ana"), ("password", PASSWORD)]).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(
        (&answer.headers["referrer-policy"], &answer.headers["cache-control"]),
        (&"no-referrer".parse().unwrap(), &"no-store".parse().unwrap())
    );
}

#[actix_web::test]
async fn a_form_that_could_not_be_sent_is_not_shown() {
    let app = TestApp::start().await;
    app.person("ana").await;
    for path in ["/login?state=", "/login/device?state="] {
        // Browsers send a backslash in a query without encoding it. In a form token, it takes two characters.
        let page = app.browser().open(&format!("{path}{}", "\\".repeat(7700))).await;
        assert_eq!(page.status, StatusCode::URI_TOO_LONG, "{path}");
        assert!(page.body.contains("too long") && !page.body.contains("form_token"), "{}", page.body);
        // The longest form that is shown can be submitted with the longest password.
        let mut browser = app.browser();
        let login = browser.open(&format!("{path}{}", "a".repeat(8100))).await;
        assert_eq!(login.status, StatusCode::OK, "{path}");
        let password = "\u{e9}".repeat(256);
        let wrong = browser.submit(&login, &[("username", "ana"), ("password", &password)]).await;
        assert!(wrong.body.contains("form_token"), "{} {}", wrong.status, wrong.body);
    }
}

#[actix_web::test]
async fn the_largest_form_for_a_new_password_can_be_sent() {
    let app = TestApp::start().await;
    app.account("ana", true).await;
    let mut browser = app.browser();
    // This is the longest query that the login form accepts, with as many backslashes as possible.
    let link =
        |doubled: usize| format!("/login?state={}{}", "\\".repeat(doubled), "a".repeat(8186 - doubled));
    let mut longest = 1024;
    let mut login = browser.open(&link(longest)).await;
    while login.status != StatusCode::OK {
        longest -= 16;
        login = browser.open(&link(longest)).await;
    }
    assert!(longest > 0, "no query without such characters is accepted");
    // The form token is too long for a URL, so the response is the page itself.
    let choose = browser.submit(&login, &[("username", "ana"), ("password", PASSWORD)]).await;
    assert!(choose.status == StatusCode::OK && choose.body.contains("Choose your own"), "{}", choose.body);
    let chosen = "\u{20ac}".repeat(85);
    let fields = [("new_password", chosen.as_str()), ("new_password_repeat", chosen.as_str())];
    assert_eq!(browser.submit(&choose, &fields).await.status, StatusCode::SEE_OTHER);
}

#[actix_web::test]
async fn the_page_for_a_new_password_has_an_address_of_its_own() {
    let app = TestApp::start().await;
    let client = app.client().await;
    app.account("ana", true).await;
    let mut browser = app.browser();
    let login = browser.follow(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    let choose = browser.submit(&login, &[("username", "ana"), ("password", PASSWORD)]).await;
    assert!(choose.status == StatusCode::OK && choose.body.contains("Choose your own"), "{}", choose.body);
    let there = &format!("/login/password?form_token={}", choose.form_token());
    // The URL is valid only in this browser. In other browsers, it shows the login form.
    for stranger in [&mut app.browser(), &mut app.browser_of("eve").await] {
        let page = stranger.follow(there).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST);
        assert!(page.body.contains("<h1>Sign in</h1>") && !page.body.contains("ana"), "{}", page.body);
    }
    let fields = [("new_password", NEW), ("new_password_repeat", NEW)];
    assert_eq!(browser.submit(&choose, &fields).await.status, StatusCode::SEE_OTHER);
    // After the back button, the page shows who is signed in, and offers a link to continue.
    let back = browser.open(there).await;
    assert!(back.body.contains("You are signed in as <strong>ana</strong>"), "{}", back.body);
    assert!(back.body.contains("/authorize?"), "{}", back.body);
    // Without a form token, the URL redirects to the login form.
    assert_eq!(browser.open("/login/password").await.location.unwrap(), format!("{ISSUER}/login"));
}

#[actix_web::test]
async fn a022_logins_that_succeed_do_not_use_up_the_limit_of_their_name() {
    let app = TestApp::start().await;
    app.person("ana").await;
    for known in [false, true] {
        let mut last = app.browser();
        for _ in 0..15 {
            let mut browser = if known { app.browser_with(&last) } else { app.browser() };
            let page = browser.open("/login").await;
            let answer = browser.submit(&page, &[("username", "ana"), ("password", PASSWORD)]).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
            last = browser;
        }
    }
}

#[actix_web::test]
async fn a_password_that_is_too_long_is_measured_in_what_the_page_says() {
    let app = TestApp::start().await;
    app.account("ana", true).await;
    let mut browser = app.browser();
    let page = browser.open("/login").await;
    let choose = browser.submit_and_follow(&page, &[("username", "ana"), ("password", PASSWORD)]).await;
    // The password has fewer characters than the maximum allows, but more bytes.
    let long = "ü".repeat(200);
    let answer =
        browser.submit(&choose, &[("new_password", long.as_str()), ("new_password_repeat", &long)]).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.body.contains("at most 256 bytes"), "{}", answer.body);
}
