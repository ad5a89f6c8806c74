//! Tests of a clock that jumps and is corrected a moment later. Rows that look expired in the meantime must be
//! neither replaced nor permanently refused.

use std::time::Duration;

use super::app::{TestApp, Tokens};
use super::document_host::{Answer, DocumentHost};
use super::documents::{self, PATH, document, redemption};
use super::store_away::ready;
use reqwest::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

const DAYS: Duration = Duration::from_secs(200 * 86_400);

/// Asserts that the token endpoint tells the client when to retry. After an OAuth error, a client could delete its
/// credentials.
fn is_told_to_try_again(answer: &Response) {
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert!(answer.headers().contains_key(RETRY_AFTER), "{answer:?}");
}

/// Asserts that the check is refused without a challenge, because a challenge would cause a new login.
pub(super) fn is_not_challenged(answer: &Response) {
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert!(!answer.headers().contains_key(WWW_AUTHENTICATE), "{answer:?}");
}

#[actix_web::test]
async fn who_registers_a_client_while_the_clock_is_ahead_ends_no_login() {
    for app in TestApp::on_both_stores(&[]).await {
        app.state.follow_keys().await;
        let client = app.client().await;
        let tokens = app.tokens(&client).await;

        app.set_clock_ahead(DAYS);
        assert_eq!(app.client().await, client, "the identifier is derived from the metadata");
        let code = app.code(&client).await;
        assert_eq!(
            app.redeem(&client, &code).await.status(),
            StatusCode::OK,
            "the client cannot be used while the clock is wrong"
        );

        app.set_clock_ahead(Duration::ZERO);
        app.state.follow_keys().await;
        assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::OK);
        assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::OK);
    }
}

#[actix_web::test]
async fn who_uses_a_client_with_a_document_while_the_clock_is_ahead_ends_no_login() {
    let host = DocumentHost::start().await;
    host.put(PATH, Answer::json(&document(&host), "max-age=300"));
    let app = documents::app(&host, &[]).await;
    app.state.follow_keys().await;
    let id = host.url(PATH);
    let code = documents::code(&app, &id, "ana").await;
    let tokens = Tokens::of(app.token(&redemption(&id, &code)).await).await;

    app.set_clock_ahead(DAYS);
    documents::code(&app, &id, "bob").await;

    app.set_clock_ahead(Duration::ZERO);
    app.state.follow_keys().await;
    assert_eq!(app.refresh(&id, &tokens.refresh).await.status(), StatusCode::OK);
}

#[actix_web::test]
async fn what_a_jump_makes_look_expired_is_not_refused_for_good() {
    for app in TestApp::on_both_stores(&[("CLIENT_SECRET_TTL", "100d")]).await {
        app.state.follow_keys().await;
        let client = app.client().await;
        let tokens = app.tokens(&client).await;
        let code = app.code(&client).await;
        let metadata = json!({ "redirect_uris": ["https://other.example/cb"],
            "token_endpoint_auth_method": "client_secret_post", "grant_types": ["authorization_code", "refresh_token"] });
        let confidential: Value = app.register(&metadata).await.json().await.unwrap();
        let with_secret = |token: &'static str| {
            let field = |name: &str| confidential[name].as_str().unwrap().to_owned();
            let form = [
                ("grant_type", "refresh_token".to_owned()),
                ("client_id", field("client_id")),
                ("client_secret", field("client_secret")),
                ("refresh_token", token.to_owned()),
            ];
            app.http.post(format!("{}/token", app.public)).form(&form).send()
        };

        app.set_clock_ahead(DAYS);
        is_told_to_try_again(&app.refresh(&client, &tokens.refresh).await);
        is_told_to_try_again(&app.redeem(&client, &code).await);
        is_told_to_try_again(&with_secret("unknown").await.unwrap());
        is_not_challenged(&app.check_token(&tokens.access).await);
        let unknown = app.refresh(&client, "unknown").await;
        assert_eq!(unknown.status(), StatusCode::BAD_REQUEST, "an unknown token is never valid");

        // After a jump that exceeds only the lifetime of access tokens, the client can refresh its tokens.
        app.set_clock_ahead(Duration::from_secs(7200));
        assert_eq!(app.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
        let tokens = Tokens::of(app.refresh(&client, &tokens.refresh).await).await;

        app.set_clock_ahead(Duration::ZERO);
        app.state.follow_keys().await;
        assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::OK);
        assert_eq!(app.redeem(&client, &code).await.status(), StatusCode::OK);
        assert_eq!(with_secret("unknown").await.unwrap().status(), StatusCode::BAD_REQUEST);
    }
}

