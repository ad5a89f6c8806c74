//! One child for all sessions.

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
