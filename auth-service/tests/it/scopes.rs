//! Tests of the scopes in registrations and in requests (RFC 6749 §3.3, RFC 7591 §2).

use auth_service::domain::client::{GrantType, OperatorTerms};
use auth_service::operator::NewClient;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::app::{
    CHALLENGE, REDIRECT, RESOURCE, TestApp, VERIFIER, authorize_query, error_code, rand_suffix,
};
use super::device::send_code;
use super::machines::{enter, new_client, resource};
use super::policy::Ruled;

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// An example policy from docs/policy.md, with a second service.
const NOTES: &str = r#"
[scopes]
"notes:read" = "Read your notes"
"notes:write" = "Change and delete your notes"

[[service]]
host = "mcp.example"
scopes = "notes:read"

[[service.tool]]
match = "delete_*"
scopes = "notes:write"

[[service]]
host = "other.example"
scopes = "other:use"
"#;

async fn notes() -> Ruled {
    Ruled::by(NOTES, &[("ADDITIONAL_GRANTS", "client_credentials, device_code")]).await
}

/// Registers a client as an SDK does after the first challenge. Returns the response.
async fn registered(app: &TestApp, scope: &str, method: &str) -> Value {
    let metadata = json!({
        "redirect_uris": [REDIRECT], "token_endpoint_auth_method": method, "client_name": "An SDK", "scope": scope,
        "grant_types": ["authorization_code", "refresh_token", DEVICE_CODE], "response_types": ["code"],
    });
    let response = app.register(&metadata).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    response.json().await.unwrap()
}

fn text(body: &Value, name: &str) -> String {
    body[name].as_str().unwrap_or_default().to_owned()
}

/// The token response to a request with these parameters. The client sends its secret if it has one.
async fn granted(app: &TestApp, client: &Value, replaced: &[(&str, &str)]) -> Value {
    let id = text(client, "client_id");
    let mut browser = app.browser_of(&format!("person{}", rand_suffix())).await;
    let code = browser.allow(&authorize_query(&id, replaced)).await;
    let secret = text(client, "client_secret");
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", &id),
        ("client_secret", &secret),
        ("code", &code),
        ("code_verifier", VERIFIER),
    ];
    let response = app.token(&form).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

async fn call(app: &TestApp, token: &Value, tool: &str) -> Response {
    let check = app.check(Method::POST, "mcp.example", "/mcp");
    let check = if token.is_null() { check } else { check.bearer_auth(text(token, "access_token")) };
    let check = check.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/call");
    check.header("mcp-name", tool).send().await.unwrap()
}

/// The `scope` of a challenge.
fn challenged(response: &Response) -> String {
    let header = response.headers()["www-authenticate"].to_str().unwrap();
    header.split_once(" scope=\"").unwrap().1.split('"').next().unwrap().to_owned()
}

#[actix_web::test]
async fn a_client_that_registered_with_the_scope_of_the_first_challenge_steps_up() {
    let Ruled { app, .. } = &notes().await;
    for method in ["none", "client_secret_post"] {
        let first = call(app, &Value::Null, "read_page").await;
        let scope = challenged(&first);
        assert_eq!(scope, "notes:read");
        let client = registered(app, &scope, method).await;
        assert_eq!(client["scope"], "notes:read");
        let token = granted(app, &client, &[("scope", &scope)]).await;
        assert_eq!(token["scope"], "notes:read");
        assert_eq!(call(app, &token, "read_page").await.status(), StatusCode::OK);
        let refused = call(app, &token, "delete_page").await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        // The challenge lists all scopes that the client needs or already has, so a client that requests exactly
        // these loses nothing.
        let scope = challenged(&refused);
        assert_eq!(scope, "notes:read notes:write");
        let wider = granted(app, &client, &[("scope", &scope)]).await;
        assert_eq!(wider["scope"], "notes:read notes:write");
        for tool in ["read_page", "delete_page"] {
            assert_eq!(call(app, &wider, tool).await.status(), StatusCode::OK, "{tool}");
        }
    }
}

