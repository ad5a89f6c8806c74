//! Tests of remembered consent, of pushed requests, and of the scope `offline_access`.

use std::time::Duration;

use auth_service::domain::client::{GrantType, OperatorTerms};
use auth_service::domain::redirect_uri::RedirectUri;
use auth_service::operator::{Credentials, NewClient};
use auth_service::store::Deletion;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::app::{CHALLENGE, REDIRECT, RESOURCE, TestApp, Tokens, authorize_query, error_code};
use super::machines::{enter, new_client};

#[actix_web::test]
async fn a_person_is_not_asked_again_for_what_the_client_may_do() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let query = |scope: &str, resource: &str| {
        format!("/authorize?{}", authorize_query(&client, &[("scope", scope), ("resource", resource)]))
    };
    let code = browser.allow(&authorize_query(&client, &[("scope", "mcp:read")])).await;
    let tokens = Tokens::of(app.redeem(&client, &code).await).await;
    let again = browser.open(&query("mcp:read", RESOURCE)).await;
    assert_eq!(again.status, StatusCode::SEE_OTHER);
    assert!(again.parameter("code").is_some() && again.parameter("iss").is_some());
    // A request for more scopes or for a different resource needs the user's consent. The page marks what the user
    // has already allowed.
    let more = browser.open(&query("mcp:read mcp:write", RESOURCE)).await;
    assert_eq!(more.status, StatusCode::OK);
    assert!(more.body.contains("New: it will be allowed") && more.body.contains("You allowed it before"));
    let elsewhere = browser.open(&query("mcp:read", "https://other.example/mcp")).await;
    assert!(elsewhere.status == StatusCode::OK && !elsewhere.body.contains("before"));
    // A step-up creates a second grant, and the first one stays valid.
    let code = browser.submit(&more, &[("decision", "allow")]).await.parameter("code").unwrap();
    let wider: Value = app.redeem(&client, &code).await.json().await.unwrap();
    assert_eq!(wider["scope"], "mcp:read mcp:write");
    assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::OK);
    assert_eq!(browser.open(&query("mcp:read mcp:write", RESOURCE)).await.status, StatusCode::SEE_OTHER);
    // A revocation by the client also ends the remembered consent.
    let form = [("token", wider["access_token"].as_str().unwrap()), ("client_id", &client)];
    app.http.post(format!("{}/revoke", app.public)).form(&form).send().await.unwrap();
    assert_eq!(browser.open(&query("mcp:read", RESOURCE)).await.status, StatusCode::OK);
}

#[actix_web::test]
async fn a016_a017_a_remembered_consent_is_one_persons_to_one_client_in_time() {
    let app = TestApp::start().await;
    let (one, other) = (app.client().await, app.client_with(&[REDIRECT, "https://app.example/other"]).await);
    let mut ana = app.browser_of("ana").await;
    let mut eve = app.browser_of("eve").await;
    ana.allow(&authorize_query(&one, &[])).await;
    let open = |client: &str| format!("/authorize?{}", authorize_query(client, &[]));
    assert_eq!(ana.open(&open(&other)).await.status, StatusCode::OK);
    assert_eq!(eve.open(&open(&one)).await.status, StatusCode::OK);
    // The consent page for a client on the user's own machine is always shown, because any program there
    // could send the request.
    let local = app.client_with(&["http://127.0.0.1/cb"]).await;
    let query = authorize_query(&local, &[("redirect_uri", "http://127.0.0.1:5000/cb")]);
    ana.allow(&query).await;
    let page = ana.open(&format!("/authorize?{query}")).await;
    assert!(page.status == StatusCode::OK && page.body.contains("You allowed it before"), "{}", page.body);
}

