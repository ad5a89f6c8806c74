//! Helpers for tests of stateless clients.

use reqwest::Response;
use serde_json::{Value, json};

use crate::wrapper::{Client, Events, Wrapper, answer_of};

pub(crate) const VERSION: &str = "2026-07-28";
pub(crate) const CHILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/children/modern.py");

/// A wrapper in front of the stateless test child.
pub(crate) async fn wrapper(options: &[&str]) -> Wrapper {
    Wrapper::run(options, &["python3", CHILD], &[]).await
}

/// The `_meta` of every request.
pub(crate) fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

/// A request with the metadata that every request needs.
pub(crate) fn request(id: impl Into<Value>, method: &str, params: Value) -> Value {
    let mut params = params;
    let mut whole = meta();
    if let (Some(whole), Some(given)) =
        (whole.as_object_mut(), params.get("_meta").and_then(Value::as_object))
    {
        whole.extend(given.clone());
    }
    params["_meta"] = whole;
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}

/// Returns the client with the headers that this message requires.
pub(crate) fn with_headers(client: &Client, message: &Value) -> Client {
    let name = ["name", "uri", "taskId"].iter().find_map(|name| message["params"][name].as_str());
    let mut client = client
        .clone()
        .with_header("mcp-protocol-version", VERSION)
        .with_header("mcp-method", message["method"].as_str().unwrap());
    if let Some(name) = name {
        client = client.with_header("mcp-name", name);
    }
    client
}

/// Sends a message with the headers that it requires.
pub(crate) async fn send(client: &Client, message: &Value) -> Response {
    with_headers(client, message).post(message.to_string()).await
}

/// Calls a tool, and returns the status and the response.
pub(crate) async fn call(client: &Client, tool: &str, arguments: Value) -> (u16, Value) {
    let response =
        send(client, &request(1, "tools/call", json!({"name": tool, "arguments": arguments}))).await;
    (response.status().as_u16(), answer_of(response).await)
}

/// Calls a tool, and returns the text of its result.
pub(crate) async fn text(client: &Client, tool: &str, arguments: Value) -> String {
    let (_, answer) = call(client, tool, arguments).await;
    let text = answer["result"]["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text in {answer}")).to_owned()
}

/// Opens a subscription, and reads its acknowledgement.
pub(crate) async fn listen(client: &Client, id: impl Into<Value>, wanted: Value) -> (Events, Value) {
    let message = request(id, "subscriptions/listen", json!({"notifications": wanted}));
    let mut events = Events::new(send(client, &message).await);
    let first = events.next().await.unwrap().data;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
    (events, first)
}

/// Sends a message that is refused, and returns the status and the JSON-RPC code.
pub(crate) async fn refusal(client: &Client, body: &str) -> (u16, i64) {
    let response = client.post(body.to_owned()).await;
    let status = response.status().as_u16();
    let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default();
    (status, answer["error"]["code"].as_i64().unwrap_or_default())
}