#[actix_web::test]
async fn a_scope_that_a_client_says_of_itself_is_what_it_means_by_saying_nothing() {
    let Ruled { app, .. } = &notes().await;
    let usual = async |registered_scope: &str, replaced: &[(&str, &str)]| {
        let client = registered(app, registered_scope, "none").await;
        granted(app, &client, replaced).await["scope"].clone()
    };
    let silent = [("scope", "")];
    assert_eq!(usual("notes:read notes:write", &silent).await, "notes:read notes:write");
    assert_eq!(usual("notes:read", &silent).await, "notes:read");
    assert_eq!(usual("", &silent).await, "notes:read");
    // An unknown scope is ignored.
    assert_eq!(usual("claudeai", &[("scope", "claudeai")]).await, "notes:read");
    assert_eq!(usual("notes:write", &[("scope", "claudeai")]).await, "notes:read notes:write");
    // A client that registered a scope for one service can still use another service.
    let other = [("scope", ""), ("resource", "https://other.example/mcp")];
    assert_eq!(usual("notes:read", &other).await, "notes:read other:use");
    // The scope in the request applies, even if it is narrower than the registered one.
    let twice = [("scope", "notes:read  notes:read ")];
    assert_eq!(usual("notes:read notes:write", &twice).await, "notes:read");
}

/// Starts the device flow, and returns the response.
async fn device(app: &TestApp, form: &[(&str, &str)]) -> Response {
    app.http.post(format!("{}/device_authorization", app.public)).form(form).send().await.unwrap()
}

async fn push(app: &TestApp, form: &[(&str, &str)]) -> Response {
    app.http.post(format!("{}/par", app.public)).form(form).send().await.unwrap()
}

const PUSHED: [(&str, &str); 5] = [
    ("response_type", "code"),
    ("redirect_uri", REDIRECT),
    ("resource", RESOURCE),
    ("code_challenge", CHALLENGE),
    ("code_challenge_method", "S256"),
];

#[actix_web::test]
async fn a_pushed_request_and_a_device_step_up_as_well() {
    let Ruled { app, .. } = &notes().await;
    let id = text(&registered(app, "notes:read", "none").await, "client_id");
    let more = [("client_id", id.as_str()), ("scope", "notes:read notes:write")];

    let form: Vec<_> = PUSHED.into_iter().chain(more).collect();
    let uri = text(&push(app, &form).await.json().await.unwrap(), "request_uri");
    let query = serde_urlencoded::to_string([("client_id", id.as_str()), ("request_uri", &uri)]).unwrap();
    let code = app.browser_of("ana").await.allow(&query).await;
    assert_eq!(app.redeem(&id, &code).await.json::<Value>().await.unwrap()["scope"], more[1].1);

    let form: Vec<_> = more.into_iter().chain([("resource", RESOURCE)]).collect();
    let codes: Value = device(app, &form).await.json().await.unwrap();
    let mut browser = app.browser_of("bob").await;
    let page = browser.open("/device").await;
    let page = send_code(&mut browser, &page, &text(&codes, "user_code")).await;
    assert!(page.body.contains("Change and delete your notes (notes:write)"), "{}", page.body);
    browser.submit(&page, &[("decision", "allow")]).await;
    let device_code = text(&codes, "device_code");
    let poll = [("grant_type", DEVICE_CODE), ("client_id", &id), ("device_code", &device_code)];
    assert_eq!(app.token(&poll).await.json::<Value>().await.unwrap()["scope"], more[1].1);
}

#[actix_web::test]
async fn an_update_of_a_registration_makes_no_ceiling_either() {
    let Ruled { app, .. } = &notes().await;
    let client = registered(app, "notes:read notes:write", "none").await;
    let update = json!({
        "client_id": client["client_id"], "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none", "scope": "notes:read",
    });
    let url = format!("{}/register/{}", app.public, text(&client, "client_id"));
    let request = app.http.put(url).bearer_auth(text(&client, "registration_access_token"));
    let updated: Value = request.json(&update).send().await.unwrap().json().await.unwrap();
    assert_eq!(updated["scope"], "notes:read");
    assert_eq!(granted(app, &updated, &[("scope", "notes:write")]).await["scope"], "notes:write");
    assert_eq!(granted(app, &updated, &[("scope", "")]).await["scope"], "notes:read");
}

