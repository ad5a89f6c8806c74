//! Tests that no stream stays open for longer than `STREAM_GRACE` after its access token has expired.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::identity::{Issuer, claims, header, now, with};
use crate::modern::{self, listen, request, send};
use crate::wrapper::{CHILD, Client, Events, Wrapper, call};

async fn wrapper(issuer: &Issuer, child: &str) -> Wrapper {
    let url = format!("--jwks-url={}", issuer.url);
    let options = [
        "--identity=assertion",
        &url,
        "--issuer=https://auth.example",
        "--resource=https://mcp.example/svc",
        "--stream-grace=500ms",
        "--stream-after=100ms",
        "--retry=100ms",
    ];
    Wrapper::run(&options, &["python3", child], &[]).await
}

/// A client whose token expires in this many seconds. Its assertion is valid for longer.
fn with_token(issuer: &Issuer, client: &Client, seconds: u64) -> Client {
    let token = issuer.sign(&header(), &with(claims(), &[("token_exp", json!(now() + seconds))]));
    client.clone().with_header("x-auth-assertion", &token)
}

async fn ends(events: Events) -> (Vec<Value>, Duration) {
    let start = Instant::now();
    let rest = tokio::time::timeout(Duration::from_secs(10), events.rest()).await.unwrap();
    (rest.into_iter().map(|event| event.data).collect(), start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a086_streams_of_a_session_end_with_the_token_and_are_resumed_with_a_fresh_one() {
    let issuer = Issuer::start().await;
    let wrapper = wrapper(&issuer, CHILD).await;
    let client = with_token(&issuer, &wrapper.client(), 600).initialize("2025-11-25").await;
    let short = with_token(&issuer, &client, 1);
    let stream = Events::new(short.get(None).await);
    let mut answer = Events::new(short.post(call(5, "sleep", json!({"seconds": 4}))).await);
    let primed = answer.next().await.unwrap();
    let ((_, get), (none, post)) = tokio::join!(ends(stream), ends(answer));
    assert!(get < Duration::from_secs(3) && post < Duration::from_secs(3), "{get:?} {post:?}");
    assert!(none.iter().all(Value::is_null), "{none:?}");
    let last = primed.id.unwrap();
    let resumed = Events::new(client.get(Some(&last)).await).rest().await;
    let answer = resumed.iter().find(|event| event.data["id"] == 5).unwrap_or_else(|| panic!("{resumed:?}"));
    assert_eq!(answer.data["result"]["content"][0]["text"], "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a086_stateless_streams_end_with_the_token() {
    let issuer = Issuer::start().await;
    let wrapper = wrapper(&issuer, modern::CHILD).await;
    let _ = modern::text(&with_token(&issuer, &wrapper.client(), 600), "pid", json!({})).await;
    let short = with_token(&issuer, &wrapper.client(), 1);
    let (events, _) = listen(&short, "l", json!({"toolsListChanged": true})).await;
    let slow = request(9, "tools/call", json!({"name": "sleep", "arguments": {"seconds": 30}}));
    let call = Events::new(send(&short, &slow).await);
    let ((listened, one), (called, two)) = tokio::join!(ends(events), ends(call));
    assert!(one < Duration::from_secs(3) && two < Duration::from_secs(3), "{one:?} {two:?}");
    let last = listened.iter().rfind(|data| !data.is_null()).unwrap();
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!("l"), &json!("complete")));
    let last = called.iter().rfind(|data| !data.is_null()).unwrap();
    assert_eq!((&last["id"], &last["error"]["code"]), (&json!(9), &json!(-32000)));
    // The wrapper has cancelled the call in the child, because no client is waiting for it any longer.
    let fresh = with_token(&issuer, &wrapper.client(), 600);
    let cancelled = modern::text(&fresh, "cancelled", json!({})).await;
    assert_eq!(serde_json::from_str::<Vec<u64>>(&cancelled).unwrap().len(), 2, "{cancelled}");
}
