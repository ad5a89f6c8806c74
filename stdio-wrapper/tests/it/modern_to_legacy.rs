//! Tests of stateless clients in front of a server with sessions.

use std::time::Duration;

use serde_json::{Value, json};

use crate::modern::{call, listen, request, send, text, with_headers};
use crate::wrapper::{Client, EVERY_LINE, Events, Wrapper, answer_of};

async fn wrapper(options: &[&str]) -> Wrapper {
    Wrapper::start(options, &["--rich"]).await
}

fn able(capabilities: Value) -> Value {
    json!({"io.modelcontextprotocol/clientCapabilities": capabilities})
}

/// A call to the tool that asks its client a question.
fn asking(capabilities: Value, extra: Value) -> Value {
    let params = json!({"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}});
    let arguments = json!({"method": "elicitation/create", "params": params});
    let mut params = json!({"name": "ask", "arguments": arguments, "_meta": able(capabilities)});
    for (name, value) in extra.as_object().into_iter().flatten() {
        params[name] = value.clone();
    }
    request(1, "tools/call", params)
}

async fn answer(client: &Client, message: &Value) -> (u16, Value) {
    let response = send(client, message).await;
    (response.status().as_u16(), answer_of(response).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_looks_stateless_and_remembers_its_client() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    let (status, found) = answer(&client, &request(1, "server/discover", json!({}))).await;
    let result = &found["result"];
    assert_eq!((status, &result["supportedVersions"]), (200, &json!(["2026-07-28"])), "{found}");
    assert_eq!(
        (&result["resultType"], &result["ttlMs"], &result["cacheScope"]),
        (&json!("complete"), &json!(0), &json!("private"))
    );
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "test child");
    let one: Value = serde_json::from_str(&text(&client, "self", json!({})).await).unwrap();
    let two: Value = serde_json::from_str(&text(&client, "self", json!({})).await).unwrap();
    assert_eq!(one["pid"], two["pid"]);
    let (status, _) = answer(&client, &request(1, "no/such", json!({}))).await;
    assert_eq!(status, 404);
    let (status, tasks) = answer(&client, &request(1, "tasks/get", json!({"taskId": "x"}))).await;
    assert_eq!((status, &tasks["error"]["code"]), (404, &json!(-32601)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_becomes_a_round_and_the_waiting_call_goes_on() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    let can = json!({"elicitation": {}});
    let (_, asked) = answer(&client, &asking(can.clone(), json!({}))).await;
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    assert_eq!(asked["result"]["inputRequests"]["elicitation"]["method"], "elicitation/create");
    let state = asked["result"]["requestState"].as_str().unwrap().to_owned();
    // Only the exact state is accepted.
    let forged = json!({"requestState": format!("{state}x"), "inputResponses": {}});
    assert_eq!(answer(&client, &asking(can.clone(), forged)).await.1["error"]["code"], -32602);
    // If an answer is invalid, the question is asked again in a new round.
    let wrong = json!({"requestState": state, "inputResponses": {"elicitation": {"action": "perhaps"}}});
    let (_, again) = answer(&client, &asking(can.clone(), wrong)).await;
    let next = again["result"]["requestState"].as_str().unwrap().to_owned();
    assert_ne!(next, state);
    let right = json!({"action": "accept", "content": {"name": "Ana"}});
    let late = json!({"requestState": state, "inputResponses": {"elicitation": right}});
    assert_eq!(answer(&client, &asking(can.clone(), late)).await.1["error"]["code"], -32602);
    let good = json!({"requestState": next, "inputResponses": {"elicitation": right}});
    let (_, done) = answer(&client, &asking(can, good)).await;
    assert_eq!(done["result"]["resultType"], "complete", "{done}");
    assert!(done["result"]["content"][0]["text"].as_str().unwrap().contains("Ana"), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a108_a_request_state_is_its_principals_and_its_calls() {
    let wrapper = wrapper(&["--identity=headers"]).await;
    let as_user = |name: &str| wrapper.client().with_header("x-auth-subject", name);
    let can = json!({"elicitation": {}});
    let (_, asked) = answer(&as_user("ana"), &asking(can.clone(), json!({}))).await;
    let state = asked["result"]["requestState"].clone();
    let given = json!({"requestState": state, "inputResponses": {"elicitation": {"action": "decline"}}});
    assert_eq!(answer(&as_user("bob"), &asking(can.clone(), given.clone())).await.1["error"]["code"], -32602);
    let mut other = asking(can.clone(), given.clone());
    other["params"]["name"] = json!("echo");
    assert_eq!(answer(&as_user("ana"), &other).await.1["error"]["code"], -32602);
    assert_eq!(answer(&as_user("ana"), &asking(can, given)).await.1["result"]["resultType"], "complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_cannot_be_asked_is_an_error_with_the_capability() {
    let wrapper = wrapper(&[]).await;
    let (status, refused) = answer(&wrapper.client(), &asking(json!({}), json!({}))).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!(-32021)), "{refused}");
    assert_eq!(refused["error"]["data"]["requiredCapabilities"], json!({"elicitation": {}}));
    let (status, refused) = answer(&wrapper.client(), &asking(json!({"sampling": {}}), json!({}))).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!(-32021)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_client_does_not_come_back_is_given_up() {
    let wrapper = wrapper(&["--input-timeout=500ms"]).await;
    let client = wrapper.client();
    let can = json!({"elicitation": {}});
    let (_, asked) = answer(&client, &asking(can.clone(), json!({}))).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let late = json!({"requestState": asked["result"]["requestState"], "inputResponses": {"elicitation": {"action": "decline"}}});
    assert_eq!(answer(&client, &asking(can, late)).await.1["error"]["code"], -32602);
    wrapper.logged("notifications/cancelled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_and_changes_arrive_and_logs_only_when_asked_for() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    let message = request(
        "p",
        "tools/call",
        json!({"name": "progress", "arguments": {"steps": 2}, "_meta": {"progressToken": "mine"}}),
    );
    let events = Events::new(send(&client, &message).await).rest().await;
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(events[0].data["params"]["progressToken"], "mine");
    let (mut events, first) =
        listen(&client, "l", json!({"toolsListChanged": true, "promptsListChanged": true})).await;
    assert_eq!(
        first["params"]["notifications"],
        json!({"toolsListChanged": true}),
        "only the capabilities of the server"
    );
    let _ = text(&client, "changed", json!({})).await;
    let told = events.next().await.unwrap().data;
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l");
    let (_, quiet) = call(&client, "log", json!({"lines": 2})).await;
    assert_eq!(quiet["result"]["content"][0]["text"], "logged");
    let level = json!({"io.modelcontextprotocol/logLevel": "info"});
    let message = request(1, "tools/call", json!({"name": "log", "arguments": {"lines": 2}, "_meta": level}));
    let logged = Events::new(send(&client, &message).await).rest().await;
    assert_eq!(logged.len(), 3, "{logged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_response_cancels_the_translated_call() {
    let wrapper = wrapper(&["--stream-after=100ms"]).await;
    let message = request(1, "tools/call", json!({"name": "sleep", "arguments": {"seconds": 20}}));
    let response = with_headers(&wrapper.client(), &message).post(message.to_string()).await;
    drop(response);
    wrapper.logged("notifications/cancelled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a103_who_has_left_a_group_has_left_its_child() {
    let child = ["python3", crate::wrapper::CHILD];
    let wrapper = Wrapper::run(&["--identity=headers", "--env=WHERE={group}"], &child, &[]).await;
    let ana = |group: &str| {
        wrapper.client().with_header("x-auth-subject", "ana").with_header("x-auth-groups", group)
    };
    assert!(text(&ana("ops"), "self", json!({})).await.contains("\"WHERE\": \"ops\""));
    assert!(text(&ana("dev"), "self", json!({})).await.contains("\"WHERE\": \"dev\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_to_visit_becomes_a_round_for_those_who_can_and_codes_of_the_past_go_to_nobody() {
    let wrapper = wrapper(&[]).await;
    let client = wrapper.client();
    let visit = |capabilities: Value, extra: Value| {
        let arguments = json!({"url": "https://auth.example/sign-in"});
        let mut params = json!({"name": "visit", "arguments": arguments, "_meta": able(capabilities)});
        for (name, value) in extra.as_object().into_iter().flatten() {
            params[name] = value.clone();
        }
        request(1, "tools/call", params)
    };
    for lacking in [json!({}), json!({"elicitation": {}}), json!({"elicitation": {"form": {}}})] {
        // Each of these clients has its own session with the server, so each of them is refused separately.
        let (status, refused) = answer(&client, &visit(lacking, json!({}))).await;
        assert_eq!((status, &refused["error"]["code"]), (400, &json!(-32021)), "{refused}");
        assert_eq!(refused["error"]["data"]["requiredCapabilities"], json!({"elicitation": {"url": {}}}));
    }
    let can = json!({"elicitation": {"url": {}}});
    let (status, asked) = answer(&client, &visit(can.clone(), json!({}))).await;
    assert_eq!((status, &asked["result"]["resultType"]), (200, &json!("input_required")), "{asked}");
    let question = &asked["result"]["inputRequests"]["elicitation"];
    assert_eq!(question["method"], "elicitation/create", "{asked}");
    assert_eq!(question["params"]["url"], "https://auth.example/sign-in");
    let state = asked["result"]["requestState"].clone();
    let went = json!({"requestState": state, "inputResponses": {"elicitation": {"action": "accept"}}});
    let (_, done) = answer(&client, &visit(can, went)).await;
    assert_eq!(done["result"]["content"][0]["text"], "visited", "{done}");
    for code in [-32042, -32002, -32020, -32022] {
        let failed = json!({"name": "fail", "arguments": {"code": code, "message": "old"}});
        let (_, failed) = answer(&client, &request(1, "tools/call", failed)).await;
        assert_eq!(failed["error"], json!({"code": -32000, "message": "old"}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_session_that_cannot_be_opened_is_told_with_the_others_and_opens_none() {
    let wrapper = Wrapper::start(&["--identity=headers", "--start-timeout=4s"], &["--never-answers"]).await;
    let of = |who: &str| wrapper.client().with_header("x-auth-subject", who);
    let list = request(1, "tools/list", json!({}));
    // After this request, the wrapper knows that the server has sessions.
    answer(&of("ana"), &list).await;
    let before = wrapper.metric("stdio_wrapper_children_started_total").await;
    let together = (0..5).map(|_| {
        let (client, list) = (of("bob"), list.clone());
        tokio::spawn(async move { answer(&client, &list).await })
    });
    for told in together.collect::<Vec<_>>() {
        let (_, told) = told.await.unwrap();
        assert!(told["error"]["message"].as_str().unwrap().contains("did not answer within"), "{told}");
    }
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, before + 1);
    // For a while, no other child is started for bob, and his requests are refused immediately.
    let (refused, why) = answer(&of("bob"), &list).await;
    assert_eq!(refused, 503, "{why}");
    assert!(why["error"]["message"].as_str().unwrap().contains("did not answer initialize within"), "{why}");
    // For a different client, a failed start is retried.
    answer(&of("carol"), &list).await;
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_while_its_session_is_opened_leaves_none_behind() {
    // The session must end long before START_TIMEOUT, which is 45 s.
    let wrapper = Wrapper::start(&[], &["--never-answers"]).await;
    let (client, list) = (wrapper.client(), request(1, "tools/list", json!({})));
    let given_up = tokio::time::timeout(Duration::from_secs(3), send(&client, &list)).await;
    assert!(given_up.is_err(), "the server does not answer");
    assert_eq!(wrapper.metric("stdio_wrapper_sessions_opened_total").await, 1);
    wrapper.metric_becomes("stdio_wrapper_sessions", 0).await;
    wrapper.metric_becomes("stdio_wrapper_children", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_not_held_up_by_a_server_that_does_not_answer_when_it_is_told_the_level() {
    let wrapper = Wrapper::start(&[], &["--rich", "--never-sets-levels"]).await;
    let level = json!({"io.modelcontextprotocol/logLevel": "info"});
    let message = request(1, "tools/call", json!({"name": "log", "arguments": {"lines": 2}, "_meta": level}));
    let client = wrapper.client();
    // The call must not wait for REQUEST_TIMEOUT, which is five minutes.
    let called = tokio::time::timeout(Duration::from_secs(30), send(&client, &message)).await;
    let logged = Events::new(called.expect("the call must be sent regardless")).rest().await;
    assert_eq!(logged.len(), 3, "{logged:?}");
    // Afterwards, the wrapper no longer keeps state for the call.
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_the_server_does_not_begin_to_watch_holds_up_no_other_listener_and_ends_in_an_error()
{
    let wrapper = Wrapper::start(&[EVERY_LINE], &["--tells-methods"]).await;
    let client = wrapper.client();
    let soon = |wait| tokio::time::timeout(Duration::from_secs(30), wait);
    let silent = listen(&client, "a", json!({"resourceSubscriptions": ["silent://x"]}));
    // The subscription must not wait for REQUEST_TIMEOUT, which is five minutes.
    let (mut silent, promised) = soon(Box::pin(silent)).await.expect("the stream must begin immediately");
    assert_eq!(promised["params"]["notifications"], json!({"resourceSubscriptions": ["silent://x"]}));
    let other = listen(&client, "b", json!({"resourceSubscriptions": ["test://b", "test://c"]}));
    let _other = soon(Box::pin(other)).await.expect("the second subscription must not wait for the first");
    for _ in 0..400 {
        let log = wrapper.log();
        if log.iter().filter(|line| line.contains("asked resources/subscribe")).count() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let asked = wrapper.log().into_iter().filter(|line| line.contains("asked resources/subscribe"));
    assert_eq!(asked.count(), 3);
    let told = tokio::time::timeout(Duration::from_secs(30), silent.next()).await.expect("no notification");
    let told = told.unwrap().data;
    assert_eq!(told["id"], "a", "{told}");
    let words = told["error"]["message"].as_str().unwrap();
    assert!(words.contains("resources/subscribe") && words.contains("silent://x"), "{told}");
    assert_eq!(silent.next().await, None);
    // Afterwards, the wrapper no longer keeps state for the subscription.
    wrapper.logged("asked resources/unsubscribe").await;
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_the_server_refuses_to_watch_ends_the_stream_in_an_error_that_names_it() {
    let wrapper = Wrapper::start(&[], &["--tells-methods"]).await;
    let wanted = json!({"resourceSubscriptions": ["refused://x", "test://b"]});
    let (mut events, promised) = listen(&wrapper.client(), "a", wanted).await;
    assert_eq!(promised["method"], "notifications/subscriptions/acknowledged");
    let told = tokio::time::timeout(Duration::from_secs(30), events.next()).await.expect("no notification");
    let told = told.unwrap().data;
    assert_eq!(told["id"], "a", "{told}");
    let words = told["error"]["message"].as_str().unwrap();
    assert!(words.contains("refused resources/subscribe") && words.contains("refused://x"), "{told}");
    assert_eq!(events.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_the_subscriptions_of_a_user_are_limited_with_all_clients() {
    let wrapper = wrapper(&["--identity=headers"]).await;
    let as_client = |user: &str, client: String| {
        wrapper.client().with_header("x-auth-subject", user).with_header("x-auth-client-id", &client)
    };
    let wanted = json!({"toolsListChanged": true});
    let mut open = Vec::new();
    for number in 0..32 {
        let client = as_client("mallory", format!("client {}", number % 2));
        open.push(listen(&client, number, wanted.clone()).await);
    }
    let refused = as_client("mallory", "client 1".to_owned());
    let further = request("x", "subscriptions/listen", json!({"notifications": wanted}));
    let response = send(&refused, &further).await;
    assert_eq!(response.headers()["retry-after"], "5");
    let (status, told) = (response.status().as_u16(), answer_of(response).await);
    assert_eq!((status, &told["error"]["code"], &told["id"]), (429, &json!(-32000), &json!("x")), "{told}");
    assert!(told["error"]["message"].as_str().unwrap().contains("32 subscriptions"), "{told}");
    let _bob = listen(&as_client("bob", "client 1".to_owned()), "b", wanted.clone()).await;
    open.pop();
    // The wrapper must first see that the client has disconnected.
    for _ in 0..400 {
        if send(&refused, &further).await.status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the slot of a subscription that was closed must be free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_the_watched_resources_of_a_user_are_limited_over_all_subscriptions() {
    let wrapper = Wrapper::start(&[EVERY_LINE, "--identity=headers"], &["--tells-methods"]).await;
    let client = wrapper.client().with_header("x-auth-subject", "mallory");
    let some = |first: usize, count: usize| -> Value {
        let uris: Vec<String> = (first..first + count).map(|number| format!("test://{number}")).collect();
        json!({"resourceSubscriptions": uris})
    };
    let _open = [listen(&client, 1, some(0, 256)).await, listen(&client, 2, some(1000, 255)).await];
    let further = request("x", "subscriptions/listen", json!({"notifications": some(2000, 2)}));
    let (status, told) = answer(&client, &further).await;
    assert_eq!((status, &told["error"]["code"]), (429, &json!(-32000)), "{told}");
    assert!(told["error"]["message"].as_str().unwrap().contains("512 resources"), "{told}");
    // One subscription has a limit of its own, and repeated entries count.
    let repeated = json!({"resourceSubscriptions": vec!["test://0"; 257]});
    for too_many in [some(0, 257), repeated] {
        let further = request("x", "subscriptions/listen", json!({"notifications": too_many}));
        let (status, told) = answer(&client, &further).await;
        assert_eq!(status, 400, "{told}");
        assert!(told["error"]["message"].as_str().unwrap().contains("At most 256 resources"), "{told}");
    }
    let _last = listen(&client, 3, some(2000, 1)).await;
    let _bob = listen(&wrapper.client().with_header("x-auth-subject", "bob"), 1, some(0, 256)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_the_server_is_asked_once_for_a_resource_that_several_subscriptions_watch() {
    let wrapper = Wrapper::start(&[EVERY_LINE], &["--tells-methods"]).await;
    let client = wrapper.client();
    let asked = |method: &str| {
        wrapper.log().into_iter().filter(|line| line.contains(&format!("asked resources/{method}"))).count()
    };
    let becomes = async |method: &str, count: usize| {
        for _ in 0..400 {
            if asked(method) == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{method} was sent {} times, not {count} times", asked(method));
    };
    // The resources of a subscription are requested one after the other, so the server has confirmed the first.
    let first = listen(&client, 1, json!({"resourceSubscriptions": ["test://a", "test://z"]})).await;
    becomes("subscribe", 2).await;
    let second = listen(&client, 2, json!({"resourceSubscriptions": ["test://a", "test://b"]})).await;
    becomes("subscribe", 3).await;
    drop(first);
    becomes("unsubscribe", 1).await;
    drop(second);
    becomes("unsubscribe", 3).await;
    assert_eq!(asked("subscribe"), 3);
}
