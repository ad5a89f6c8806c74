//! Tests of one child that all sessions share.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::wrapper::{Wrapper, answer_of};

#[tokio::test(flavor = "multi_thread")]
async fn sessions_share_a_child_per_revision_and_survive_its_crash() {
    let wrapper = Wrapper::start(&["--shared"], &[]).await;
    let a = wrapper.session().await;
    let b = wrapper.session().await;
    assert_eq!(a.server_pid, b.server_pid);
    let older = wrapper.client().initialize("2025-06-18").await;
    assert_ne!(a.server_pid, older.server_pid);
    let crashed = a.call("crash", json!({})).await;
    assert!(crashed["error"]["message"].as_str().unwrap().contains("exit status: 3"), "{crashed}");
    assert_eq!(b.text("echo", json!({"still": 1})).await, "{\"still\": 1}");
    assert_eq!(a.status_of_ping().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_one_clients_state_is_refused() {
    let wrapper = Wrapper::start(&["--shared"], &[]).await;
    let client = wrapper.session().await;
    for method in ["logging/setLevel", "resources/subscribe", "resources/unsubscribe"] {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}).to_string();
        assert_eq!(answer_of(client.post(body).await).await["error"]["code"], -32601);
    }
    let refused = client.text("ask", json!({"method": "sampling/createMessage"})).await;
    assert!(refused.contains("shared between clients"), "{refused}");
    assert_eq!(client.text("ask", json!({"method": "ping"})).await, "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_request_goes_to_nobody() {
    let wrapper = Wrapper::start(&["--shared"], &[]).await;
    let client = wrapper.session().await;
    let response = client.post(crate::wrapper::call(1, "log", json!({"lines": 3}))).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(wrapper.metric("stdio_wrapper_child_messages_dropped_total").await, 3);
}

/// Servers built with an SDK write log messages even if no client has requested them. If these counted as unusable lines,
/// the server's output would not be read for ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a100_a_call_that_logs_a_lot_does_not_stop_the_server_of_all() {
    let wrapper = Wrapper::start(&["--shared"], &[]).await;
    let (mallory, bob) = (wrapper.session().await, wrapper.session().await);
    let begun = Instant::now();
    assert_eq!(mallory.text("log", json!({"lines": 500})).await, "logged");
    // On a busy machine, even these 500 lines take long.
    let patience = Duration::from_secs(4) + begun.elapsed() * 25;
    let begun = Instant::now();
    let logging = tokio::spawn(async move { mallory.text("log", json!({"lines": 10_000})).await });
    wrapper.metric_at_least("stdio_wrapper_child_messages_dropped_total", 501).await;
    assert_eq!(bob.text("echo", json!({})).await, "{}");
    assert_eq!(logging.await.unwrap(), "logged");
    assert!(begun.elapsed() < patience, "{:?} instead of {patience:?}", begun.elapsed());
    assert_eq!(wrapper.metric("stdio_wrapper_child_messages_dropped_total").await, 10_500);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_shared_child_that_does_not_answer_is_told_with_the_others_and_starts_none() {
    let wrapper = Wrapper::start(&["--shared", "--start-timeout=3s"], &["--never-answers"]).await;
    let together = (0..5).map(|_| {
        let client = wrapper.client();
        tokio::spawn(async move { answer_of(client.try_initialize("2025-11-25").await).await })
    });
    for answer in together.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        assert!(answer["error"]["message"].as_str().unwrap().contains("in time"), "{answer}");
    }
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, 1);
    // For a while, other clients are refused immediately instead of waiting for the child.
    let refused = wrapper.client().try_initialize("2025-11-25").await;
    assert!(refused.status() == 503 && refused.headers().contains_key("retry-after"), "{refused:?}");
    let refused = refused.text().await.unwrap();
    assert!(refused.contains("did not answer initialize within 3 s"), "{refused}");
    assert_eq!(wrapper.ops_status("/ready").await, 200, "a single failure must not affect /ready");
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, 1);
    // After that, the start is tried again for the next client.
    let mut again = wrapper.client().try_initialize("2025-11-25").await;
    while again.status() == 503 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        again = wrapper.client().try_initialize("2025-11-25").await;
    }
    let answer = answer_of(again).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("in time"), "{answer}");
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, 2);
    assert_eq!(wrapper.ops_status("/ready").await, 503);
    wrapper.metric_becomes("stdio_wrapper_children", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_while_the_shared_child_starts_leaves_none_behind() {
    let wrapper = Wrapper::start(&["--shared", "--start-timeout=3s"], &["--never-answers"]).await;
    let client = wrapper.client();
    let impatient = tokio::spawn(async move { client.try_initialize("2025-11-25").await });
    wrapper.metric_becomes("stdio_wrapper_children", 1).await;
    impatient.abort();
    wrapper.metric_becomes("stdio_wrapper_children", 0).await;
}