#[actix_web::test]
async fn the_first_answer_of_a_page_stands_and_the_second_is_not_told_to_the_client() {
    let app = TestApp::start_with(&[("REMEMBER_CONSENT", "off")]).await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let uri = pushed(&app, &client).await;
    for link in [authorize_query(&client, &[]), pushed_query(&client, &uri)] {
        let page = browser.open(&format!("/authorize?{link}")).await;
        let code = browser.submit(&page, &[("decision", "allow")]).await.parameter("code").unwrap();
        for decision in ["deny", "allow", "deny"] {
            let late = browser.submit(&page, &[("decision", decision)]).await;
            assert_eq!((late.status, &late.location), (StatusCode::CONFLICT, &None), "{decision}");
            assert!(late.body.contains("You have already answered"), "{}", late.body);
        }
        assert_eq!(app.redeem(&client, &code).await.status(), StatusCode::OK);
    }
    // A later approval cannot override a denial either. A second click on the same button does not count as a
    // second answer.
    let page = browser.open(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    for _ in 0..2 {
        let denied = browser.submit(&page, &[("decision", "deny")]).await;
        assert_eq!(denied.parameter("error").as_deref(), Some("access_denied"));
    }
    let late = browser.submit(&page, &[("decision", "allow")]).await;
    assert_eq!((late.status, late.location), (StatusCode::CONFLICT, None));
}

/// A client that its owner changes (RFC 7592) after its registration.
struct Changeable<'a> {
    app: &'a TestApp,
    id: String,
    token: String,
}

impl<'a> Changeable<'a> {
    async fn register(app: &'a TestApp, metadata: &Value) -> Self {
        let body: Value = app.register(metadata).await.json().await.unwrap();
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        Self { app, id: text("client_id"), token: text("registration_access_token") }
    }

    async fn change(&mut self, metadata: &Value) {
        let mut update = metadata.clone();
        update["client_id"] = json!(self.id);
        let url = format!("{}/register/{}", self.app.public, self.id);
        let response = self.app.http.put(url).bearer_auth(&self.token).json(&update).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body: Value = response.json().await.unwrap();
        body["registration_access_token"].as_str().unwrap().clone_into(&mut self.token);
    }
}

fn named(name: &str, redirect_uris: &[&str]) -> Value {
    json!({ "client_name": name, "redirect_uris": redirect_uris, "token_endpoint_auth_method": "none" })
}

const EVIL: &str = "https://evil.example/cb";

#[actix_web::test]
async fn a016_an_answer_allowed_to_one_redirect_uri_is_not_sent_to_another_of_the_same_client() {
    let app = TestApp::start().await;
    let client = app.client_with(&[REDIRECT, EVIL]).await;
    let mut browser = app.browser_of("ana").await;
    browser.allow(&authorize_query(&client, &[])).await;
    let link = format!("/authorize?{}", authorize_query(&client, &[("redirect_uri", EVIL)]));
    let page = browser.open(&link).await;
    assert_eq!((page.status, page.location), (StatusCode::OK, None));
    assert!(page.body.contains("evil.example") && !page.body.contains("You allowed it before"));
    // After the user has also allowed the second redirect URI, consent is remembered for both.
    browser.allow(&authorize_query(&client, &[("redirect_uri", EVIL)])).await;
    for uri in [REDIRECT, EVIL] {
        let query = authorize_query(&client, &[("redirect_uri", uri)]);
        assert!(browser.open(&format!("/authorize?{query}")).await.parameter("code").is_some(), "{uri}");
    }
}

