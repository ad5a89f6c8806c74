//! Tests that one user gets only a limited part of the connections and of the threads that serve them.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use reqwest::Response;
use serde_json::json;

use crate::modern;
use crate::slow::{caller, post_and_not_read};
use crate::wrapper::{Client, Wrapper, answer_of, call};

/// Asserts that the response refuses a request because its user has too many requests, and that it tells the user
/// what to do.
async fn is_too_many(response: Response) {
    assert_eq!(response.status(), 429);
    assert_eq!(
        (&response.headers()["retry-after"], &response.headers()["connection"]),
        (&"1".parse().unwrap(), &"close".parse().unwrap())
    );
    let text = response.text().await.unwrap();
    assert!(text.contains("You have 10 requests") && text.contains("MAX_CONNECTIONS"), "{text}");
}

/// Waits until a ping of this user gets this status.
async fn ping_gets(client: &Client, status: u16) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while client.status_of_ping().await != status {
        assert!(Instant::now() < deadline, "no request got {status}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_one_user_with_slow_calls_leaves_connections_for_others() {
    let wrapper = Wrapper::start(&["--identity=headers", "--max-connections=40", "--workers=1"], &[]).await;
    let ana = caller(&wrapper, "ana").initialize("2025-11-25").await;
    let again = caller(&wrapper, "ana").with_header("x-auth-client-id", "another");
    let again = again.initialize("2025-11-25").await;
    // There are more calls than connections. The child would respond only after 1000 calls have arrived, which
    // never happens.
    let calls: Vec<_> = (0..60)
        .map(|number| {
            let client = if number % 2 == 0 { ana.clone() } else { again.clone() };
            let body = call(number, "hold", json!({"value": number, "count": 1000}));
            tokio::spawn(async move { client.post(body).await })
        })
        .collect();
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 10).await;
    let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
    assert_eq!(bob.text("echo", json!({})).await, "{}");
    assert_eq!(wrapper.ops_status("/ready").await, 200);
    wrapper.metric_at_least("stdio_wrapper_http_refused_total", 50).await;
    assert_eq!(ana.status_of_ping().await, 429, "every kind of request is refused");
    assert_eq!(
        again.try_initialize("2025-11-25").await.status(),
        429,
        "other clients of the user are also refused"
    );
    assert_eq!(again.delete().await, 429);
    assert!(
        wrapper.logged("the requests of a user take a quarter of MAX_CONNECTIONS").await.contains("\"ana\"")
    );
    let mut refused = 0;
    for call in calls {
        if call.is_finished() {
            is_too_many(call.await.unwrap()).await;
            refused += 1;
        } else {
            // A disconnected call releases its slot.
            call.abort();
        }
    }
    assert_eq!(refused, 50);
    ping_gets(&ana, 200).await;
    // Stateless requests and subscriptions also count.
    let (mut streams, wanted) = (Vec::new(), json!({"toolsListChanged": true}));
    for number in 0..10 {
        streams.push(modern::listen(&caller(&wrapper, "ana"), number, wanted.clone()).await);
    }
    let ping = modern::request(1, "tools/list", json!({}));
    assert_eq!(modern::send(&caller(&wrapper, "ana"), &ping).await.status(), 429);
    assert_eq!(modern::send(&caller(&wrapper, "bob"), &ping).await.status(), 200);
    drop(streams);
    ping_gets(&ana, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_answers_that_one_user_does_not_read_leave_connections_for_others() {
    let wrapper = Wrapper::start(&["--identity=headers", "--max-connections=40", "--workers=1"], &[]).await;
    let ana = caller(&wrapper, "ana").initialize("2025-11-25").await;
    let body = call(1, "big", json!({"bytes": 2_000_000}));
    let held: Vec<TcpStream> = (0..10).map(|_| post_and_not_read(&ana, &wrapper.address, &body)).collect();
    wrapper.metric_at_least("stdio_wrapper_requests_total", 11).await;
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 0).await;
    // The child has responded to all calls, and the wrapper is still sending the responses.
    is_too_many(ana.post(call(1, "echo", json!({}))).await).await;
    let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
    assert_eq!(bob.text("echo", json!({})).await, "{}");
    drop(held);
    ping_gets(&ana, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_callers_who_are_not_told_apart_have_no_share() {
    let wrapper = Wrapper::start(&["--max-connections=40", "--workers=1"], &[]).await;
    let client = wrapper.session().await;
    let calls = (0..20).map(|number| client.post(call(number, "hold", json!({"value": 1, "count": 20}))));
    for response in futures_util::future::join_all(calls).await {
        assert_eq!(answer_of(response).await["result"]["content"][0]["text"], "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_a_wrapper_without_connections_says_so() {
    let wrapper = Wrapper::start(&["--max-connections=10", "--workers=1"], &[]).await;
    let ready = async || {
        let response = reqwest::get(format!("http://{}/ready", wrapper.ops)).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let becomes = async |wanted: u16| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (status, text) = ready().await;
            if status == wanted {
                return text;
            }
            assert!(Instant::now() < deadline, "/ready stays {status}: {text}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    assert_eq!(ready().await, (200, "ready\n".to_owned()));
    let held: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(&wrapper.address).unwrap()).collect();
    let why = becomes(503).await;
    assert!(why.contains("connections are in use") && why.contains("MAX_CONNECTIONS"), "{why}");
    assert_eq!(wrapper.ops_status("/health").await, 200);
    drop(held);
    becomes(200).await;
}

/// The processor time of the threads that process large messages, in clock ticks.
fn ticks_for_large_texts(wrapper: &Wrapper) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{}/task", wrapper.pid())).unwrap();
    let ticks = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let (name, rest) = stat.rsplit_once(')')?;
        let fields: Vec<u64> =
            rest.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect();
        name.ends_with("(large-texts").then(|| fields[11] + fields[12])
    };
    threads.filter_map(|thread| ticks(thread.unwrap())).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a109_large_texts_are_read_by_threads_that_serve_nobody() {
    let wrapper = Wrapper::start(&["--identity=headers"], &[]).await;
    let ana = caller(&wrapper, "ana").initialize("2025-11-25").await;
    let small = ana.call("echo", json!({"numbers": vec![1; 1000]})).await;
    assert!(small["result"].is_object(), "{small}");
    let before = ticks_for_large_texts(&wrapper);
    // Nearly the whole body consists of brackets. The child returns only the number of elements.
    let body =
        call(1, "count", json!({"x": "?"})).replace("\"?\"", &format!("[{}1]", "[1],".repeat(1_000_000)));
    let counted = answer_of(ana.post(body.clone()).await).await;
    assert_eq!(counted["result"]["content"][0]["text"], "1000001", "{counted}");
    let of_bodies = ticks_for_large_texts(&wrapper);
    assert!(of_bodies > before, "{before}, {of_bodies}");
    let lines = ana.text("big", json!({"bytes": 15_000_000})).await;
    assert_eq!(lines.len(), 15_000_000);
    let of_lines = ticks_for_large_texts(&wrapper);
    assert!(of_lines > of_bodies, "{of_bodies}, {of_lines}");
    // Like every other refusal, the refusal of this body contains the id of the request.
    let broken = body.replace("\"params\"", "\"Params\"");
    let refused = answer_of(ana.post(broken).await).await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(1), &json!(-32600)), "{refused}");
    let nonsense = answer_of(ana.post(body.replace("[1],1]", "[1],]")).await).await;
    assert_eq!(nonsense["error"]["code"], -32700, "{nonsense}");
}
