//! Tests of the rules for a stateless request. Each rule has its own status and code, and the rules are checked in
//! a fixed order.

use reqwest::Method;
use serde_json::{Value, json};

use crate::modern::{CHILD, VERSION, call, refusal, request, send, with_headers, wrapper};
use crate::wrapper::{EVERY_LINE, Wrapper, answer_of};

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

#[tokio::test(flavor = "multi_thread")]
async fn rules_1_to_3_origin_method_and_media_types() {
    let wrapper = wrapper(&["--max-body=2KiB"]).await;
    let list = request(1, "tools/list", json!({}));
    let client = with_headers(&wrapper.client(), &list);
    let foreign = client.clone().with_header("origin", "https://evil.example");
    assert_eq!(refusal(&foreign, &list.to_string()).await.0, 403);
    for method in [Method::GET, Method::DELETE] {
        let answer = client.request(method).header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, "POST"));
    }
    let post = |kind: &'static str, accept: &'static str| {
        let post = client.request(Method::POST).header("content-type", kind).header("accept", accept);
        let post = post.body(list.to_string());
        async move { post.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(post("text/plain", "application/json, text/event-stream").await, 415);
    assert_eq!(post("application/json", "application/json").await, 406);
    assert_eq!(refusal(&client, &format!("{list}{}", " ".repeat(3000))).await.0, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_4_to_9_bodies_metadata_and_versions() {
    let wrapper = wrapper(&[]).await;
    let list = request(1, "tools/list", json!({}));
    let client = with_headers(&wrapper.client(), &list);
    assert_eq!(refusal(&client, "{nonsense").await, (400, -32700));
    assert_eq!(refusal(&client, &format!("[{list}]")).await.0, 400);
    // Rule 6: the header is missing.
    assert_eq!(refusal(&wrapper.client(), &list.to_string()).await, (400, -32020));
    // Rule 7: the metadata or a part of it is missing.
    for missing in ["protocolVersion", "clientCapabilities"] {
        let mut message = list.clone();
        message["params"]["_meta"]
            .as_object_mut()
            .unwrap()
            .remove(&format!("io.modelcontextprotocol/{missing}"));
        assert_eq!(refusal(&client, &message.to_string()).await, (400, -32602), "{missing}");
    }
    // The wrapper stores the capabilities together with other data of the client, so their size is limited.
    let mut large = list.clone();
    large["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"x": "x".repeat(17_000)});
    assert_eq!(refusal(&client, &large.to_string()).await, (400, -32602));
    let bare = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    assert_eq!(refusal(&client, &bare.to_string()).await, (400, -32602));
    // Rule 8 is checked before rule 9: if the header and the body differ, that is the reason for the refusal.
    let mut other = list.clone();
    other["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2099-01-01");
    assert_eq!(refusal(&client, &other.to_string()).await, (400, -32020));
    let later = client.clone().with_header("mcp-protocol-version", "2099-01-01");
    let answer = answer_of(later.post(other.to_string()).await).await;
    assert_eq!(answer["error"]["code"], -32022);
    assert_eq!(answer["error"]["data"], json!({"supported": [VERSION], "requested": "2099-01-01"}));
    assert_eq!(answer["id"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_10_and_11_method_and_name_are_repeated_in_headers() {
    let wrapper = wrapper(&[]).await;
    let message = request(1, "tools/call", json!({"name": "echo", "arguments": {}}));
    let body = message.to_string();
    let client = with_headers(&wrapper.client(), &message);
    for (name, value, expected) in [
        ("mcp-method", "TOOLS/CALL", (400, -32020)),
        ("mcp-method", "tools/list", (400, -32020)),
        ("mcp-method", "  tools/call\t", (200, 0)),
        ("mcp-name", "other", (400, -32020)),
        ("mcp-name", " echo ", (200, 0)),
        ("mcp-name", "=?base64?ZWNobw==?=", (200, 0)),
        ("mcp-name", "=?base64?ZWNobw?=", (400, -32020)),
    ] {
        assert_eq!(
            refusal(&client.clone().with_header(name, value), &body).await,
            expected,
            "{name}: {value}"
        );
    }
    let mut doubled = client.clone();
    doubled.headers.push(("mcp-name".to_owned(), "echo".to_owned()));
    assert_eq!(refusal(&doubled, &body).await, (400, -32020));
    for gone in ["mcp-method", "mcp-name"] {
        let mut client = client.clone();
        client.headers.retain(|(name, _)| name != gone);
        assert_eq!(refusal(&client, &body).await, (400, -32020), "{gone}");
    }
    let read = request(1, "resources/read", json!({"uri": "test://ü"}));
    let client = with_headers(&wrapper.client(), &json!({"method": "resources/read", "params": {}}))
        .with_header("mcp-name", "=?base64?dGVzdDovL8O8?=");
    assert_eq!(refusal(&client, &read.to_string()).await, (200, 0));
    // A client that sends the name without encoding gets the reason for the refusal.
    let told = answer_of(client.with_header("mcp-name", "test://ü").post(read.to_string()).await).await;
    let why = told["error"]["message"].as_str().unwrap();
    assert!(
        why.contains("Mcp-Name header has a byte that is not ASCII") && why.contains("=?base64?"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_12_arguments_are_repeated_where_the_tool_asks_for_it() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    let here = |arguments: Value| request(1, "tools/call", json!({"name": "here", "arguments": arguments}));
    let check = |arguments: Value, headers: Vec<(&'static str, &'static str)>| {
        let message = here(arguments);
        let mut client = with_headers(&client, &message);
        for (name, value) in headers {
            client = client.with_header(name, value);
        }
        async move { refusal(&client, &message.to_string()).await }
    };
    // The tool is on the second page of the list.
    assert_eq!(check(json!({"region": "eu"}), vec![]).await, (400, -32020));
    assert_eq!(check(json!({"region": "eu"}), vec![("mcp-param-region", "eu")]).await, (200, 0));
    assert_eq!(check(json!({"region": "eu"}), vec![("mcp-param-region", "us")]).await, (400, -32020));
    assert_eq!(check(json!({}), vec![("mcp-param-region", "eu")]).await, (400, -32020));
    assert_eq!(check(json!({"shard": 42}), vec![("mcp-param-shard", "42.0")]).await, (200, 0));
    // A change that the child announces takes effect with the next call.
    let added = json!({"name": "echo2", "inputSchema": {"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": "A"}}}});
    let _ = call(&client, "changed", json!({"add": added})).await;
    let message = request(1, "tools/call", json!({"name": "echo2", "arguments": {"a": "x"}}));
    for _ in 0..50 {
        if refusal(&with_headers(&client, &message), &message.to_string()).await == (400, -32020) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the new tool's header is not required");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_13_16_19_and_20_removed_methods_statuses_and_messages_without_an_answer() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    for method in
        ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "no/such"]
    {
        let message = request("x", method, json!({}));
        let response = send(&client, &message).await;
        assert_eq!(response.status(), 404, "{method}");
        let answer = answer_of(response).await;
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(-32601), &json!("x")), "{method}");
    }
    for (code, status) in
        [(-32020, 400), (-32021, 400), (-32022, 400), (-32601, 404), (-32602, 200), (-32603, 200)]
    {
        let (got, answer) = call(&client, "fail", json!({"code": code, "message": "m"})).await;
        assert_eq!((got, &answer["error"]["code"]), (status, &json!(code)));
    }
    let note = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    let client = client.with_header("mcp-protocol-version", VERSION);
    let noted = client.post(note.to_string()).await;
    assert_eq!((noted.status().as_u16(), noted.text().await.unwrap().as_str()), (202, ""));
    assert_eq!(refusal(&client, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await.0, 400);
    assert_eq!(
        crate::modern::text(&client, "cancelled", json!({})).await,
        "[]",
        "the child's id must differ from the client's id"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_sessions_have_is_ignored_and_ids_are_never_null() {
    let wrapper = wrapper(&[]).await;
    let list = request(1, "tools/list", json!({}));
    let client = with_headers(&wrapper.client(), &list)
        .with_header("mcp-session-id", "no-such-session")
        .with_header("last-event-id", "0-1");
    let answer = client.post(list.to_string()).await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("mcp-session-id"));
    let client = with_headers(&wrapper.client(), &list);
    for id in [json!(null), json!({}), json!([1]), json!(true)] {
        let message = request(id.clone(), "tools/list", json!({}));
        assert_eq!(refusal(&client, &message.to_string()).await.0, 400, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_both_eras_live_on_one_endpoint() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let session = wrapper.session().await;
    assert_eq!(session.text("echo", json!({"a": 1})).await, "{\"a\": 1}");
    let (status, answer) = call(&wrapper.client(), "echo", json!({"a": 2})).await;
    assert_eq!((status, &answer["result"]["resultType"]), (200, &json!("complete")), "{answer}");
    // `initialize` opens a session, whichever revision it requests.
    let later = wrapper.client().initialize(VERSION).await;
    assert_eq!(later.text("echo", json!({})).await, "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_25_without_translation_clients_are_told_to_fall_back() {
    let wrapper = Wrapper::start(&["--translate=false"], &[]).await;
    let (status, answer) = call(&wrapper.client(), "echo", json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32000)));
    // Rule 26: the error from a server without sessions contains the versions that it supports.
    let modern = wrapper_without_translation().await;
    let refused = answer_of(modern.client().try_initialize("2025-11-25").await).await;
    assert_eq!(refused["error"]["code"], -32022);
    assert_eq!(refused["error"]["data"]["supported"], json!([VERSION]));
    assert!(refused["error"]["data"].get(SUBSCRIPTION).is_none());
}

async fn wrapper_without_translation() -> Wrapper {
    wrapper(&["--translate=false"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_list_of_tools_that_does_not_come_is_told_with_the_others_and_asks_no_more() {
    let wrapper = Wrapper::run(
        &["--request-timeout=3s", EVERY_LINE],
        &["python3", CHILD, "--never-lists", "--tells-methods"],
        &[],
    )
    .await;
    let client = wrapper.client();
    // After this request, the wrapper knows which revisions the server supports.
    send(&client, &request(1, "server/discover", json!({}))).await;
    let together = (0..5).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { call(&client, "here", json!({"region": "eu"})).await })
    });
    for told in together.collect::<Vec<_>>() {
        let (_, told) = told.await.unwrap();
        assert!(told["error"]["message"].as_str().unwrap().contains("tools/list in time"), "{told}");
    }
    let lists = wrapper.log().into_iter().filter(|line| line.contains("asked tools/list"));
    assert_eq!(lists.count(), 1);
}