#[actix_web::test]
async fn a016_a_client_that_changed_what_was_shown_is_asked_about_again() {
    let app = TestApp::start().await;
    let before = named("Honest", &[REDIRECT]);
    let mut logo = before.clone();
    logo["logo_uri"] = json!("https://app.example/logo.png");
    let mut secret = before.clone();
    secret["token_endpoint_auth_method"] = json!("client_secret_post");
    for (n, (changed, redirect_uri)) in [
        (named("Other", &[REDIRECT]), REDIRECT),
        (named("Honest", &[REDIRECT, EVIL]), EVIL),
        (named("Honest", &[REDIRECT, EVIL]), REDIRECT),
        (named("Honest", &[EVIL]), EVIL),
        (logo, REDIRECT),
        (secret, REDIRECT),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Changeable::register(&app, &before).await;
        let mut browser = app.browser_of(&format!("person{n}")).await;
        browser.allow(&authorize_query(&client.id, &[])).await;
        // After an update that changes nothing, the user is not asked again.
        client.change(&before).await;
        let again = browser.open(&format!("/authorize?{}", authorize_query(&client.id, &[]))).await;
        assert!(again.parameter("code").is_some(), "{}", again.body);
        client.change(&changed).await;
        let query = authorize_query(&client.id, &[("redirect_uri", redirect_uri)]);
        let page = browser.open(&format!("/authorize?{query}")).await;
        assert_eq!((page.status, page.location), (StatusCode::OK, None), "{changed}");
        assert!(!page.body.contains("You allowed it before"), "{changed}");
        assert_eq!(
            app.state.store.delete_client(&client.id.clone().try_into().unwrap()).await.unwrap(),
            Deletion::Deleted
        );
    }
}

#[actix_web::test]
async fn a016_a_page_that_was_open_while_the_client_changed_allows_nothing() {
    let app = TestApp::start().await;
    let mut client = Changeable::register(&app, &named("Honest", &[REDIRECT])).await;
    let mut browser = app.browser_of("ana").await;
    let page = browser.open(&format!("/authorize?{}", authorize_query(&client.id, &[]))).await;
    assert!(page.body.contains("Honest"));
    client.change(&named("Other", &[REDIRECT])).await;
    let answer = browser.submit(&page, &[("decision", "allow")]).await;
    assert_eq!((answer.status, answer.location), (StatusCode::BAD_REQUEST, None), "{}", answer.body);
    assert!(answer.body.contains("has changed"), "{}", answer.body);
}

#[actix_web::test]
async fn a034_what_a_client_with_a_secret_was_given_is_worth_nothing_once_it_has_none() {
    let app = TestApp::start().await;
    let mut with_secret = named("Honest", &[REDIRECT]);
    with_secret["token_endpoint_auth_method"] = json!("client_secret_post");
    let body: Value = app.register(&with_secret).await.json().await.unwrap();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    let (id, secret, token) = (text("client_id"), text("client_secret"), text("registration_access_token"));
    let mut client = Changeable { app: &app, id: id.clone(), token };
    let mut browser = app.browser_of("ana").await;
    let (code, late) = (
        browser.allow(&authorize_query(&id, &[])).await,
        browser.open(&format!("/authorize?{}", authorize_query(&id, &[]))).await.parameter("code").unwrap(),
    );
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", id.as_str()),
        ("client_secret", secret.as_str()),
        ("code", code.as_str()),
        ("code_verifier", super::app::VERIFIER),
    ];
    let tokens = Tokens::of(app.token(&form).await).await;
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
    client.change(&named("Honest", &[REDIRECT])).await;
    assert_eq!(error_code(app.refresh(&id, &tokens.refresh).await).await, "invalid_grant");
    assert_eq!(error_code(app.redeem(&id, &late).await).await, "invalid_grant");
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
}

#[actix_web::test]
async fn a016_a_pushed_request_leads_nowhere_that_its_client_has_given_up() {
    let app = TestApp::start().await;
    let mut client = Changeable::register(&app, &named("Honest", &[REDIRECT])).await;
    let uri = pushed(&app, &client.id).await;
    client.change(&named("Honest", &[EVIL])).await;
    let mut browser = app.browser_of("ana").await;
    let page = browser.open(&format!("/authorize?{}", pushed_query(&client.id, &uri))).await;
    assert_eq!((page.status, page.location), (StatusCode::BAD_REQUEST, None));
}