/// The token request and the check can reach different replicas.
#[actix_web::test]
async fn a063_replicas_whose_clocks_differ_accept_what_the_others_issue_and_nothing_that_is_revoked() {
    for app in TestApp::on_both_stores(&[]).await {
        let client = app.client().await;
        for seconds in [6, 60, 300] {
            let behind = app.replica_behind(Duration::from_secs(seconds)).await;
            let tokens = app.tokens(&client).await;
            let answer = behind.check_token(&tokens.access).await;
            assert_eq!(answer.status(), StatusCode::OK, "{seconds} s: {answer:?}");
            let request = app.http.post(format!("{}/revoke", app.public));
            let form = [("token", tokens.refresh.as_str()), ("client_id", client.as_str())];
            assert_eq!(request.form(&form).send().await.unwrap().status(), StatusCode::OK);
            assert_eq!(behind.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
            let tokens = app.tokens(&client).await;
            assert_eq!(behind.check_token(&tokens.access).await.status(), StatusCode::OK);
            // By the clock of that replica as well, the token expires an hour after it was issued.
            behind.wait(Duration::from_secs(3600 + seconds));
            assert_eq!(behind.check_token(&tokens.access).await.status(), StatusCode::UNAUTHORIZED);
        }
        // A token that was issued while the clock was far ahead is not accepted. The client gets a valid one with
        // a refresh.
        app.state.follow_keys().await;
        app.set_clock_ahead(Duration::from_secs(301));
        let early = app.tokens(&client).await;
        app.set_clock_ahead(Duration::ZERO);
        assert_eq!(app.check_token(&early.access).await.status(), StatusCode::UNAUTHORIZED);
        let mended = Tokens::of(app.refresh(&client, &early.refresh).await).await;
        assert_eq!(app.check_token(&mended.access).await.status(), StatusCode::OK);
    }
}

#[actix_web::test]
async fn a_replica_whose_clock_is_behind_that_of_redis_says_so_and_refuses_no_token_for_good() {
    let Some(app) = TestApp::start_on_redis_now(&[]).await else { return };
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    app.set_clock_ahead(Duration::from_secs(1000));
    let early = app.tokens(&client).await.access;
    app.set_clock_ahead(Duration::ZERO);
    for (seconds, is_ready) in [(0, true), (60, true), (301, false)] {
        let behind = app.replica_behind(Duration::from_secs(seconds)).await;
        let (status, body) = ready(&behind).await;
        assert_eq!(status == StatusCode::OK, is_ready, "{body}");
        let dangers = body["store_dangers"].to_string();
        assert_eq!(dangers.contains("s behind compared with that of Redis"), seconds == 60, "{body}");
        let answer = behind.check_token(&tokens.access).await;
        if is_ready {
            assert_eq!(answer.status(), StatusCode::OK, "{seconds} s");
        } else {
            is_not_challenged(&answer);
        }
        // A replica whose clock is that far ahead is not ready, so no replica can have issued this token.
        assert_eq!(behind.check_token(&early).await.status(), StatusCode::UNAUTHORIZED);
    }
}

/// The clocks of replicas can differ by more than `REFRESH_GRACE`.
#[actix_web::test]
async fn a031_a_lost_answer_is_repeated_by_a_replica_that_is_ahead_and_a_stolen_token_is_not() {
    let Some(app) = TestApp::start_on_redis_now(&[("REFRESH_GRACE", "3s")]).await else { return };
    let ahead = app.replica_behind(Duration::ZERO).await;
    ahead.set_clock_ahead(Duration::from_secs(200));
    for (first, second) in [(&app, &ahead), (&ahead, &app), (&app, &app)] {
        let client = app.client().await;
        let tokens = app.tokens(&client).await;
        let lost = Tokens::of(first.refresh(&client, &tokens.refresh).await).await;
        let again = second.refresh(&client, &tokens.refresh).await;
        assert_eq!(again.status(), StatusCode::OK, "{again:?}");
        assert_eq!(Tokens::of(again).await.refresh, lost.refresh);
        // The clock of Redis decides, and the clocks of the replicas must agree.
        tokio::time::sleep(Duration::from_secs(5)).await;
        for replica in [&app, &ahead] {
            replica.wait(Duration::from_secs(5));
        }
        let stolen = first.refresh(&client, &tokens.refresh).await;
        assert_eq!(stolen.status(), StatusCode::BAD_REQUEST);
        assert_eq!(second.refresh(&client, &lost.refresh).await.status(), StatusCode::BAD_REQUEST);
    }
}

#[actix_web::test]
async fn a031_a_lost_answer_is_repeated_after_the_clock_was_set_forward() {
    let app = TestApp::start_on(false, &[]).await;
    app.state.follow_keys().await;
    for seconds in [121, 299] {
        let client = app.client().await;
        let tokens = app.tokens(&client).await;
        let lost = Tokens::of(app.refresh(&client, &tokens.refresh).await).await;
        app.set_clock_ahead(Duration::from_secs(seconds));
        let again = app.refresh(&client, &tokens.refresh).await;
        assert_eq!(again.status(), StatusCode::OK, "{again:?}");
        assert_eq!(Tokens::of(again).await.refresh, lost.refresh);
        app.wait(Duration::from_secs(121));
        assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::BAD_REQUEST);
        app.set_clock_ahead(Duration::ZERO);
        assert_eq!(app.refresh(&client, &lost.refresh).await.status(), StatusCode::BAD_REQUEST);
    }
}
