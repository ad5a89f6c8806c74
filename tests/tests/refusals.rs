//! Tests of requests that must not pass the edge, and of the responses to them.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use serde_json::{Value, json};
use tests::{Answer, Setup, Stack};

/// A stack whose service responds to every request with 200, so that only the edge can refuse a request.
async fn stack() -> (Stack, tests::upstream::Upstream) {
    let upstream = tests::upstream::Upstream::start().await;
    let stack =
        Setup::as_shipped().in_front_of(upstream.port).also_protecting("other.localhost").start().await;
    (stack, upstream)
}

async fn ask(stack: &Stack, method: Method, authorizations: &[&str]) -> Answer {
    let mut headers = HeaderMap::new();
    for value in authorizations {
        headers.append(AUTHORIZATION, value.parse().unwrap());
    }
    let request = stack.http.request(method, &stack.mcp_url).headers(headers);
    Answer::read(request.send().await.unwrap()).await.unwrap()
}

/// The value of a parameter of a challenge, `name="value"`.
fn parameter<'a>(challenge: &'a str, name: &str) -> Option<&'a str> {
    challenge.split_once(&format!("{name}=\""))?.1.split('"').next()
}

#[track_caller]
fn assert_refused(stack: &Stack, what: &str, answer: &Answer, error: Option<&str>) {
    let challenge = answer.challenge();
    assert_eq!(answer.status, 401, "{what}: {answer:?}");
    assert!(challenge.starts_with("Bearer "), "{what}: {challenge}");
    let metadata = format!("http://localhost:{}/.well-known/oauth-protected-resource/mcp", stack.port);
    assert_eq!(parameter(challenge, "resource_metadata"), Some(metadata.as_str()), "{what}: {challenge}");
    assert_eq!(parameter(challenge, "error"), error, "{what}: {challenge}");
    assert_eq!(answer.header("cache-control"), "no-store", "{what}: {answer:?}");
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).expect("a JWT has three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[tokio::test]
async fn no_token_is_told_where_to_log_in_and_nothing_of_an_error() {
    let (stack, _upstream) = stack().await;
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let answer = ask(&stack, method.clone(), &[]).await;
        assert_refused(&stack, &format!("{method} without a token"), &answer, None);
        let scope = parameter(answer.challenge(), "scope");
        assert!(scope.is_some_and(|scope| !scope.is_empty()), "no scope in {}", answer.challenge());
    }
}

#[tokio::test]
async fn the_metadata_that_a_challenge_names_is_there() {
    let (stack, _upstream) = stack().await;
    let answer = ask(&stack, Method::POST, &[]).await;
    let metadata = stack.get_json(parameter(answer.challenge(), "resource_metadata").unwrap()).await.unwrap();
    assert_eq!(metadata["resource"], stack.mcp_url.as_str());
    assert_eq!(metadata["authorization_servers"], json!([stack.issuer]));
}

#[tokio::test]
async fn tokens_that_are_not_what_they_should_be_are_refused() {
    let (stack, _upstream) = stack().await;
    let tokens = stack.log_in().await;
    let good = &tokens.access_token;
    let answer = ask(&stack, Method::POST, &[&format!("Bearer {good}")]).await;
    assert_eq!(answer.status, 200, "the good token does not pass: {answer:?}\n{}", stack.logs());

    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("no JWT: {good}")
    };
    let mut flipped = URL_SAFE_NO_PAD.decode(signature).unwrap();
    flipped[0] ^= 1;
    let mut someone_else = part(good, 1);
    someone_else["sub"] = json!("somebody-else");
    let mut unsigned = part(good, 0);
    unsigned["alg"] = json!("none");
    let mut symmetric = part(good, 0);
    symmetric["alg"] = json!("HS256");
    let other = stack.log_in_for(&format!("http://other.localhost:{}/mcp", stack.port)).await;
    assert_eq!(
        part(&other.access_token, 1)["aud"],
        json!([format!("http://other.localhost:{}/mcp", stack.port)])
    );

    let table = [
        ("garbage", "garbage".to_owned()),
        ("three parts of garbage", "YQ.YQ.YQ".to_owned()),
        ("an altered signature", format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(flipped))),
        ("a cut signature", format!("{header}.{payload}.")),
        ("an altered payload", format!("{header}.{}.{signature}", encode(&someone_else))),
        ("alg none", format!("{}.{payload}.", encode(&unsigned))),
        ("alg none with the old signature", format!("{}.{payload}.{signature}", encode(&unsigned))),
        ("alg HS256", format!("{}.{payload}.{signature}", encode(&symmetric))),
        ("a token for another resource", other.access_token),
        ("a refresh token", tokens.refresh_token.clone()),
    ];
    for (what, token) in table {
        for method in [Method::POST, Method::GET] {
            let answer = ask(&stack, method, &[&format!("Bearer {token}")]).await;
            assert_refused(&stack, what, &answer, Some("invalid_token"));
        }
    }
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let upstream = tests::upstream::Upstream::start().await;
    let setup = Setup::as_shipped().in_front_of(upstream.port).auth_setting("ACCESS_TOKEN_TTL", "2s");
    let stack = setup.start().await;
    let tokens = stack.log_in().await;
    let bearer = format!("Bearer {}", tokens.access_token);
    let fresh = ask(&stack, Method::POST, &[&bearer]).await;
    assert_eq!(fresh.status, 200, "{fresh:?}");
    let claims = part(&tokens.access_token, 1);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 2);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let answer = ask(&stack, Method::POST, &[&bearer]).await;
    assert_refused(&stack, "an expired token", &answer, Some("invalid_token"));
}

#[tokio::test]
async fn two_tokens_in_one_request_are_no_token() {
    let (stack, _upstream) = stack().await;
    let good = format!("Bearer {}", stack.log_in().await.access_token);
    for both in [[good.as_str(), "Bearer garbage"], ["Bearer garbage", &good], [&good, &good]] {
        let answer = ask(&stack, Method::POST, &both).await;
        assert!([400, 401].contains(&answer.status), "{both:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_token_in_the_query_counts_for_nothing() {
    let (stack, _upstream) = stack().await;
    let token = stack.log_in().await.access_token;
    let url = format!("{}?access_token={token}", stack.mcp_url);
    let answer = Answer::read(stack.http.post(url).send().await.unwrap()).await.unwrap();
    assert_eq!(answer.status, 401, "{answer:?}");
    assert!(!stack.log_of("envoy").contains(&token), "the edge logs a query");
}
