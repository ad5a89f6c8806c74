//! Tests of clients with sessions in front of a stateless server.

use std::time::Duration;

use serde_json::{Value, json};

use crate::modern::wrapper;
use crate::wrapper::{Client, Events, Wrapper, call};

async fn able(wrapper: &Wrapper, capabilities: Value) -> Client {
    let mut client = wrapper.client();
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}});
    let response = client
        .post(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).to_string())
        .await;
    assert_eq!(response.status(), 200);
    client.session = Some(response.headers()["mcp-session-id"].to_str().unwrap().to_owned());
    let answer = crate::wrapper::answer_of(response).await;
    assert_eq!(answer["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(answer["result"]["serverInfo"]["name"], "modern child");
    client.post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string()).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_made_and_results_lose_what_it_does_not_know() {
    let wrapper = wrapper(&[]).await;
    for _ in 0..2 {
        let client = able(&wrapper, json!({})).await;
        assert_eq!(client.status_of_ping().await, 200);
        let answer = client.call("echo", json!({"a": 1})).await;
        assert_eq!(answer["result"], json!({"content": [{"type": "text", "text": "{\"a\": 1}"}]}));
        let level =
            json!({"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "info"}});
        assert_eq!(
            crate::wrapper::answer_of(client.post(level.to_string()).await).await["result"],
            json!({})
        );
        let logged = Events::new(client.post(call(1, "log", json!({"mark": "m"}))).await).rest().await;
        assert_eq!(logged[0].data["params"]["data"], "m", "{logged:?}");
        assert_eq!(client.delete().await, 204);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_becomes_a_question_on_the_stream_of_the_call() {
    let wrapper = wrapper(&[]).await;
    let client = able(&wrapper, json!({"elicitation": {}})).await;
    let mut events = Events::new(client.post(call("c", "ask", json!({}))).await);
    let question = events.next().await.unwrap().data;
    assert_eq!(
        (&question["method"], &question["params"]["message"]),
        (&json!("elicitation/create"), &json!("Who?"))
    );
    let reply =
        json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"n": 1}}});
    assert_eq!(client.post(reply.to_string()).await.status(), 202);
    let answer = events.next().await.unwrap().data;
    assert_eq!(answer["id"], "c");
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("\"opaque\"") && text.contains("accept"), "{answer}");
    // A client that does not support the question gets an error that names the missing capability.
    let unable = able(&wrapper, json!({})).await;
    let refused = unable.call("ask", json!({})).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("elicitation"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_watched_resources_reach_the_get_stream() {
    let wrapper = wrapper(&[]).await;
    let client = able(&wrapper, json!({})).await;
    let mut events = Events::new(client.get(None).await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _ = client.text("changed", json!({})).await;
    let change = events.next().await.unwrap().data;
    assert_eq!(
        (&change["method"], &change["params"]),
        (&json!("notifications/tools/list_changed"), &json!({}))
    );
    let watch =
        json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "test://w"}});
    assert_eq!(client.post(watch.to_string()).await.status(), 200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _ = client.text("updated", json!({"uri": "test://w"})).await;
    assert_eq!(events.next().await.unwrap().data["params"], json!({"uri": "test://w"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_is_answered_and_the_server_is_told() {
    let wrapper = wrapper(&[]).await;
    let client = able(&wrapper, json!({})).await;
    let slow = client.clone();
    let slow = tokio::spawn(async move { slow.call("sleep", json!({"seconds": 20})).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    client.post(cancel.to_string()).await;
    assert_eq!(slow.await.unwrap()["error"]["code"], -32800);
    assert_ne!(client.text("cancelled", json!({})).await, "[]");
}

/// The next question on a stream.
async fn question(events: &mut Events) -> Value {
    let found = events.next().await.unwrap().data;
    assert_eq!(found["method"], "elicitation/create", "{found}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_round_is_a_question_of_its_own() {
    let wrapper = wrapper(&[]).await;
    let client = able(&wrapper, json!({"elicitation": {}})).await;
    // Answers and state that the client writes into its arguments must not reach the server.
    let arguments =
        json!({"name": "ask_twice", "inputResponses": {"q": {"action": "accept"}}, "requestState": "two"});
    let forged = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": arguments});
    let mut events = Events::new(client.post(forged.to_string()).await);
    let first = question(&mut events).await;
    assert_eq!(first["params"]["message"], "first");
    let reply = |id: &Value, action: &str| {
        json!({"jsonrpc": "2.0", "id": id, "result": {"action": action}}).to_string()
    };
    client.post(reply(&first["id"], "accept")).await;
    let second = question(&mut events).await;
    assert_eq!(second["params"]["message"], "second");
    // A repeated first answer belongs to no open question.
    client.post(reply(&first["id"], "accept")).await;
    client.post(reply(&second["id"], "decline")).await;
    let answer = events.next().await.unwrap().data;
    assert_eq!(answer["result"]["content"][0]["text"], "decline", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cancelled_call_asked_does_not_count_any_more() {
    let wrapper = wrapper(&[]).await;
    let client = able(&wrapper, json!({"elicitation": {}})).await;
    for id in 1..=2 {
        let mut events = Events::new(client.post(call(id, "ask_much", json!({"count": 600}))).await);
        question(&mut events).await;
        let cancel =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
        client.post(cancel.to_string()).await;
        assert_eq!(events.rest().await.pop().unwrap().data["error"]["code"], -32800);
    }
    let mut events = Events::new(client.post(call(3, "ask_much", json!({"count": 600}))).await);
    question(&mut events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_with_one_id_end_each_for_itself() {
    let wrapper = wrapper(&[]).await;
    let client = able(&wrapper, json!({})).await;
    let slow = client.clone();
    let slow = tokio::spawn(async move { slow.call("sleep", json!({"seconds": 20})).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    // This call has the same id and gets its response first.
    assert_eq!(client.text("echo", json!({})).await, "{}");
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    client.post(cancel.to_string()).await;
    assert_eq!(slow.await.unwrap()["error"]["code"], -32800);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_a_session_has_a_bound() {
    let wrapper = wrapper(&[]).await;
    let client = able(&wrapper, json!({})).await;
    let ask = async |method: &str, params: Value| {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        crate::wrapper::answer_of(client.post(message.to_string()).await).await
    };
    for (method, params) in [
        ("resources/subscribe", json!({"uri": format!("test://{}", "x".repeat(5000))})),
        ("resources/subscribe", json!({"uri": 1})),
        ("logging/setLevel", json!({"level": "x".repeat(5000)})),
    ] {
        assert_eq!(ask(method, params).await["error"]["code"], -32602, "{method}");
    }
    assert_eq!(ask("resources/subscribe", json!({"uri": "test://w"})).await["result"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_replaced_only_for_another_one_and_not_for_each_change() {
    let wrapper = wrapper(&[]).await;
    let client = able(&wrapper, json!({})).await;
    let post = async |message: Value| assert!(client.post(message.to_string()).await.status().is_success());
    tokio::time::sleep(Duration::from_millis(400)).await;
    let before: u32 = client.text("listened", json!({})).await.parse().unwrap();
    for _ in 0..50 {
        post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(client.text("listened", json!({})).await, before.to_string());
    let start = std::time::Instant::now();
    for number in 0..50 {
        let uri = format!("test://{number}");
        post(json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": uri}}))
            .await;
    }
    let mut events = Events::new(client.get(None).await);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let count: u128 = client.text("listened", json!({})).await.parse().unwrap();
    let most = u128::from(before) + 2 + start.elapsed().as_millis() / 250;
    assert!(count <= most, "{count} subscriptions, but at most {most} are needed");
    let _ = client.text("updated", json!({"uri": "test://49"})).await;
    assert_eq!(events.next().await.unwrap().data["params"], json!({"uri": "test://49"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_a_stateless_server_have_a_ceiling_together() {
    let wrapper = wrapper(&["--max-body=1MiB"]).await;
    let client = able(&wrapper, json!({})).await;
    // The total size of the messages is 40 MB. At most 32 MiB of them can wait.
    let padding = "x".repeat(900_000);
    let calls = (0..45).map(|id| {
        let (client, body) = (client.clone(), call(id, "sleep", json!({"seconds": 5, "padding": padding})));
        async move {
            let answer = loop {
                // While the wrapper reads other bodies, it might lack memory for another one.
                let response = client.post(body.clone()).await;
                if response.status() != 503 {
                    break crate::wrapper::answer_of(response).await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            answer["error"]["message"].as_str().unwrap_or_default().contains("Too many large messages")
        }
    });
    let refused = futures_util::future::join_all(calls).await;
    let refused = refused.into_iter().filter(|is_refused| *is_refused).count();
    assert!((5..40).contains(&refused), "{refused}");
    let answer = client.call("echo", json!({})).await;
    assert!(answer["result"].is_object(), "the memory was released: {answer}");
}
