//! Tests of signing keys from the point of view of clients and wrapped servers: all algorithms, and a rotation
//! while calls are made. The wrapper of a stack accepts only requests with an assertion that it has verified with
//! `/jwks`.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tests::{Gate, Setup};

fn header(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()).unwrap()
}

/// The key identifiers and algorithms at `/jwks`.
async fn published(gate: &Gate) -> Vec<(String, String)> {
    let set = gate.get_json(&gate.endpoint("jwks")).await.unwrap();
    let text = |key: &Value, name: &str| key[name].as_str().unwrap().to_owned();
    set["keys"].as_array().unwrap().iter().map(|key| (text(key, "kid"), text(key, "alg"))).collect()
}

#[tokio::test]
async fn the_wrapper_verifies_assertions_of_every_algorithm() {
    for algorithm in ["EdDSA", "ES256", "RS256"] {
        let stack = Setup::as_shipped().auth_setting("SIGNING_ALGORITHM", algorithm).start().await;
        let token = stack.log_in().await.access_token;
        assert_eq!(header(&token)["alg"], algorithm);
        assert!(published(&stack).await.iter().all(|(_, alg)| alg == algorithm));
        let mut session = stack.open_session(&token, HeaderMap::new()).await.unwrap();
        assert_eq!(
            session.call("echo", json!({ "message": algorithm })).await.unwrap(),
            format!("Echo: {algorithm}")
        );
        // A request that bypasses the edge contains no assertion, and the wrapper refuses it.
        let direct = stack.http.post(stack.upstream_url()).bearer_auth(&token).json(&json!({})).send();
        assert_eq!(direct.await.unwrap().status(), 401, "{algorithm}");
    }
}

#[tokio::test]
async fn nobody_notices_a_rotation() {
    const LEAD: Duration = Duration::from_secs(15);
    let stack = Setup::as_shipped().auth_setting("SIGNING_KEY_LEAD", "15s").start().await;
    let client = stack.register().await.unwrap();
    let person = tests::browser::Person::new(tests::setup::ACCOUNT.0, tests::setup::ACCOUNT.1);
    let code = stack.code(&client, &person, &stack.mcp_url).await.unwrap();
    let mut tokens = stack.redeem(&client, &code, &stack.mcp_url).await.unwrap();
    let (first_token, old) = (tokens.access_token.clone(), header(&tokens.access_token)["kid"].clone());
    let mut session = stack.open_session(&tokens.access_token, HeaderMap::new()).await.unwrap();

    stack.operator(&["keys", "rotate"]);
    let ids = published(&stack).await;
    assert_eq!(ids.len(), 2, "the next key is published before it signs: {ids:?}");
    let start = Instant::now();
    let mut signs_new = None;
    let mut calls = 0_u32;
    // The calls continue until the new key has been in use for a while. Each call gets a new assertion, and no
    // call may fail.
    while signs_new.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(3)) {
        assert!(start.elapsed() < LEAD * 4, "the new key is not used after {:?}", start.elapsed());
        session.call("echo", json!({ "message": "still here" })).await.unwrap();
        calls += 1;
        if signs_new.is_none() && calls.is_multiple_of(5) {
            tokens = stack.refresh(&client, &tokens.refresh_token).await.unwrap();
            signs_new = (header(&tokens.access_token)["kid"] != old).then(Instant::now);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(start.elapsed() >= LEAD, "the new key was used too early, after {:?}", start.elapsed());
    // Tokens of the old key and of the new key are both valid.
    assert_eq!(header(&first_token)["kid"], old);
    for token in [&first_token, &tokens.access_token] {
        let mut other = stack.open_session(token, HeaderMap::new()).await.unwrap();
        other.call("echo", json!({ "message": "here too" })).await.unwrap();
    }
}