#[actix_web::test]
async fn a031_reuse_of_a_refresh_token_ends_what_is_remembered() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let mut browser = app.browser_of("ana").await;
    let code = browser.allow(&authorize_query(&client, &[])).await;
    let first = Tokens::of(app.redeem(&client, &code).await).await;
    app.refresh(&client, &first.refresh).await;
    app.wait(Duration::from_secs(121));
    assert_eq!(error_code(app.refresh(&client, &first.refresh).await).await, "invalid_grant");
    let page = browser.open(&format!("/authorize?{}", authorize_query(&client, &[]))).await;
    assert_eq!(page.status, StatusCode::OK);
}

async fn push(app: &TestApp, form: &[(&str, &str)]) -> Response {
    app.http.post(format!("{}/par", app.public)).form(form).send().await.unwrap()
}

fn request(client: &str) -> Vec<(&str, &str)> {
    vec![
        ("client_id", client),
        ("response_type", "code"),
        ("redirect_uri", REDIRECT),
        ("state", "pushed state"),
        ("scope", "mcp"),
        ("resource", RESOURCE),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ]
}

fn pushed_query(client: &str, request_uri: &str) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("client_id", client),
            ("request_uri", request_uri),
            ("scope", "ignored"),
            ("state", "ignored"),
        ])
        .finish()
}

async fn pushed(app: &TestApp, client: &str) -> String {
    let response = push(app, &request(client)).await;
    assert_eq!(
        (response.status(), &response.headers()["cache-control"]),
        (StatusCode::CREATED, &"no-store".parse().unwrap())
    );
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["expires_in"], 600);
    body["request_uri"].as_str().unwrap().to_owned()
}

#[actix_web::test]
async fn a_pushed_request_is_what_counts_and_works_once() {
    let app = TestApp::start_with(&[("REMEMBER_CONSENT", "off")]).await;
    let (client, other) = (app.client().await, app.client_with(&[REDIRECT, "https://app.example/x"]).await);
    let uri = pushed(&app, &client).await;
    let path = format!("/authorize?{}", pushed_query(&client, &uri));
    // A pushed request is also preserved across a login.
    app.person("ana").await;
    let mut browser = app.browser();
    let login = browser.follow(&path).await;
    let there = browser
        .submit(&login, &[("username", "ana"), ("password", super::app::PASSWORD)])
        .await
        .location
        .unwrap();
    let page = browser.open(there.strip_prefix(super::app::ISSUER).unwrap()).await;
    let reloaded = browser.open(&path).await;
    let answer = browser.submit(&page, &[("decision", "allow")]).await;
    assert_eq!(answer.parameter("state").as_deref(), Some("pushed state"));
    let code = answer.parameter("code").unwrap();
    assert_eq!(app.redeem(&client, &code).await.status(), StatusCode::OK);
    // The page has been opened twice but creates only one grant, and the link is no longer valid.
    assert_eq!(browser.submit(&reloaded, &[("decision", "allow")]).await.status, StatusCode::CONFLICT);
    for path in [
        path.clone(),
        format!("/authorize?{}", pushed_query(&other, &pushed(&app, &client).await)),
        format!("/authorize?{}", pushed_query(&client, "urn:ietf:params:oauth:request_uri:mgp_x")),
        format!("/authorize?{}", pushed_query(&client, "https://evil.example/request.jwt")),
    ] {
        let page = browser.open(&path).await;
        assert_eq!((page.status, page.location), (StatusCode::BAD_REQUEST, None), "{path}");
        assert!(page.body.contains("invalid_request_uri"));
    }
    let late = pushed(&app, &client).await;
    app.wait(Duration::from_secs(600));
    let page = browser.open(&format!("/authorize?{}", pushed_query(&client, &late))).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
}

