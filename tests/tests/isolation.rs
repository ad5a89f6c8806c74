//! Tests what reaches the wrapper and its child process: the identity of the caller according to auth-service, but
//! no credentials.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use reqwest::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};
use tests::places::recorder;
use tests::upstream::Upstream;
use tests::{Answer, Setup};

/// Headers with which a client could impersonate another user, and headers that belong to the edge.
const FORGED: [(&str, &str); 12] = [
    ("x-auth-subject", "forged-subject"),
    ("x-auth-username", "forged-name"),
    ("x-auth-email", "forged@example.com"),
    ("x-auth-groups", "forged-group"),
    ("x-auth-scope", "forged-scope"),
    ("x-auth-client-id", "forged-client"),
    ("x-auth-assertion", "forged-assertion"),
    ("x-auth-something-new", "forged-novelty"),
    ("x-edge-secret", "forged-secret"),
    ("x-forwarded-host", "forged-host.example.com"),
    ("cookie", "session=forged-cookie"),
    ("dpop", "forged-proof"),
];

fn forged() -> HeaderMap {
    let pairs = FORGED.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
    pairs.collect()
}

#[tokio::test]
async fn the_child_sees_neither_a_token_nor_what_a_client_claims_to_be() {
    let stack = Setup::as_shipped().wrapping(recorder()).start().await;
    let tokens = stack.log_in().await;
    let mut session = stack.open_session(&tokens.access_token, forged()).await.unwrap();
    let seen = session.call("what_reached_you", json!({ "a": 1 })).await.unwrap();

    let parsed: Value = serde_json::from_str(&seen).unwrap();
    assert!(
        parsed["messages"].as_array().is_some_and(|messages| messages.len() >= 3),
        "no recording: {seen}"
    );
    assert!(parsed["environment"]["PATH"].is_string(), "no recording: {seen}");
    let signature = tokens.access_token.rsplit('.').next().unwrap();
    let secrets = [
        tokens.access_token.as_str(),
        signature,
        &tokens.refresh_token,
        &stack.edge_secret,
        "Bearer",
        "forged-",
    ];
    for secret in secrets {
        assert!(
            !seen.to_lowercase().contains(&secret.to_lowercase()),
            "`{secret}` reached the child: {seen}"
        );
    }
    for name in parsed["environment"].as_object().unwrap().keys() {
        assert!(
            !["AUTH", "TOKEN", "SECRET", "COOKIE", "ISSUER"]
                .iter()
                .any(|word| name.to_uppercase().contains(word)),
            "the child has the variable {name}: {seen}"
        );
    }
}

#[tokio::test]
async fn the_wrapper_gets_the_identity_that_auth_service_says_and_no_credential() {
    let upstream = Upstream::start().await;
    let stack = Setup::as_shipped().in_front_of(upstream.port).start().await;
    let tokens = stack.log_in().await;
    let mut headers = forged();
    headers.insert("authorization", format!("Bearer {}", tokens.access_token).parse().unwrap());
    let answer = stack.post_mcp(&json!({}), headers).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");

    let seen = answer.json().unwrap();
    let values = |name: &str| -> Vec<String> {
        let headers = seen["headers"].as_array().unwrap();
        let matching = headers.iter().filter(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name));
        matching.map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
    };
    assert!(!answer.body.contains("forged-"), "a forged header passed the edge: {}", answer.body);
    assert!(!answer.body.contains(&tokens.access_token), "the token passed the edge: {}", answer.body);
    assert!(!answer.body.contains(&stack.edge_secret), "the edge secret passed the edge: {}", answer.body);
    for gone in ["authorization", "cookie", "dpop", "x-edge-secret"] {
        assert!(values(gone).is_empty(), "{gone} passed the edge: {}", answer.body);
    }
    for name in ["subject", "username", "email", "groups", "client-id", "scope", "assertion"] {
        let name = format!("x-auth-{name}");
        assert_eq!(values(&name).len(), 1, "{name} does not occur exactly once: {}", answer.body);
    }
    assert_eq!(values("x-auth-username"), ["ana"], "{}", answer.body);
    assert!(!values("x-auth-subject")[0].is_empty(), "{}", answer.body);
}

#[tokio::test]
async fn a_header_that_only_looks_like_an_identity_does_not_pass() {
    let upstream = Upstream::start().await;
    let stack = Setup::as_shipped().in_front_of(upstream.port).start().await;
    let token = stack.log_in().await.access_token;
    for alias in ["x_auth_subject", "x-auth_subject", "X_AUTH_SUBJECT"] {
        let request = stack.http.post(&stack.mcp_url).bearer_auth(&token).header(alias, "forged");
        let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
        assert_eq!(answer.status, 400, "{alias}: {answer:?}");
    }
}

#[tokio::test]
async fn with_auth_service_down_nothing_passes() {
    let upstream = Upstream::start().await;
    let mut stack = Setup::as_shipped().in_front_of(upstream.port).start().await;
    let tokens = stack.log_in().await;
    stack.kill_auth_service();
    let answer = stack.http.post(&stack.mcp_url).bearer_auth(&tokens.access_token).send().await.unwrap();
    assert_eq!(answer.status(), 503);
}
