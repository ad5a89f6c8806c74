//! Tests that check which client gets which message from a child that serves many stateless clients at the same time.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::modern::{CHILD, call, listen, request, send, text, wrapper};
use crate::wrapper::{Events, Wrapper, answer_of};

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

#[tokio::test(flavor = "multi_thread")]
async fn rules_14_and_15_ids_and_tokens_are_ours_on_the_way_in_and_theirs_on_the_way_out() {
    let wrapper = wrapper(&[]).await;
    for id in [json!(1), json!("1"), json!("x")] {
        let seen = request(
            id.clone(),
            "tools/call",
            json!({"name": "seen", "arguments": {}, "_meta": {"progressToken": "mine"}}),
        );
        let answer = answer_of(send(&wrapper.client(), &seen).await).await;
        assert_eq!(answer["id"], id);
        let inside: Value =
            serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
        assert!(
            inside["id"].is_u64() && inside["params"]["_meta"]["progressToken"] == inside["id"],
            "{inside}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a105_two_thousand_clients_with_equal_ids_get_only_their_own() {
    let wrapper = wrapper(&["--max-in-flight=5000"]).await;
    let client = wrapper.client();
    // The first call makes the wrapper find out which era the server supports.
    let _ = text(&client, "pid", json!({})).await;
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..2000 {
        let client = client.clone();
        tasks.spawn(async move {
            let mark = format!("client {number}");
            if number % 2 == 1 {
                // Half of the clients listen, all under the same subscription id, each for its own resource.
                let uri = format!("test://{number}");
                let (mut events, _) = listen(&client, "same", json!({"resourceSubscriptions": [uri]})).await;
                let _ = call(&client, "updated", json!({"uri": uri})).await;
                let told = events.next().await.unwrap().data;
                assert_eq!(told["params"]["uri"], json!(uri));
                assert_eq!(told["params"]["_meta"][SUBSCRIPTION], "same");
                return;
            }
            let arguments = json!({"mark": mark, "steps": 2});
            let message = request(
                1,
                "tools/call",
                json!({"name": "progress", "arguments": arguments, "_meta": {"progressToken": "same"}}),
            );
            let events = Events::new(send(&client, &message).await).rest().await;
            assert_eq!(events.len(), 3, "{events:?}");
            for event in &events[..2] {
                assert_eq!(event.data["params"]["progressToken"], "same");
                assert_eq!(event.data["params"]["message"], json!(mark));
            }
            assert_eq!(events[2].data["id"], 1);
            assert_eq!(events[2].data["result"]["content"][0]["text"], json!(mark));
        });
    }
    let mut done = 0;
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
        done += 1;
    }
    assert_eq!(done, 2000);
    assert_eq!(wrapper.metric("stdio_wrapper_children").await, 1);
    let (requests, dropped) = (
        wrapper.metric("stdio_wrapper_requests_total").await,
        wrapper.metric("stdio_wrapper_child_messages_dropped_total").await,
    );
    assert_eq!(dropped, 0, "every message of the child must belong to a client");
    println!("2000 clients, one child, {requests} requests, {:.1?}: all messages correct", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_17_a_subscription_is_acknowledged_first_and_everything_on_it_has_its_name() {
    let wrapper = wrapper(&["--keep-alive=100ms"]).await;
    let client = wrapper.client();
    let response = send(
        &client,
        &request("l", "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}})),
    )
    .await;
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut one = Events::new(response);
    assert_eq!(one.next().await.unwrap().data["params"]["_meta"][SUBSCRIPTION], "l");
    let (mut two, first) = listen(&client, 7, json!({"toolsListChanged": true})).await;
    assert_eq!(first["params"]["_meta"][SUBSCRIPTION], 7);
    let _ = text(&client, "changed", json!({})).await;
    for (events, id) in [(&mut one, json!("l")), (&mut two, json!(7))] {
        let told = events.next().await.unwrap().data;
        assert_eq!(told["method"], "notifications/tools/list_changed");
        assert_eq!(told["params"]["_meta"][SUBSCRIPTION], id);
    }
    // On stdio, the server ends a subscription with a cancellation, which here means that it is complete.
    let _ = text(&client, "end_listens", json!({})).await;
    for (events, id) in [(one, json!("l")), (two, json!(7))] {
        let rest = events.rest().await;
        assert_eq!(rest.len(), 1, "{rest:?}");
        let last = &rest[0].data;
        assert_eq!((&last["id"], &last["result"]["resultType"]), (&id, &json!("complete")));
        assert_eq!(last["result"]["_meta"][SUBSCRIPTION], id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_18_the_end_of_a_response_cancels_its_request_before_and_after_the_first_message() {
    let wrapper = wrapper(&["--stream-after=30s"]).await;
    let client = wrapper.client();
    let _ = text(&client, "pid", json!({})).await;
    // Before the first message, the response has no headers yet.
    let waiting = client.clone();
    let task = tokio::spawn(async move { call(&waiting, "sleep", json!({"seconds": 30})).await });
    tokio::time::sleep(Duration::from_millis(400)).await;
    task.abort();
    cancelled(&client, 1).await;
    // On a stream, the response has already begun.
    let (events, _) = listen(&client, 1, json!({"toolsListChanged": true})).await;
    drop(events);
    cancelled(&client, 2).await;
    wrapper.metric_becomes("stdio_wrapper_requests_cancelled_total", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_told_to_the_client_and_to_the_operator() {
    let wrapper = wrapper(&["--request-timeout=2s"]).await;
    let (_, answer) = call(&wrapper.client(), "sleep", json!({"seconds": 30})).await;
    let why = "did not answer within 2 s. If it needs more time, its operator can raise REQUEST_TIMEOUT.";
    assert!(answer["error"]["message"].as_str().unwrap().contains(why), "{answer}");
    let line = wrapper.logged("did not answer a request in time").await;
    for part in ["WARN", "child", "tools/call", "sleep", "waited_seconds", "raise REQUEST_TIMEOUT"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

async fn cancelled(client: &crate::wrapper::Client, count: usize) {
    let mut last = String::new();
    for _ in 0..100 {
        last = text(client, "cancelled", json!({})).await;
        let all: Vec<u64> = serde_json::from_str(&last).unwrap();
        if all.len() == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("cancelled: {last} instead of {count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_20_to_22_what_names_nobody_is_for_nobody() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    let (mut events, _) = listen(&client, 1, json!({"toolsListChanged": true})).await;
    assert_eq!(text(&client, "untagged", json!({})).await, "untagged");
    assert_eq!(text(&client, "demand", json!({})).await, "demanded");
    let told = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
    assert!(told.is_err(), "{told:?}");
    // A log message is sent only to the request that asked for log messages. Without such a request, it is
    // dropped.
    let (_, quiet) = call(&client, "log", json!({"mark": "a"})).await;
    assert_eq!(quiet["result"]["content"][0]["text"], "logged");
    let level = json!({"io.modelcontextprotocol/logLevel": "info"});
    let message =
        request(1, "tools/call", json!({"name": "log", "arguments": {"mark": "b"}, "_meta": level}));
    let logged = Events::new(send(&client, &message).await).rest().await;
    assert_eq!((logged.len(), &logged[0].data["params"]["data"]), (2, &json!("b")), "{logged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_a_call_whose_log_messages_nobody_wants_does_not_stop_the_server_of_all() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    let begun = Instant::now();
    assert_eq!(text(&client, "log", json!({"lines": 500})).await, "logged");
    // On a busy machine, even these 500 lines take long.
    let patience = Duration::from_secs(4) + begun.elapsed() * 25;
    let begun = Instant::now();
    assert_eq!(text(&client, "log", json!({"lines": 10_000})).await, "logged");
    assert!(begun.elapsed() < patience, "{:?} instead of {patience:?}", begun.elapsed());
    assert_eq!(wrapper.metric("stdio_wrapper_child_messages_dropped_total").await, 10_500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a105_log_messages_go_to_nobody_while_two_callers_want_them() {
    let wrapper = wrapper(&["--identity=headers"]).await;
    let as_user = |name: &str| wrapper.client().with_header("x-auth-subject", name);
    let level = json!({"io.modelcontextprotocol/logLevel": "info"});
    let wants = |mark: &str, seconds: f64| {
        request(
            1,
            "tools/call",
            json!({"name": "log", "arguments": {"mark": mark, "seconds": seconds}, "_meta": level}),
        )
    };
    let _ = text(&as_user("ana"), "pid", json!({})).await;
    let ana = as_user("ana");
    let running = request(1, "tools/call", json!({"name": "sleep", "arguments": {"seconds": 1.5}}));
    let slow = tokio::spawn(async move { send(&ana, &running).await.status() });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let bob = send(&as_user("bob"), &wants("secret", 0.1)).await;
    assert_eq!(
        bob.headers()["content-type"],
        "application/json",
        "ana's call runs as well, so the message cannot be attributed"
    );
    assert_eq!(slow.await.unwrap(), 200);
    let bob = send(&as_user("bob"), &wants("mine", 0.0)).await;
    assert_eq!(bob.headers()["content-type"], "text/event-stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a105_an_error_without_an_id_of_a_child_with_many_callers_is_nobodys() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    assert!(!text(&client, "pid", json!({})).await.is_empty());
    assert_eq!(text(&client, "nameless", json!({"mark": "what somebody else has sent"})).await, "said");
    wrapper.logged("an error of the child without an id was dropped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_23_rounds_pass_as_they_are() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    let (_, first) = call(&client, "ask", json!({})).await;
    assert_eq!(
        (&first["result"]["requestState"], &first["result"]["future"]),
        (&json!("opaque"), &json!(1.0))
    );
    let again = json!({"name": "ask", "arguments": {}, "requestState": "opaque", "inputResponses": {"who": {"action": "accept", "content": {}}}});
    let answer = answer_of(send(&client, &request(2, "tools/call", again)).await).await;
    assert!(
        answer["result"]["content"][0]["text"].as_str().unwrap().contains("\"state\": \"opaque\""),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_crash_of_the_shared_child_is_told_at_once_and_the_next_call_has_another() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    let before = text(&client, "pid", json!({})).await;
    let (events, _) = listen(&client, "l", json!({"toolsListChanged": true})).await;
    let (waiting, crashing) = (client.clone(), client.clone());
    let waiting = tokio::spawn(async move { call(&waiting, "sleep", json!({"seconds": 30})).await.1 });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    let (_, crashed) = call(&crashing, "crash", json!({})).await;
    assert_eq!(crashed["error"]["code"], -32603);
    assert_eq!(waiting.await.unwrap()["error"]["code"], -32603);
    let rest = events.rest().await;
    assert_eq!(rest[0].data["result"]["resultType"], "complete", "{rest:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_ne!(text(&client, "pid", json!({})).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_completes_subscriptions_and_lets_calls_finish() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    let (events, _) = listen(&client, 1, json!({"toolsListChanged": true})).await;
    let slow = client.clone();
    let slow = tokio::spawn(async move { call(&slow, "sleep", json!({"seconds": 1})).await.1 });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (code, _) = wrapper.terminate().await;
    assert_eq!(code, Some(0));
    assert_eq!(events.rest().await[0].data["result"]["resultType"], "complete");
    assert_eq!(slow.await.unwrap()["result"]["content"][0]["text"], "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a103_a_command_that_names_the_caller_has_a_child_for_each_caller() {
    let options = ["--identity=headers", "--env=WHO={user}"];
    let wrapper = wrapper(&options).await;
    let as_user = |name: &str| {
        wrapper.client().with_header("x-auth-subject", name).with_header("x-auth-username", name)
    };
    let (ana, bob) =
        (text(&as_user("ana"), "pid", json!({})).await, text(&as_user("bob"), "pid", json!({})).await);
    assert_ne!(ana, bob);
    assert_eq!(text(&as_user("ana"), "pid", json!({})).await, ana);
    assert!(text(&as_user("bob"), "seen", json!({})).await.contains("\"WHO\": \"bob\""));
}

/// A wrapper whose command runs one server for mallory and another one for all other users.
async fn wrapper_with_two_servers(of_mallory: &str, of_others: &str) -> Wrapper {
    let code = format!(
        "import runpy, sys\nrunpy.run_path({of_mallory:?} if sys.argv.pop(1) == 'mallory' else {of_others:?}, run_name='__main__')"
    );
    Wrapper::run(&["--identity=headers"], &["python3", "-c", &code, "{subject}"], &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_nobody_decides_for_others_which_revisions_their_server_speaks() {
    let with_sessions = crate::wrapper::CHILD;
    for (of_mallory, of_others) in
        [(CHILD, with_sessions), (with_sessions, CHILD), ("/does/not/exist", CHILD)]
    {
        let wrapper = wrapper_with_two_servers(of_mallory, of_others).await;
        let caller = |name: &str| wrapper.client().with_header("x-auth-subject", name);
        let mallory = call(&caller("mallory"), "echo", json!({})).await;
        let (status, answer) = call(&caller("bob"), "echo", json!({})).await;
        assert!(status == 200 && answer["result"].is_object(), "{of_mallory} {mallory:?}: {answer}");
        // The same applies to a client with a session, whose messages are translated for a stateless server.
        let carol = caller("carol").initialize("2025-11-25").await;
        assert_eq!(carol.text("echo", json!({"a": 1})).await, r#"{"a": 1}"#, "{of_mallory}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_too_slow_to_say_what_it_is_is_soon_asked_again() {
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    let script = format!(
        "if [ -e {0} ]; then exec python3 {CHILD}; else touch {0}; exec sleep 100; fi",
        started.display()
    );
    let wrapper = Wrapper::run(&["--start-timeout=3s"], &["sh", "-c", &script], &[]).await;
    let client = wrapper.client();
    let begun = Instant::now();
    while call(&client, "echo", json!({})).await.0 != 200 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the server is treated as one with sessions");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Each process of the server is silent for 11 seconds, which is longer than a client waits for the probe.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_slowly_costs_one_client_the_probe_and_is_not_asked_again() {
    let script = format!("sleep 11; exec python3 {}", crate::wrapper::CHILD);
    let wrapper = Wrapper::run(&[], &["sh", "-c", &script], &[]).await;
    let client = wrapper.client();
    assert_eq!(call(&client, "echo", json!({})).await.0, 200);
    wrapper.logged("it is not known which revisions the MCP server supports").await;
    // The response from the first child was used, although no client was still waiting for it.
    let concluded = wrapper.logged("the MCP server was probed for the revisions that it supports").await;
    assert!(concluded.contains(r#""has_answered":true"#), "{concluded}");
    let started = wrapper.metric("stdio_wrapper_children_started_total").await;
    // If the child had only been silent, the wrapper would have probed it again by now.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(call(&client, "echo", json!({})).await.0, 200);
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, started);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_while_the_server_is_asked_what_it_is_leaves_no_child_behind() {
    let wrapper = Wrapper::run(&["--start-timeout=3s"], &["sleep", "1000"], &[]).await;
    let (client, list) = (wrapper.client(), request(1, "tools/list", json!({})));
    for _ in 0..2 {
        let given_up = tokio::time::timeout(Duration::from_secs(1), send(&client, &list)).await;
        assert!(given_up.is_err(), "the server does not answer");
    }
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, 1, "one child for both");
    wrapper.metric_becomes("stdio_wrapper_children", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_one_share_of_requests_whatever_clients_they_use() {
    let wrapper = wrapper(&["--identity=headers", "--max-in-flight=2"]).await;
    let of = |user: &str, client: &str| {
        wrapper.client().with_header("x-auth-subject", user).with_header("x-auth-client-id", client)
    };
    let _ = text(&of("bob", "x"), "pid", json!({})).await;
    let mut streams = Vec::new();
    for client in ["c1", "c2"] {
        streams.push(listen(&of("ana", client), "s", json!({"toolsListChanged": true})).await);
    }
    let third = request(1, "tools/call", json!({"name": "pid", "arguments": {}}));
    assert_eq!(send(&of("ana", "c3"), &third).await.status(), 429);
    assert_eq!(send(&of("bob", "c3"), &third).await.status(), 200);
}