#[actix_web::test]
async fn beyond_what_the_operator_gave_a_client_is_refused_and_never_cut_down() {
    let Ruled { app, .. } = &notes().await;
    let limited = NewClient {
        grant_types: vec![GrantType::AuthorizationCode, GrantType::ClientCredentials, GrantType::DeviceCode],
        redirect_uris: vec![REDIRECT.to_owned().try_into().unwrap()],
        scope: Some("notes:read".parse().unwrap()),
        terms: OperatorTerms { resources: vec![resource(RESOURCE)], ..OperatorTerms::default() },
        ..new_client("limited")
    };
    let (id, secret) = enter(app, limited).await;
    let credentials = [("client_id", id.as_str()), ("client_secret", &secret)];
    for scope in ["notes:read notes:write", "notes:write", "notes:write unheard_of"] {
        let query = authorize_query(&id, &[("scope", scope)]);
        let page = app.browser().open(&format!("/authorize?{query}")).await;
        assert_eq!(page.parameter("error").as_deref(), Some("invalid_scope"), "{scope}");
        let why = page.parameter("error_description").unwrap();
        assert!(why.contains("notes:write") && !why.contains("notes:read"), "{why}");
        let asked = [("scope", scope)];
        let form: Vec<_> = PUSHED.into_iter().chain(credentials).chain(asked).collect();
        assert_eq!(error_code(push(app, &form).await).await, "invalid_scope", "{scope}");
        let form: Vec<_> = credentials.into_iter().chain(asked).chain([("resource", RESOURCE)]).collect();
        assert_eq!(error_code(device(app, &form).await).await, "invalid_scope", "{scope}");
        let form: Vec<_> = form.into_iter().chain([("grant_type", "client_credentials")]).collect();
        assert_eq!(error_code(app.token(&form).await).await, "invalid_scope", "{scope}");
    }
    let client = json!({ "client_id": id, "client_secret": secret });
    for scope in ["", "notes:read", "notes:read unheard_of"] {
        assert_eq!(granted(app, &client, &[("scope", scope)]).await["scope"], "notes:read", "{scope}");
    }
}

#[actix_web::test]
async fn a_client_whose_limit_names_nothing_that_exists_is_refused_and_gets_no_empty_scope() {
    let Ruled { app, .. } = &notes().await;
    let limited = NewClient {
        grant_types: vec![GrantType::AuthorizationCode, GrantType::ClientCredentials, GrantType::DeviceCode],
        redirect_uris: vec![REDIRECT.to_owned().try_into().unwrap()],
        scope: Some("gone:read".parse().unwrap()),
        terms: OperatorTerms { resources: vec![resource(RESOURCE)], ..OperatorTerms::default() },
        ..new_client("limited")
    };
    let (id, secret) = enter(app, limited).await;
    let credentials = [("client_id", id.as_str()), ("client_secret", &secret)];
    for scope in ["", "gone:read", "unheard_of"] {
        let query = authorize_query(&id, &[("scope", scope)]);
        let page =
            app.browser_of(&format!("ana-{}", scope.len())).await.open(&format!("/authorize?{query}")).await;
        assert_eq!(page.parameter("error").as_deref(), Some("invalid_scope"), "{scope}");
        assert!(page.parameter("error_description").unwrap().contains("existing scopes"), "{scope}");
        let asked: Vec<_> = [("scope", scope)].into_iter().filter(|(_, scope)| !scope.is_empty()).collect();
        let form: Vec<_> = PUSHED.into_iter().chain(credentials).chain(asked.clone()).collect();
        assert_eq!(error_code(push(app, &form).await).await, "invalid_scope", "{scope}");
        let form: Vec<_> = credentials.into_iter().chain(asked).chain([("resource", RESOURCE)]).collect();
        assert_eq!(error_code(device(app, &form).await).await, "invalid_scope", "{scope}");
        let form: Vec<_> = form.into_iter().chain([("grant_type", "client_credentials")]).collect();
        assert_eq!(error_code(app.token(&form).await).await, "invalid_scope", "{scope}");
    }
}

async fn refresh(app: &TestApp, client: &Value, token: &Value, scope: &str) -> Response {
    let (id, refresh_token) = (text(client, "client_id"), text(token, "refresh_token"));
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", &id),
        ("refresh_token", &refresh_token),
        ("scope", scope),
    ];
    app.token(&form).await
}

#[actix_web::test]
async fn a_name_that_nobody_knows_is_ignored_from_the_first_request_to_the_last() {
    let Ruled { app, .. } = &notes().await;
    let client = registered(app, "", "none").await;
    // Some libraries send the original scope again when they redeem a code and when they refresh.
    let asked = "openid notes:read claudeai offline_access";
    let id = text(&client, "client_id");
    let code = app.browser_of("ana").await.allow(&authorize_query(&id, &[("scope", asked)])).await;
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", &id),
        ("code", &code),
        ("code_verifier", VERIFIER),
        ("scope", asked),
    ];
    let token: Value = app.token(&form).await.json().await.unwrap();
    assert_eq!(token["scope"], "notes:read", "{token}");
    for scope in [asked, "openid", "notes:read", " "] {
        let next: Value = refresh(app, &client, &token, scope).await.json().await.unwrap();
        assert_eq!(next["scope"], "notes:read", "{scope}: {next}");
    }
    // A known scope that was not granted needs the user's consent.
    for scope in ["notes:write", "notes:read notes:write", "\""] {
        assert_eq!(error_code(refresh(app, &client, &token, scope).await).await, "invalid_scope", "{scope}");
    }
}
