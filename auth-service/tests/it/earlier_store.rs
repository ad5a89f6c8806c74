//! Tests, over real sockets, of a Redis in which an earlier store has replaced the current one.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::WWW_AUTHENTICATE;

use super::app::TestApp;
use super::store_away::ready;

/// How long the responses are observed after Redis has been started with other data.
const OBSERVED: Duration = Duration::from_secs(3);

/// A client that gets a challenge discards its tokens. They must be kept, because the operator can still adopt this
/// store.
#[actix_web::test]
async fn a088_a_token_of_an_earlier_store_is_not_challenged_while_redis_has_that_store() {
    let Some(mut app) = TestApp::start_on_redis().await else { return };
    let client = app.client().await;
    let tokens = app.tokens(&client).await;
    let earlier = app.files_of_store();
    app.tell_store("FLUSHALL");
    let _other = app.replica(&[]).await;
    until_ready(&app).await;
    app.state.follow_keys().await;
    let answer = app.check_token(&tokens.access).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "it is still the same store");

    app.kill_store();
    app.replace_files_of_store(&earlier);
    app.run_store();
    while app.state.store.changes().is_live() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    while start.elapsed() < OBSERVED {
        for proxy in ["traefik", "caddy", "nginx", "envoy"] {
            let asked = app.check_by(proxy, "POST", "mcp.example", "/mcp").bearer_auth(&tokens.access);
            let answer = asked.send().await.unwrap();
            let wanted =
                if proxy == "nginx" { StatusCode::FORBIDDEN } else { StatusCode::SERVICE_UNAVAILABLE };
            assert_eq!(answer.status(), wanted, "{proxy} after {:?}", start.elapsed());
            assert!(!answer.headers().contains_key(WWW_AUTHENTICATE), "{proxy}");
        }
        app.state.follow_keys().await;
    }
    let (_, told) = ready(&app).await;
    assert!(told["store"].as_str().unwrap().contains("created earlier"), "{told}");
    assert_eq!(app.refresh(&client, &tokens.refresh).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    for endpoint in ["revoke", "introspect"] {
        let form = [("token", tokens.access.as_str()), ("client_id", client.as_str())];
        let answer = app.http.post(format!("{}/{endpoint}", app.public)).form(&form).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{endpoint}");
    }
}

async fn until_ready(app: &TestApp) {
    let start = Instant::now();
    while ready(app).await.0 != StatusCode::OK {
        assert!(start.elapsed() < Duration::from_secs(20), "the replica is not ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
