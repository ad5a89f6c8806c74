//! Tests of the batches of revision 2025-03-26. The wrapper splits a batch for the child and collects the
//! responses for the client.

use serde_json::{Value, json};

use crate::wrapper::{Events, Wrapper};

fn ping(id: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "ping"})
}

fn echo(id: Value, value: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "echo", "arguments": {"v": value}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_a_batch_is_answered_once_in_one_array() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.client().initialize("2025-03-26").await;
    let note = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    // Two requests have the same id. JSON-RPC forbids this, but each of them gets its own response.
    let batch = json!([echo(json!(1), "a"), note, echo(json!("x"), "b"), echo(json!(1), "c"), {"jsonrpc": "2.0"}, ping(json!(9))]);
    let response = client.post(batch.to_string()).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let answers: Vec<Value> = response.json().await.unwrap();
    assert_eq!(answers.len(), 5);
    let mut texts: Vec<String> = answers
        .iter()
        .filter_map(|answer| {
            Some(format!("{} {}", answer["id"], answer["result"]["content"][0]["text"].as_str()?))
        })
        .collect();
    texts.sort();
    assert_eq!(texts, ["\"x\" {\"v\": \"b\"}", "1 {\"v\": \"a\"}", "1 {\"v\": \"c\"}"]);
    assert!(answers.iter().any(|answer| answer["id"].is_null() && answer["error"]["code"] == -32600));
    assert!(answers.iter().any(|answer| answer["id"] == 9 && answer["result"] == json!({})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_becomes_a_stream_when_the_child_says_more_than_answers() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.client().initialize("2025-03-26").await;
    let log = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "log", "arguments": {"lines": 2}}});
    let events = Events::new(client.post(json!([log, ping(json!(2))]).to_string()).await).rest().await;
    assert_eq!(events.iter().filter(|event| event.data["method"] == "notifications/message").count(), 2);
    assert_eq!(events.iter().filter(|event| event.data.get("result").is_some()).count(), 2);
    assert!(events.iter().all(|event| !event.data.is_null()), "no priming before 2025-11-25: {events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_more_answers_than_are_kept_becomes_a_stream_and_loses_none() {
    let wrapper = Wrapper::start(&["--event-log=64KiB"], &[]).await;
    let client = wrapper.client().initialize("2025-03-26").await;
    let big = |id: usize| {
        let params = json!({"name": "big", "arguments": {"bytes": 300_000}});
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
    };
    let batch: Vec<Value> = (0..10).map(big).collect();
    let start = std::time::Instant::now();
    let events = Events::new(client.post(json!(batch).to_string()).await).rest().await;
    let mut ids: Vec<u64> = events.iter().filter_map(|event| event.data["id"].as_u64()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..10).collect::<Vec<u64>>());
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "no response waits for another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_requests_is_accepted_silently() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.client().initialize("2025-03-26").await;
    let note = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    let response = client.post(json!([note, {"jsonrpc": "2.0", "id": 5, "result": {}}]).to_string()).await;
    assert_eq!(response.status(), 202);
    assert_eq!(response.text().await.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_refused_where_they_do_not_exist() {
    let wrapper = Wrapper::start(&[], &[]).await;
    for version in ["2024-11-05", "2025-06-18", "2025-11-25"] {
        let client = wrapper.client().initialize(version).await;
        assert_eq!(client.post(json!([ping(json!(1))]).to_string()).await.status(), 400, "{version}");
    }
    let client = wrapper.client().initialize("2025-03-26").await;
    assert_eq!(client.post("[]").await.status(), 400);
    assert_eq!(client.post("[").await.status(), 400);
    let init = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}});
    assert_eq!(wrapper.client().post(json!([init]).to_string()).await.status(), 400);
    let answers: Vec<Value> = client.post(json!([init]).to_string()).await.json().await.unwrap();
    assert_eq!(answers[0]["error"]["code"], -32600);
}
