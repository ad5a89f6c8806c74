//! Tests of `/register/{client_id}` (RFC 7592), and of how clients are created and deleted.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::app::{REDIRECT, TestApp, error_code};

const DAY: Duration = Duration::from_secs(86_400);

struct Managed {
    id: String,
    token: String,
    body: Value,
}

async fn registered(app: &TestApp, metadata: &Value) -> Managed {
    let body: Value = app.register(metadata).await.json().await.unwrap();
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    Managed { id: text("client_id"), token: text("registration_access_token"), body }
}

fn public(name: &str) -> Value {
    json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none", "client_name": name })
}

async fn call(app: &TestApp, method: Method, id: &str, token: &str, body: Option<&Value>) -> Response {
    let request = app.http.request(method, format!("{}/register/{id}", app.public)).bearer_auth(token);
    match body {
        Some(body) => request.json(body).send().await.unwrap(),
        None => request.send().await.unwrap(),
    }
}

#[actix_web::test]
async fn a_client_reads_updates_and_deletes_itself() {
    let app = TestApp::start().await;
    let client = registered(&app, &public("one")).await;
    let uri = client.body["registration_client_uri"].as_str().unwrap();
    assert_eq!(uri, format!("{}/register/{}", app.issuer, client.id));

    let read = call(&app, Method::GET, &client.id, &client.token, None).await;
    assert_eq!(
        (read.status(), &read.headers()["cache-control"]),
        (StatusCode::OK, &"no-store".parse().unwrap())
    );
    assert_eq!(read.json::<Value>().await.unwrap()["client_name"], "one");
    // RFC 9110 §11.4 allows more than one space in this position.
    let url = format!("{}/register/{}", app.public, client.id);
    let spaced = app.http.get(url).header("authorization", format!("bearer   {}", client.token));
    assert_eq!(spaced.send().await.unwrap().status(), StatusCode::OK);

    let mut update = public("two");
    update["client_id"] = json!(client.id);
    let updated = call(&app, Method::PUT, &client.id, &client.token, Some(&update)).await;
    assert_eq!(updated.status(), StatusCode::OK);
    let updated: Value = updated.json().await.unwrap();
    assert_eq!((&updated["client_id"], &updated["client_name"]), (&json!(client.id), &json!("two")));

    // An update replaces the registration access token (a047).
    let token = updated["registration_access_token"].as_str().unwrap();
    assert_ne!(token, client.token);
    assert_eq!(
        call(&app, Method::GET, &client.id, &client.token, None).await.status(),
        StatusCode::UNAUTHORIZED
    );

    assert_eq!(call(&app, Method::DELETE, &client.id, token, None).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(call(&app, Method::GET, &client.id, token, None).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        call(&app, Method::PATCH, &client.id, token, None).await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[actix_web::test]
async fn deleting_a_client_ends_its_grants_and_registering_it_again_does_not_revive_them() {
    let app = TestApp::start().await;
    let metadata = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    let client = registered(&app, &metadata).await;
    let tokens = app.tokens(&client.id).await;
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
    assert_eq!(
        call(&app, Method::DELETE, &client.id, &client.token, None).await.status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    app.wait(Duration::from_secs(1));
    assert_eq!(registered(&app, &metadata).await.id, client.id);
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(error_code(app.refresh(&client.id, &tokens.refresh).await).await, "invalid_grant");
}

#[actix_web::test]
async fn a047_another_clients_token_is_no_token() {
    let app = TestApp::start().await;
    let (mine, theirs) = (registered(&app, &public("mine")).await, registered(&app, &public("theirs")).await);
    for token in [&mine.token, "garbage", "", &format!("{}x", theirs.token)] {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let refused = call(&app, method, &theirs.id, token, Some(&public("x"))).await;
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
            assert!(refused.headers().contains_key("www-authenticate"));
        }
    }
    assert_eq!(
        call(&app, Method::GET, "mcp_unknown", &mine.token, None).await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(call(&app, Method::GET, &theirs.id, &theirs.token, None).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn a047_whoever_registers_a_popular_client_again_cannot_delete_it_nor_could_the_first() {
    let app = TestApp::start().await;
    let first = registered(&app, &public("popular")).await;
    let second = registered(&app, &public("popular")).await;
    assert_eq!(first.id, second.id);
    assert_eq!(second.token, "");
    assert_eq!(
        call(&app, Method::DELETE, &first.id, &first.token, None).await.status(),
        StatusCode::UNAUTHORIZED
    );
}

#[actix_web::test]
async fn a048_an_update_is_checked_like_a_registration() {
    let app = TestApp::start().await;
    let client = registered(&app, &public("one")).await;
    for (name, value, code) in [
        ("client_id", json!("other"), "invalid_client_metadata"),
        ("client_id", Value::Null, "invalid_client_metadata"),
        ("registration_access_token", json!("x"), "invalid_client_metadata"),
        ("client_id_issued_at", json!(0), "invalid_client_metadata"),
        ("client_secret", json!("x"), "invalid_client_metadata"),
        ("redirect_uris", json!(["http://evil.example/cb"]), "invalid_redirect_uri"),
        ("grant_types", json!(["implicit"]), "invalid_client_metadata"),
    ] {
        let mut update = public("two");
        update["client_id"] = json!(client.id);
        update[name] = value.clone();
        let refused = call(&app, Method::PUT, &client.id, &client.token, Some(&update)).await;
        assert_eq!(
            (refused.status(), error_code(refused).await.as_str()),
            (StatusCode::BAD_REQUEST, code),
            "{name}={value}"
        );
    }
    let read = call(&app, Method::GET, &client.id, &client.token, None).await;
    assert_eq!(read.json::<Value>().await.unwrap()["client_name"], "one");
}

#[actix_web::test]
async fn an_updated_client_leaves_its_old_place_to_whoever_registers_that_next() {
    let app = TestApp::start().await;
    let client = registered(&app, &public("one")).await;
    let mut update = public("two");
    update["client_id"] = json!(client.id);
    assert_eq!(
        call(&app, Method::PUT, &client.id, &client.token, Some(&update)).await.status(),
        StatusCode::OK
    );
    let again = registered(&app, &public("one")).await;
    assert_ne!(again.id, client.id);
    assert_eq!(registered(&app, &public("one")).await.id, again.id);
}

#[actix_web::test]
async fn a044_whoever_changes_a_popular_client_keeps_nobody_from_sharing_it() {
    for app in TestApp::on_both_stores(&[("REGISTRATION_RATE", "100")]).await {
        for n in 0..4 {
            let taken = registered(&app, &public("popular")).await;
            let mut update = public(&format!("other {n}"));
            update["client_id"] = json!(taken.id);
            let changed = call(&app, Method::PUT, &taken.id, &taken.token, Some(&update)).await;
            assert_eq!(changed.status(), StatusCode::OK);
        }
        let first = registered(&app, &public("popular")).await.id;
        for _ in 0..4 {
            assert_eq!(registered(&app, &public("popular")).await.id, first);
        }
    }
}

#[actix_web::test]
async fn a_secret_that_has_expired_is_refused() {
    let app = TestApp::start_with(&[("CLIENT_SECRET_TTL", "1h")]).await;
    let client = registered(&app, &json!({ "redirect_uris": [REDIRECT] })).await;
    let secret = client.body["client_secret"].as_str().unwrap();
    assert!(client.body["client_secret_expires_at"].as_u64().unwrap() > 0);
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", client.id.as_str()),
        ("client_secret", secret),
        ("refresh_token", "mgr_x"),
    ];
    assert_eq!(error_code(app.token(&form).await).await, "invalid_grant");
    app.wait(Duration::from_secs(3600));
    assert_eq!(error_code(app.token(&form).await).await, "invalid_client");
}

#[actix_web::test]
async fn a044_a_client_that_nobody_uses_goes_after_a_day_and_a_used_one_stays() {
    let app = TestApp::start().await;
    let (unused, used) = (registered(&app, &public("unused")).await, registered(&app, &public("used")).await);
    app.tokens(&used.id).await;
    app.wait(DAY + Duration::from_secs(1));
    assert!(app.state.store.sweep(app.state.now()).await.unwrap() > 0);
    assert_eq!(app.redeem(&unused.id, "mgc_x").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(error_code(app.redeem(&used.id, "mgc_x").await).await, "invalid_grant");
}

#[actix_web::test]
async fn a045_at_the_ceiling_the_oldest_never_used_client_makes_room_and_no_used_one_does() {
    let app = TestApp::start_with(&[("CLIENT_CEILING", "3")]).await;
    let used = registered(&app, &public("used")).await;
    app.tokens(&used.id).await;
    let mut others = Vec::new();
    for name in ["a", "b", "c", "d"] {
        app.wait(Duration::from_secs(1));
        others.push(registered(&app, &public(name)).await.id);
    }
    let mut known = Vec::new();
    for id in &others {
        known.push(error_code(app.redeem(id, "mgc_x").await).await == "invalid_grant");
    }
    assert_eq!(known, [false, false, true, true]);
    assert_eq!(error_code(app.redeem(&used.id, "mgc_x").await).await, "invalid_grant");
    for id in &others[2..] {
        app.tokens(id).await;
    }
    let full = app.register(&public("e")).await;
    assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
    // A client that is already registered is not refused.
    assert_eq!(registered(&app, &public("used")).await.id, used.id);
}

#[actix_web::test]
async fn a044_a_flood_of_new_clients_is_slowed_and_says_when_to_come_back() {
    let app = TestApp::start_with(&[("REGISTRATION_RATE", "5")]).await;
    let known = registered(&app, &public("0")).await;
    let mut crowded = None;
    for n in 1..10 {
        let response = app.register(&public(&n.to_string())).await;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            crowded = Some(response);
        }
    }
    let wait: u64 = crowded.unwrap().headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert_eq!(registered(&app, &public("0")).await.id, known.id);
}

#[actix_web::test]
async fn an_operator_may_close_registration_or_ask_for_a_token() {
    let closed = TestApp::start_with(&[("REGISTRATION", "closed")]).await;
    assert_eq!(closed.register(&public("x")).await.status(), StatusCode::FORBIDDEN);
    let app =
        TestApp::start_with(&[("REGISTRATION", "token"), ("REGISTRATION_TOKEN", "an initial access token")])
            .await;
    assert_eq!(app.register(&public("x")).await.status(), StatusCode::UNAUTHORIZED);
    let with = |token: &str| {
        app.http.post(format!("{}/register", app.public)).bearer_auth(token).json(&public("x")).send()
    };
    assert_eq!(with("another token").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(with("an initial access token").await.unwrap().status(), StatusCode::CREATED);
}

#[actix_web::test]
async fn an_operator_may_list_the_hosts_that_clients_are_answered_at() {
    let app = TestApp::start_with(&[("REGISTRATION_REDIRECT_HOSTS", "localhost, *.example.com")]).await;
    for (uri, status) in [
        ("http://127.0.0.1:1/cb", 201),
        ("http://[::1]/cb", 201),
        ("http://localhost/cb", 201),
        ("https://a.example.com/cb", 201),
        ("https://example.com/cb", 400),
        ("https://aexample.com/cb", 400),
        ("https://a.example.com.evil.example/cb", 400),
        ("cursor://anysphere.cursor-mcp/oauth/callback", 201),
        ("unheardof://x/cb", 400),
    ] {
        let metadata = json!({ "redirect_uris": [uri], "token_endpoint_auth_method": "none" });
        assert_eq!(app.register(&metadata).await.status().as_u16(), status, "{uri}");
    }
}