#[actix_web::test]
async fn what_cannot_be_granted_is_refused_when_it_is_pushed() {
    let app = TestApp::start().await;
    let client = app.client().await;
    for (name, value, error) in [
        ("redirect_uri", "https://evil.example/cb", "invalid_request"),
        ("response_type", "token", "unsupported_response_type"),
        ("code_challenge", "", "invalid_request"),
        ("resource", "https://evil.example", "invalid_target"),
        ("request_uri", "urn:ietf:params:oauth:request_uri:x", "invalid_request"),
        ("request", "eyJ", "request_not_supported"),
        ("client_id", "nobody", "invalid_client"),
    ] {
        let form: Vec<_> =
            request(&client).into_iter().filter(|(key, _)| *key != name).chain([(name, value)]).collect();
        assert_eq!(error_code(push(&app, &form).await).await, error, "{name}={value}");
    }
}

#[actix_web::test]
async fn where_requests_must_be_pushed_no_other_counts() {
    let everywhere = TestApp::start_with(&[("REQUIRE_PUSHED_REQUESTS", "on")]).await;
    let client = everywhere.client().await;
    let open = async |app: &TestApp, client: &str| {
        app.browser().open(&format!("/authorize?{}", authorize_query(client, &[]))).await
    };
    let page = open(&everywhere, &client).await;
    assert!(page.status == StatusCode::BAD_REQUEST && page.body.contains("must be pushed first"));
    let uri = pushed(&everywhere, &client).await;
    let mut browser = everywhere.browser_of("ana").await;
    let page = browser.open(&format!("/authorize?{}", pushed_query(&client, &uri))).await;
    assert_eq!(page.status, StatusCode::OK);
    // The setting can also apply to a single client, which must then authenticate.
    let app = TestApp::start().await;
    let strict = NewClient {
        grant_types: vec![GrantType::AuthorizationCode],
        redirect_uris: vec![RedirectUri::try_from(REDIRECT.to_owned()).unwrap()],
        credentials: Credentials::Secret,
        terms: OperatorTerms { pushes_requests: true, ..OperatorTerms::default() },
        ..new_client("strict")
    };
    let (id, secret) = enter(&app, strict).await;
    // The operator entered this redirect URI, so errors can be sent to it.
    assert_eq!(open(&app, &id).await.parameter("error").as_deref(), Some("invalid_request"));
    assert_eq!(error_code(push(&app, &request(&id)).await).await, "invalid_client");
    let mut form = request(&id);
    form.push(("client_secret", &secret));
    assert_eq!(push(&app, &form).await.status(), StatusCode::CREATED);
}

#[actix_web::test]
async fn with_offline_access_only_who_asks_stays_connected() {
    let app = TestApp::start_with(&[("OFFLINE_ACCESS", "on")]).await;
    let client = app.client().await;
    let metadata: Value = {
        let url = format!("{}/.well-known/oauth-authorization-server", app.public);
        app.http.get(url).send().await.unwrap().json().await.unwrap()
    };
    assert_eq!(metadata["scopes_supported"], json!(["mcp", "offline_access"]));
    let mut browser = app.browser_of("ana").await;
    let code = browser.allow(&authorize_query(&client, &[("scope", "mcp")])).await;
    assert_eq!(Tokens::of(app.redeem(&client, &code).await).await.refresh, "");
    let page = browser
        .open(&format!("/authorize?{}", authorize_query(&client, &[("scope", "mcp offline_access")])))
        .await;
    assert!(page.body.contains("To stay connected when you are away (offline_access)"), "{}", page.body);
    let code = browser.submit(&page, &[("decision", "allow")]).await.parameter("code").unwrap();
    let tokens = Tokens::of(app.redeem(&client, &code).await).await;
    assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::OK);
    // The challenge of the resource server does not request `offline_access` either (MCP authorization, "Refresh
    // Tokens").
    let challenge = app.check(reqwest::Method::POST, "mcp.example", "/mcp").send().await.unwrap();
    assert!(!challenge.headers()["www-authenticate"].to_str().unwrap().contains("offline_access"));
}
