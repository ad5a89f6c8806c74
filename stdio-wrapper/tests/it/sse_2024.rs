//! Tests of the deprecated endpoints of revision 2024-11-05.

use std::time::Duration;

use serde_json::json;

use crate::wrapper::{Client, Events, Wrapper, call};

/// Opens the stream. Returns it with a client for the endpoint that the stream announces.
async fn open(wrapper: &Wrapper) -> (Events, Client) {
    let mut client = wrapper.client();
    client.url = format!("http://{}/sse", wrapper.address);
    let mut stream = Events::new(client.get(None).await);
    let endpoint = stream.next().await.unwrap();
    assert_eq!(endpoint.name.as_deref(), Some("endpoint"));
    client.url = format!("http://{}{}", wrapper.address, endpoint.data.as_str().unwrap());
    (stream, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_on_the_one_stream() {
    let wrapper = Wrapper::start(&["--legacy-sse"], &[]).await;
    let (mut stream, client) = open(&wrapper).await;
    assert_eq!(client.try_initialize("2024-11-05").await.status(), 202);
    let answer = stream.next().await.unwrap();
    assert_eq!(answer.data["result"]["protocolVersion"], "2024-11-05");
    assert_eq!(answer.id, None);
    assert_eq!(
        client
            .post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string())
            .await
            .status(),
        202
    );
    assert_eq!(client.post(call("a", "log", json!({"lines": 1}))).await.status(), 202);
    assert_eq!(stream.next().await.unwrap().data["method"], "notifications/message");
    assert_eq!(stream.next().await.unwrap().data["id"], "a");
    assert_eq!(client.post(call("b", "ask", json!({"method": "ping"}))).await.status(), 202);
    let question = stream.next().await.unwrap().data;
    assert_eq!(question["method"], "ping");
    let reply = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"fine": true}}).to_string();
    assert_eq!(client.post(reply).await.status(), 202);
    assert_eq!(stream.next().await.unwrap().data["result"]["content"][0]["text"], "{\"fine\": true}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_a_question_that_cannot_be_read_is_told_to_the_child() {
    let wrapper = Wrapper::start(&["--legacy-sse"], &[]).await;
    let (mut stream, client) = open(&wrapper).await;
    client.try_initialize("2024-11-05").await;
    stream.next().await.unwrap();
    for answer in [r#"{"jsonrpc":"2.0","id":ID,"result":{"x":NaN}}"#, r#"{"jsonrpc":"2.0","result":{}}"#] {
        client.post(call("a", "ask", json!({"method": "roots/list"}))).await;
        let question = stream.next().await.unwrap().data;
        let answer = answer.replace("ID", &question["id"].to_string());
        assert_eq!(client.post(answer).await.status(), 400);
        let received = stream.next().await.unwrap().data["result"]["content"][0]["text"].to_string();
        assert!(received.contains("-32603"), "{received}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_ends_with_its_stream() {
    let wrapper = Wrapper::start(&["--legacy-sse", "--keep-alive=100ms"], &[]).await;
    let (stream, client) = open(&wrapper).await;
    client.try_initialize("2024-11-05").await;
    assert_eq!(wrapper.metric("stdio_wrapper_children").await, 1);
    drop(stream);
    wrapper.metric_becomes("stdio_wrapper_children", 0).await;
    assert_eq!(client.status_of_ping().await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoints_are_off_by_default_and_sessions_do_not_mix() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let mut client = wrapper.client();
    client.url = format!("http://{}/sse", wrapper.address);
    assert_eq!(client.get(None).await.status(), 404);
    let wrapper = Wrapper::start(&["--legacy-sse"], &[]).await;
    let modern = wrapper.session().await;
    let mut crossed = modern.clone();
    crossed.url =
        format!("http://{}/messages?session_id={}", wrapper.address, modern.session.clone().unwrap());
    assert_eq!(crossed.status_of_ping().await, 404);
    let (_stream, client) = open(&wrapper).await;
    let mut crossed = wrapper.client();
    crossed.session = client.url.split('=').nth(1).map(str::to_owned);
    assert_eq!(crossed.status_of_ping().await, 404);
    tokio::time::sleep(Duration::from_millis(10)).await;
}
