//! Tests that streams and large messages pass through the edge without being buffered or cut off.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use serde_json::json;
use tests::mcp::Session;
use tests::{Answer, Stack};

async fn session<'a>(stack: &'a Stack, token: &str) -> Session<'a> {
    stack.open_session(token, HeaderMap::new()).await.unwrap()
}

#[tokio::test]
async fn progress_arrives_while_the_tool_still_works() {
    let stack = Stack::start().await;
    let token = stack.log_in().await.access_token;
    let session = session(&stack, &token).await;
    let call = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {
            "name": "trigger-long-running-operation",
            "arguments": { "duration": 3, "steps": 3 },
            "_meta": { "progressToken": "p" },
        },
    });
    let begin = Instant::now();
    let mut response = session.send(&call).await.unwrap();
    let (mut text, mut first) = (String::new(), None);
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&chunk));
        if first.is_none() && text.contains("notifications/progress") {
            first = Some(begin.elapsed());
        }
    }
    let whole = begin.elapsed();
    assert!(text.contains("Long running operation completed"), "{text}");
    let Some(first) = first else { panic!("no progress in {text}") };
    assert!(first + Duration::from_secs(1) < whole, "the first progress came after {first:?} of {whole:?}");
}

#[tokio::test]
async fn a_silent_stream_stays_open() {
    let stack = Stack::start().await;
    let token = stack.log_in().await.access_token;
    let session = session(&stack, &token).await;
    let mut response = session.listen().await.unwrap();
    assert_eq!(response.status(), 200);
    // This is longer than the time after which the edge closes idle connections to the services behind it.
    let end = tokio::time::timeout(Duration::from_secs(7), async {
        while response.chunk().await.unwrap().is_some() {}
    })
    .await;
    assert!(end.is_err(), "the stream was closed");
}

#[tokio::test]
async fn a_large_message_passes_both_ways() {
    let stack = Stack::start().await;
    let token = stack.log_in().await.access_token;
    let mut session = session(&stack, &token).await;
    let large = "ü".repeat(1_000_000);
    let echoed = session.call("echo", json!({ "message": large })).await.unwrap();
    assert_eq!(echoed, format!("Echo: {large}"));
}

#[tokio::test]
async fn without_a_token_no_stream_opens() {
    let stack = Stack::start().await;
    let request = stack.http.get(&stack.mcp_url).header("accept", "text/event-stream");
    let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
    assert_eq!(answer.status, 401);
}
