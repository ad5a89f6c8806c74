//! Tests of refreshes by one honest client that runs on several machines and uses several replicas.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;

use super::app::{TestApp, Tokens, error_code};

/// Pauses in seconds, 76 in total. Hosted clients have been observed to refresh the same token from two egress
/// addresses over a period this long.
const BURST: [u64; 6] = [0, 3, 11, 24, 17, 21];

#[actix_web::test]
async fn a032_a_burst_over_76_seconds_from_two_addresses_logs_nobody_out() {
    let one = TestApp::start().await;
    let two = one.replica(&[]).await;
    let client = one.client().await;
    let mut tokens = one.tokens(&client).await;
    for round in 0..3 {
        let mut successors = HashSet::new();
        let mut access = Vec::new();
        for pause in BURST {
            one.wait(Duration::from_secs(pause));
            let refreshes = (0..32).map(|n| {
                let app = if n % 2 == 0 { &one } else { &two };
                app.refresh(&client, &tokens.refresh)
            });
            for answer in join_all(refreshes).await {
                assert_eq!(answer.status(), StatusCode::OK, "round {round}, after {pause} s");
                let renewed = Tokens::of(answer).await;
                successors.insert(renewed.refresh);
                access.push(renewed.access);
            }
        }
        assert_eq!(successors.len(), 1, "exactly one successor must be valid");
        // The access token is valid, regardless of which response a machine used.
        for token in [&access[0], &access[access.len() - 1]] {
            assert_eq!(two.check_token(token).await.status(), StatusCode::OK);
        }
        tokens.refresh = successors.into_iter().next().unwrap();
    }
    // If a thief uses the first token of the burst, the whole grant is revoked.
    let stolen = tokens.refresh.clone();
    let last = Tokens::of(one.refresh(&client, &tokens.refresh).await).await;
    let last = Tokens::of(two.refresh(&client, &last.refresh).await).await;
    assert_eq!(error_code(two.refresh(&client, &stolen).await).await, "invalid_grant");
    assert_eq!(error_code(one.refresh(&client, &last.refresh).await).await, "invalid_grant");
    for app in [&one, &two] {
        assert_eq!(app.check_token(&last.access).await.status(), StatusCode::UNAUTHORIZED);
    }
}
