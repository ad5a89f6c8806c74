//! Tests of messages that an SDK behind the wrapper would silently drop, as the test child does with `--strict`. The
//! wrapper refuses them with 400, or removes an unnecessary invalid part, so that no client has to wait for a
//! timeout.

use serde_json::{Value, json};

use crate::wrapper::{Client, Events, Wrapper, answer_of, call};

async fn wrapper() -> Wrapper {
    Wrapper::start(&[], &["--strict"]).await
}

/// Sends a message with the id 7 and these members. Returns the status and the response.
async fn post(client: &Client, members: &str) -> (u16, Value) {
    let response = client.post(format!(r#"{{"jsonrpc":"2.0","id":7,{members}}}"#)).await;
    (response.status().as_u16(), answer_of(response).await)
}

fn params_of(answer: &Value) -> Value {
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_schema_forbids_is_refused() {
    let wrapper = wrapper().await;
    let client = wrapper.session().await;
    for members in [
        r#""method":"tools/list","params":[]"#,
        r#""method":"tools/list","params":[{"a":1}]"#,
        r#""method":"tools/list","params":"x""#,
        r#""method":"tools/list","params":7"#,
        r#""method":"tools/list","params":{"_meta":[]}"#,
        r#""method":"tools/list","params":{"_meta":"x"}"#,
        r#""method":"tools/list","params":{"_meta":{"progressToken":{}}}"#,
        r#""method":"tools/list","params":{"_meta":{"progressToken":[1]}}"#,
        r#""method":"tools/list","params":{"_meta":{"progressToken":true}}"#,
        r#""method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/related-task":7}}"#,
        r#""method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/related-task":{"taskId":7}}}"#,
        &format!(r#""method":"tools/list","params":{{"x":{}}}"#, "7".repeat(5000)),
    ] {
        let (status, answer) = post(&client, members).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "{members}: {answer}");
        assert_eq!(answer["id"], 7, "{members}");
    }
    for meta in ["[]", r#"{"progressToken":{}}"#] {
        let mut newcomer = client.clone();
        newcomer.session = None;
        let params = format!(
            r#"{{"protocolVersion":"2025-11-25","capabilities":{{}},"clientInfo":{{"name":"t","version":"1"}},"_meta":{meta}}}"#
        );
        let (status, answer) = post(&newcomer, &format!(r#""method":"initialize","params":{params}"#)).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "{meta}: {answer}");
    }
    // Invalid notifications are also refused, because a later call can depend on their effect.
    let noted = client.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized","params":[]}"#).await;
    assert_eq!(noted.status(), 400);
    assert_eq!(client.text("echo", json!({})).await, "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn null_in_place_of_what_may_be_left_out_is_left_out() {
    let wrapper = wrapper().await;
    let client = wrapper.session().await;
    let (_, answer) = post(&client, r#""method":"tools/list","params":null"#).await;
    assert_eq!(answer, json!({"jsonrpc": "2.0", "id": 7, "result": {"tools": []}}));
    for (given, seen) in [
        (r#"{"name":"params","_meta":null,"x":null}"#, json!({"name": "params", "x": null})),
        (
            r#"{"name":"params","_meta":{"progressToken":null,"io.modelcontextprotocol/related-task":null,"y":1.0}}"#,
            json!({"name": "params", "_meta": {"y": 1.0}}),
        ),
    ] {
        let (status, answer) = post(&client, &format!(r#""method":"tools/call","params":{given}"#)).await;
        assert_eq!((status, params_of(&answer)), (200, seen), "{given}");
    }
    let noted = client.post(r#"{"jsonrpc":"2.0","method":"notifications/odd","params":null}"#).await;
    assert_eq!(noted.status(), 202);
    let logged = wrapper.logged("notifications/odd").await;
    assert!(!logged.contains("params"), "{logged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_json_rpc_does_not_know_and_half_surrogate_pairs_do_not_reach_the_child() {
    let wrapper = wrapper().await;
    let client = wrapper.session().await;
    let (_, answer) =
        post(&client, r#""x":1,"method":"tools/call","params":{"name":"params","x":1},"trace":{"a":[]}"#)
            .await;
    assert_eq!(params_of(&answer), json!({"name": "params", "x": 1}));
    let given = r#""method":"tools/call","params":{"name":"params","x":"a\ud83db\ud83d\ude00"}"#;
    assert_eq!(params_of(&post(&client, given).await.1)["x"], "a\u{fffd}b\u{1f600}");
    // Node's readline treats these characters as line ends.
    let given = "\"method\":\"tools/call\",\"params\":{\"name\":\"params\",\"x\":\"a\u{2028}b\u{2029}\"}";
    assert_eq!(params_of(&post(&client, given).await.1)["x"], "a\u{2028}b\u{2029}");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_the_old_transport_are_held_to_the_same() {
    let wrapper = wrapper().await;
    let client = wrapper.client().initialize("2025-03-26").await;
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/list","params":null,"x":1},{"jsonrpc":"2.0","id":2,"method":"tools/list","params":[]},{"jsonrpc":"2.0","id":3,"method":"tools/list","params":{"_meta":[]}}]"#;
    let answers: Vec<Value> = serde_json::from_str(&client.post(batch).await.text().await.unwrap()).unwrap();
    let of =
        |id: Value| answers.iter().find(|answer| answer["id"] == id).unwrap_or_else(|| panic!("{answers:?}"));
    assert!(of(json!(1)).get("result").is_some());
    assert_eq!(of(json!(2))["error"]["code"], -32600);
    assert_eq!(of(json!(3))["error"]["code"], -32600);
}

#[tokio::test(flavor = "multi_thread")]
async fn stateless_requests_are_held_to_the_same() {
    let child = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/children/modern.py");
    let wrapper = Wrapper::run(&[], &["python3", child], &[]).await;
    let headers =
        [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "seen")];
    let client =
        headers.iter().fold(wrapper.client(), |client, (name, value)| client.with_header(name, value));
    let meta = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#;
    let call = |more: &str, meta_more: &str| {
        format!(
            r#"{more}"method":"tools/call","params":{{"name":"seen","arguments":{{}},"_meta":{{{meta}{meta_more}}}}}"#
        )
    };
    let (status, answer) = post(&client, &call(r#""x":1,"#, r#","progressToken":null"#)).await;
    assert_eq!(status, 200, "{answer}");
    assert!(params_of(&answer)["params"]["_meta"].get("progressToken").is_none(), "{answer}");
    for token in ["{}", "true", "[]"] {
        let (status, answer) = post(&client, &call("", &format!(r#","progressToken":{token}"#))).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "{token}: {answer}");
    }
    let (status, answer) = post(&client, r#""method":"tools/call","params":[]"#).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "{answer}");
}

/// Makes the child send the client a question with this id. Returns the stream, and the id that the client
/// received.
async fn asked(client: &Client, id: Value) -> (Events, Value) {
    let mut events =
        Events::new(client.post(call(1, "ask", json!({"method": "roots/list", "id": id}))).await);
    events.next().await.unwrap();
    let question = events.next().await.unwrap().data;
    (events, question["id"].clone())
}

async fn told(mut events: Events) -> String {
    events.next().await.unwrap().data["result"]["content"][0]["text"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_client_that_the_child_would_drop_does_not_leave_the_child_waiting() {
    let wrapper = wrapper().await;
    let client = wrapper.session().await;
    for (members, status) in [
        (r#""result":[]"#, 400),
        (r#""result":"yes""#, 400),
        (r#""error":"no""#, 400),
        (r#""error":{"code":"no","message":"no"}"#, 400),
        (r#""result":{"x":NaN}"#, 400),
        (r#""result":{},"error":{"code":1,"message":"x"}"#, 400),
    ] {
        let (events, id) = asked(&client, json!("q")).await;
        let posted = client.post(format!(r#"{{"jsonrpc":"2.0","id":{id},{members}}}"#)).await;
        assert_eq!(posted.status(), status, "{members}");
        let answer = told(events).await;
        assert!(answer.contains("could not be used") || answer.contains("-32603"), "{members}: {answer}");
    }
    for (members, seen) in [
        (r#""result":null"#, "{}"),
        (r#""result":{"a":1},"error":null"#, r#"{"a": 1}"#),
        (r#""result":{"a":1},"extra":true"#, r#"{"a": 1}"#),
        (r#""result":{"a":1,"_meta":null}"#, r#"{"a": 1}"#),
    ] {
        let (events, id) = asked(&client, json!("q")).await;
        let posted = client.post(format!(r#"{{"jsonrpc":"2.0","id":{id},{members}}}"#)).await;
        assert_eq!(posted.status(), 202, "{members}");
        assert_eq!(told(events).await, seen, "{members}");
    }
    // A client that cannot even read the id sends an error without an id.
    let (events, _) = asked(&client, json!("q")).await;
    let nameless = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"cannot read"}}"#;
    assert_eq!(client.post(nameless).await.status(), 202);
    assert!(told(events).await.contains("could not be used"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_spell_the_id_of_a_question_as_it_likes() {
    let wrapper = wrapper().await;
    let client = wrapper.session().await;
    for (asked_under, answered_under) in
        [(json!(12), "\"12\""), (json!("12"), "12"), (json!("café/1"), r#""caf\u00e9\/1""#)]
    {
        let (events, id) = asked(&client, asked_under.clone()).await;
        assert_eq!(id, asked_under);
        let posted =
            client.post(format!(r#"{{"jsonrpc":"2.0","id":{answered_under},"result":{{"a":1}}}}"#)).await;
        assert_eq!(posted.status(), 202);
        assert_eq!(told(events).await, r#"{"a": 1}"#, "{answered_under}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_no_json_is_not_repeated() {
    let wrapper = wrapper().await;
    let client = wrapper.session().await;
    for id in ["--..5eE", "00", "1x2", "1 2", r#""\q""#, "\"a\tb\"", "\"a\u{1}b\"", "NaN", "+1", ".5"] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/list"}}"#);
        for client in [&client, &wrapper.client()] {
            let response = client.post(body.clone()).await;
            assert_eq!(response.status(), 400, "{id}");
            let text = response.text().await.unwrap();
            let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{id}: {text}"));
            assert_eq!(answer["id"], Value::Null, "{id}");
        }
    }
    let (status, answer) = post(&client, r#""method":"tools/list","params":{"x":NaN}"#).await;
    assert_eq!((status, &answer["id"]), (400, &json!(7)), "a valid id is repeated");
    // The wrapper also drops a request from the child whose id is not valid JSON.
    let line = "{\"jsonrpc\":\"2.0\",\"id\":--..5eE,\"method\":\"ping\"}\n{\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{}}";
    assert_eq!(client.call("raw", json!({"text": line})).await["result"], json!({}));
    assert_eq!(client.text("echo", json!({})).await, "{}", "the child must still read its input");
}
