//! Tests of Streamable HTTP: methods, headers, statuses, streams, and which stream receives each message.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::wrapper::{Events, Wrapper, answer_of, call};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_from_initialize_to_delete() {
    let wrapper = Wrapper::start(&[], &[]).await;
    for version in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        let client = wrapper.client().initialize(version).await.with_header("mcp-protocol-version", version);
        assert_eq!(client.text("echo", json!({"a": 1})).await, "{\"a\": 1}");
        assert_eq!(client.delete().await, 204);
        assert_eq!(client.status_of_ping().await, 404);
        assert_eq!(client.delete().await, 404);
        assert_eq!(client.get(None).await.status(), 404);
    }
    wrapper.metric_becomes("stdio_wrapper_children", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_checked() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let with = |accept: &'static str, kind: &'static str| {
        let client = client.clone();
        async move {
            let request = client.request(Method::POST).header("content-type", kind).header("accept", accept);
            request.body(ping).send().await.unwrap().status().as_u16()
        }
    };
    assert_eq!(with("application/json, text/event-stream", "application/json; charset=utf-8").await, 200);
    assert_eq!(with("*/*", "application/json").await, 200);
    let bare = client.request(Method::POST).header("content-type", "application/json").body(ping);
    assert_eq!(bare.send().await.unwrap().status(), 200, "a client without Accept accepts anything");
    assert_eq!(with("application/json", "application/json").await, 406);
    assert_eq!(with("text/event-stream", "application/json").await, 406);
    assert_eq!(with("application/json, text/event-stream;q=0", "application/json").await, 406);
    assert_eq!(with("*/*", "text/json").await, 415);
    for (version, status) in [("2025-06-18", 200), ("2026-07-28", 400), ("yesterday", 400), ("", 400)] {
        assert_eq!(
            client.clone().with_header("mcp-protocol-version", version).status_of_ping().await,
            status,
            "{version}"
        );
    }
    let unsupported = client.clone().with_header("mcp-protocol-version", "2026-07-28").post(ping).await;
    assert_eq!(
        answer_of(unsupported).await["error"]["code"],
        -32602,
        "a stateless request needs its metadata"
    );
    let mut homeless = client.clone();
    homeless.session = None;
    assert_eq!(homeless.status_of_ping().await, 400);
    assert_eq!(client.try_initialize("2025-11-25").await.status(), 400, "a second initialize");
    let mut stale = client.clone();
    stale.session = Some("gone".to_owned());
    let refused = stale.try_initialize("2025-11-25").await;
    assert_eq!(refused.status(), 404, "the session that the client names does not exist");
    assert_eq!(answer_of(refused).await["id"], 1);
    let put = client.request(Method::PUT).send().await.unwrap();
    assert_eq!(
        (put.status().as_u16(), put.headers()["allow"].to_str().unwrap()),
        (405, "GET, POST, DELETE, OPTIONS")
    );
    let answer = answer_of(client.post("{nonsense").await).await;
    assert_eq!(answer["error"]["code"], -32700);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_later_revision_gets_a_session_of_ours() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.client().initialize("2026-07-28").await;
    assert_eq!(client.text("echo", json!({})).await, "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_pass_byte_for_byte() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let text = client.post(call("odd id \" é", "odd", json!({}))).await.text().await.unwrap();
    assert_eq!(
        text,
        r#"{"jsonrpc": "2.0", "id": "odd id \" é", "result": {"futureKey": {"a" : 1.0, "big": 12345678901234567890123, "e": 1E400}, "x" : [1 , 2], "s": "\u00e9\ud83d\ude00"} }"#
    );
    // Only the line breaks between tokens are changed before the message reaches the child.
    let body = "{\n \"jsonrpc\":\"2.0\",\r\n \"id\" : 1.50 ,\n \"method\":\"tools\\/call\",\n\"params\":{\"name\":\"params\",\"extra\":{\"n\":1.0}}\n}";
    let answer = client.post(body).await.text().await.unwrap();
    assert!(answer.contains(r#""id": 1.50"#), "{answer}");
    assert!(answer.contains(r#"\"extra\": {\"n\": 1.0}"#), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_messages_come_before_the_answer_on_the_same_stream() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let response = client.post(call(3, "log", json!({"lines": 3}))).await;
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let events = Events::new(response).rest().await;
    let kinds: Vec<bool> =
        events.iter().skip(1).map(|event| event.data["method"] == "notifications/message").collect();
    assert_eq!(kinds, [true, true, true, false]);
    assert_eq!(events.last().unwrap().data["id"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_child_can_ask_the_client_on_the_stream_of_its_call() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for method in ["sampling/createMessage", "elicitation/create", "roots/list", "ping"] {
        let mut events =
            Events::new(client.post(call(1, "ask", json!({"method": method, "params": {"q": 1}}))).await);
        events.next().await.unwrap();
        let question = events.next().await.unwrap().data;
        assert_eq!((question["method"].as_str(), &question["params"]["q"]), (Some(method), &json!(1)));
        // An answer to a question that was never asked is dropped.
        let forged = json!({"jsonrpc": "2.0", "id": "ask-forged", "result": {"evil": 1}}).to_string();
        assert_eq!(client.post(forged).await.status(), 202);
        let reply = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"of": method}}).to_string();
        assert_eq!(client.post(reply).await.status(), 202);
        let answer = events.next().await.unwrap().data;
        assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains(method), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_on_the_get_stream_and_wait_for_it() {
    let wrapper = Wrapper::start(&["--keep-alive=100ms"], &[]).await;
    let client = wrapper.client().initialize("2025-06-18").await;
    let mut stream = Events::new(client.get(None).await);
    let response = client.post(call(1, "changed", json!({}))).await;
    assert_eq!(response.headers()["content-type"], "application/json", "no event stream is needed");
    assert_eq!(stream.next().await.unwrap().data["method"], "notifications/tools/list_changed");
    drop(stream);
    wrapper.metric_becomes("stdio_wrapper_streams", 0).await;
    let mut stream = Events::new(client.get(None).await);
    client.text("changed", json!({})).await;
    assert_eq!(stream.next().await.unwrap().data["method"], "notifications/tools/list_changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_reaches_the_right_call_and_no_other() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let waiting = |id: Value| {
        let client = client.clone();
        tokio::spawn(
            async move { answer_of(client.post(call(id, "sleep", json!({"seconds": 1.5}))).await).await },
        )
    };
    let (one, two, twin) = (waiting(json!(1)), waiting(json!("2")), waiting(json!(1)));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let cancel = |id: Value| {
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}})
            .to_string()
    };
    // Two calls have id 1, so the wrapper cannot know which one the cancellation refers to.
    assert_eq!(client.post(cancel(json!(1))).await.status(), 202);
    assert_eq!(client.post(cancel(json!("2"))).await.status(), 202);
    let cancelled = two.await.unwrap();
    assert_eq!((&cancelled["id"], &cancelled["error"]["code"]), (&json!("2"), &json!(-32800)));
    assert_eq!(one.await.unwrap()["result"]["content"][0]["text"], "slept");
    assert_eq!(twin.await.unwrap()["result"]["content"][0]["text"], "slept");
    // The notification to the child contains the child's id of the call instead of the client's id.
    let logged = wrapper.logged("notifications/cancelled").await;
    assert!(logged.contains(r#"\"requestId\":"#) && !logged.contains(r#"\"requestId\":\"2\""#), "{logged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_not_a_cancellation() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let lost = tokio::spawn({
        let client = client.clone();
        async move { client.post(call(1, "sleep", json!({"seconds": 0.5}))).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    lost.abort();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!wrapper.log().iter().any(|line| line.contains("notifications/cancelled")));
    assert_eq!(wrapper.metric("stdio_wrapper_requests_in_flight").await, 0);
    assert_eq!(client.status_of_ping().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_sessions_go_and_used_ones_stay() {
    let wrapper = Wrapper::start(&["--session-idle=5s"], &[]).await;
    let unused = wrapper.session().await;
    let used = wrapper.session().await;
    let listening = wrapper.session().await;
    let _stream = listening.get(None).await;
    let busy = tokio::spawn({
        let client = wrapper.session().await;
        async move { client.text("sleep", json!({"seconds": 9})).await }
    });
    for _ in 0..28 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(used.status_of_ping().await, 200);
    }
    assert_eq!(unused.status_of_ping().await, 404);
    assert_eq!(listening.status_of_ping().await, 200);
    assert_eq!(busy.await.unwrap(), "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn ceilings_hold_for_the_wrapper_and_for_a_session() {
    let wrapper = Wrapper::start(&["--max-sessions=3", "--max-in-flight=2"], &[]).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(wrapper.session().await);
    }
    let refused = wrapper.client().try_initialize("2025-11-25").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(wrapper.metric("stdio_wrapper_children").await, 3);
    clients[0].delete().await;
    wrapper.session().await;
    let client = clients[1].clone();
    let busy: Vec<_> = (0..2)
        .map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { client.call("sleep", json!({"seconds": 1})).await }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(client.call("echo", json!({})).await["error"]["code"], -32000);
    for call in busy {
        assert_eq!(call.await.unwrap()["result"]["content"][0]["text"], "slept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_get_streams_end_so_that_the_caller_is_checked_again() {
    let wrapper = Wrapper::start(&["--stream-max-age=300ms", "--retry=2s"], &[]).await;
    let client = wrapper.session().await;
    let events = Events::new(client.get(None).await).rest().await;
    assert_eq!(events.last().unwrap().retry, Some(2000));
    assert_eq!(client.get(events[0].id.as_deref()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_get_stream_lives_next_to_the_first_and_each_message_goes_to_one_of_them() {
    let wrapper = Wrapper::start(&["--keep-alive=100ms"], &[]).await;
    let client = wrapper.session().await;
    let mut first = Events::new(client.get(None).await);
    let primed = first.next().await.unwrap();
    assert_eq!((primed.id.as_deref(), &primed.data), (Some("0-0"), &Value::Null));
    client.text("changed", json!({})).await;
    let seen = first.next().await.unwrap().id.unwrap();
    let second = client.get(None).await;
    assert_eq!(second.status(), 200, "the client of the first stream might have disconnected unnoticed");
    let mut second = Events::new(second);
    assert_eq!(
        second.next().await.unwrap().id.as_deref(),
        Some(seen.as_str()),
        "the second stream can be resumed immediately"
    );
    client.text("changed", json!({})).await;
    assert_eq!(second.next().await.unwrap().data["method"], "notifications/tools/list_changed");
    // While the second stream stays open, the client can get the lost messages of the first stream again.
    let mut third = Events::new(client.get(Some(&seen)).await);
    third.next().await.unwrap();
    assert_eq!(third.next().await.unwrap().data["method"], "notifications/tools/list_changed");
    drop(third);
    wrapper.metric_becomes("stdio_wrapper_streams", 2).await;
    drop(second);
    wrapper.metric_becomes("stdio_wrapper_streams", 1).await;
    client.text("changed", json!({})).await;
    assert_eq!(first.next().await.unwrap().data["method"], "notifications/tools/list_changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_is_found_with_a_query_and_with_a_slash_at_its_end() {
    for path in ["/mcp", "/mcp/"] {
        let wrapper = Wrapper::start(&[&format!("--mcp-path={path}")], &[]).await;
        for suffix in ["/mcp?toolset=a", "/mcp/", "/mcp/?toolset=a&x=%2F"] {
            let mut client = wrapper.client();
            client.url = format!("http://{}{suffix}", wrapper.address);
            let client = client.initialize("2025-11-25").await;
            assert_eq!(client.text("echo", json!({})).await, "{}", "{suffix}");
            assert_eq!(client.get(None).await.status(), 200, "{suffix}");
            assert_eq!(client.delete().await, 204, "{suffix}");
        }
        let mut client = wrapper.client();
        for suffix in ["/mcp//", "/mcp/x", "/MCP", "/"] {
            client.url = format!("http://{}{suffix}", wrapper.address);
            assert_eq!(client.status_of_ping().await, 404, "{suffix}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refused_sessions_is_no_flood_of_log_lines() {
    let wrapper = Wrapper::start(&["--max-sessions=1"], &[]).await;
    let _only = wrapper.session().await;
    let start = std::time::Instant::now();
    for _ in 0..200 {
        assert_eq!(wrapper.client().try_initialize("2025-11-25").await.status(), 503);
    }
    wrapper.logged("no session was opened").await;
    let lines = wrapper.log().iter().filter(|line| line.contains("no session was opened")).count() as u64;
    assert!(lines <= 5 * (start.elapsed().as_secs() + 2), "{lines} lines");
    assert!(wrapper.metric("stdio_wrapper_sessions_refused_total").await >= 200, "refusals are counted");
}
