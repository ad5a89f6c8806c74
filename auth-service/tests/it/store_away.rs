//! Tests of a store that is unreachable or does not respond: the response to each kind of request, and how soon it
//! arrives.

use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::app::{REDIRECT, TestApp};
use super::clock_jumps::is_not_challenged;

/// The maximum wait for a store that does not respond, with a margin for a busy machine.
const BUDGET: Duration = Duration::from_millis(1_000 + 700);
/// Like [`BUDGET`], after the service has noticed that the store does not respond.
const AT_ONCE: Duration = Duration::from_millis(400);

pub(super) async fn ready(app: &TestApp) -> (StatusCode, Value) {
    let answer = app.http.get(format!("{}/ready", app.ops)).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn is_ready_again(app: &TestApp) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while ready(app).await.0 != StatusCode::OK {
        assert!(Instant::now() < deadline, "the service does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a request of each kind. The status must be 503 for all of them, within `within`.
async fn all_unavailable(app: &TestApp, tokens: (&str, &str), within: Duration) {
    let (access, refresh) = tokens;
    let start = Instant::now();
    let check = app.check(Method::POST, "mcp.example", "/mcp").bearer_auth(access).send();
    let form = [("client_id", "mcp_x"), ("grant_type", "refresh_token"), ("refresh_token", refresh)];
    let token = app.http.post(format!("{}/token", app.public)).form(&form).send();
    let registration = json!({ "redirect_uris": [REDIRECT] });
    let register = app.http.post(format!("{}/register", app.public)).json(&registration).send();
    for answer in join_all([check, token, register].map(|asked| async move { asked.await.unwrap() })).await {
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
    }
    assert!(start.elapsed() < within, "{:?}", start.elapsed());
}

#[actix_web::test]
async fn a088_readiness_says_that_redis_is_gone_and_heals_by_itself() {
    let Some(mut app) = TestApp::start_on_redis().await else { return };
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    assert_eq!(ready(&app).await.0, StatusCode::OK);
    app.kill_store();
    let gone = Instant::now();
    let body = loop {
        let (status, body) = ready(&app).await;
        if status == StatusCode::SERVICE_UNAVAILABLE && body["token_cache"] != "cached" {
            break body;
        }
        assert!(gone.elapsed() < Duration::from_secs(2), "{body}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(body["status"], "not ready");
    assert!(body["store"].as_str().unwrap().contains("Redis"), "{body}");
    assert!(body["token_cache"].as_str().unwrap().starts_with("not cached"), "{body}");
    all_unavailable(&app, (&tokens.access, &tokens.refresh), BUDGET).await;
    app.run_store();
    is_ready_again(&app).await;
}

#[actix_web::test]
async fn a088_nobody_waits_for_a_redis_that_hangs_for_longer_than_the_budget() {
    let Some(app) = TestApp::start_on_redis().await else { return };
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &app.store_process().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    signal("-STOP");
    // Cached results are used for at most a second after the last message from the store.
    let stopped = Instant::now();
    while app.state.store.changes().is_live() {
        assert!(
            stopped.elapsed() < Duration::from_millis(1500),
            "cached results are used for longer than a second"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..2 {
        all_unavailable(&app, (&tokens.access, &tokens.refresh), BUDGET).await;
    }
    let (status, body) = ready(&app).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body["store"].as_str().unwrap().contains("does not respond"), "{body}");
    for _ in 0..5 {
        all_unavailable(&app, (&tokens.access, &tokens.refresh), AT_ONCE).await;
    }
    signal("-CONT");
    is_ready_again(&app).await;
    assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
}

/// A challenge would cause a refresh, which cannot succeed while the store is not writable. Some clients would
/// then ask the user to log in.
#[actix_web::test]
async fn an_expired_or_missing_token_is_not_challenged_while_the_store_cannot_be_written() {
    for app in TestApp::on_both_stores(&[]).await {
        let client = app.client().await;
        let tokens = app.tokens(&client).await;
        app.wait(app.state.config.lifetimes.access_token + Duration::from_secs(1));
        assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);

        app.set_store_writable(false);
        app.wait(Duration::from_secs(2));
        is_not_challenged(&app.check_token(&tokens.access).await);
        let without_token = async || app.check(Method::POST, "mcp.example", "/mcp").send().await.unwrap();
        is_not_challenged(&without_token().await);
        let refreshed = app.refresh(&client, &tokens.refresh).await;
        assert_eq!(refreshed.status(), StatusCode::SERVICE_UNAVAILABLE);
        let foreign = app.check_token("not a token of ours").await;
        assert_eq!(foreign.status(), StatusCode::UNAUTHORIZED, "a foreign token must be challenged");

        app.set_store_writable(true);
        is_ready_again(&app).await;
        app.wait(Duration::from_secs(2));
        assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(without_token().await.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::OK);
    }
}
