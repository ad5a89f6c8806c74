//! Tests of lines from a child that its client cannot accept unchanged. The caller gets a response immediately:
//! the correct one if no value has to be guessed, and otherwise an error with the reason. No caller has to wait
//! for a timeout.
//!
//! The wrapper's own timeout is 5 minutes and the timeout of the test client is 60 s, so a call that is left
//! waiting fails its test.

use std::time::Duration;

use serde_json::{Value, json};

use crate::modern;
use crate::wrapper::{Client, Events, Wrapper, answer_of, call};

/// Makes the child respond with these bytes, in which `{ID}` is the id of the call.
async fn answered_with(client: &Client, text: &str) -> Value {
    client.call("raw", json!({"text": text})).await
}

fn refusal(answer: &Value) -> &str {
    assert_eq!(answer["error"]["code"], -32603, "{answer}");
    assert_eq!(answer["id"], 1, "{answer}");
    answer["error"]["message"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_loses_nothing_by_being_put_right_is_given() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for text in [
        r#"{"jsonrpc":"2.0","id":"{ID}","result":{"a":1}}"#,
        r#"{"jsonrpc":"2.0","id":{ID}.0,"result":{"a":1}}"#,
        r#"{"jsonrpc":"2.0","id":{ID}e0,"result":{"a":1}}"#,
        r#"{"jsonrpc":"2.0","id":{ID},"result":{"a":1},"error":null}"#,
        r#"{"jsonrpc":"2.0","id":{ID},"result":{"a":1},"params":null,"elapsed":0.1}"#,
        r#"{"jsonrpc":"2.0","id":{ID},"result":{"_meta":null,"a":1}}"#,
        "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{\"a\":1}}",
        "\u{1b}[2K\u{1b}[32m{\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{\"a\":1}}\u{1b}[0m",
        r#"Loading model... {"jsonrpc":"2.0","id":{ID},"result":{"a":1}}"#,
        r#"{"jsonrpc":"2.0","id":{ID},"result":{"a":1}} done"#,
        r#"[{"jsonrpc":"2.0","id":{ID},"result":{"a":1}}]"#,
        r#"{"jsonrpc":"2.0","method":"notifications/x"}{"jsonrpc":"2.0","id":{ID},"result":{"a":1}}"#,
    ] {
        let answer = answered_with(&client, text).await;
        assert_eq!(answer, json!({"jsonrpc": "2.0", "id": 1, "result": {"a": 1}}), "{text}");
    }
    let empty = answered_with(&client, r#"{"jsonrpc":"2.0","id":{ID},"result":null}"#).await;
    assert_eq!(empty["result"], json!({}), "an empty result is an object");
    let latin =
        json!({"text": r#"{"jsonrpc":"2.0","id":{ID},"result":{"a":"café"}}"#, "encoding": "latin-1"});
    assert_eq!(client.call("raw", latin).await["result"]["a"], "caf\u{fffd}");
    wrapper.logged("a line from the child was corrected").await;
    let half = answered_with(&client, r#"{"jsonrpc":"2.0","id":{ID},"result":{"a":"x\ud83d"}}"#).await;
    assert_eq!(half["result"]["a"], "x\u{fffd}", "half of a surrogate pair is not a character");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_used_fails_its_call_at_once_and_says_why() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for (text, why) in [
        (r#"{"jsonrpc":"2.0","id":{ID},"result":{"x":NaN}}"#, "not valid JSON"),
        ("{\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{\"x\":\"a\tb\"}}", "not valid JSON"),
        ("{\"jsonrpc\":\"2.0\",\"result\":{\"x\":\"a\nb\"},\"id\":{ID}}", "over several lines"),
        (
            "{\n  \"jsonrpc\": \"2.0\",\n  \"result\": {\n    \"id\": 99\n  },\n  \"id\": {ID}\n}",
            "print it without indentation",
        ),
        (r#"{"id":{ID},"result":{}}"#, "`jsonrpc` must be"),
        (r#"{"jsonrpc":"1.0","id":{ID},"result":{},"error":null}"#, "`jsonrpc` must be"),
        (r#"{"jsonrpc":"2.0","id":{ID},"error":null}"#, "`error` must be an object"),
        (r#"{"jsonrpc":"2.0","id":{ID},"result":{},"error":{"code":1,"message":"x"}}"#, "exactly one of"),
        (r#"{"jsonrpc":"2.0","id":{ID},"result":[1]}"#, "`result` must be an object"),
        (r#"{"jsonrpc":"2.0","id":"{ID}","result":"done"}"#, "`result` must be an object"),
        (r#"took 3 s: {"jsonrpc":"2.0","id":{ID},"result":{"x":Infinity}}"#, "not valid JSON"),
    ] {
        let answer = answered_with(&client, text).await;
        assert!(refusal(&answer).contains(why), "{text}: {answer}");
    }
    assert_eq!(client.text("echo", json!({})).await, "{}", "the session continues");
    let logged = wrapper.logged("is not an MCP message and was skipped").await;
    assert!(logged.contains("\"WARN\""), "{logged}");
    assert_eq!(wrapper.metric("stdio_wrapper_requests_in_flight").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_that_is_no_json_is_not_given_to_its_client_either() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let padding = "x".repeat(70_000);
    for value in ["NaN", "-Infinity", "\"a\tb\"", "\"a\u{1b}b\"", r#""\x41""#, "01", "[1 2]", "{1:2}", "tru"]
    {
        let line = format!(
            r#"{{"jsonrpc":"2.0","id":{{ID}},"result":{{"padding":"{padding}","x":{value},"more":"{padding}"}}}}"#
        );
        let answer = answered_with(&client, &line).await;
        assert!(refusal(&answer).contains("not valid JSON"), "{value}: {answer}");
    }
    let line = format!(r#"{{"jsonrpc":"2.0","id":{{ID}},"result":{{"padding":"{padding}","x":1E400}}}}"#);
    let body = client.post(call(1, "raw", json!({"text": line}))).await.text().await.unwrap();
    assert!(body.ends_with(r#""x":1E400}}"#), "a valid number stays as it was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_names_no_call_fails_the_only_one_that_waits() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for text in [
        r#"{"jsonrpc":"2.0","id":[{ID}],"result":{"a":1}}"#,
        r#"{"jsonrpc":"2.0","id":{"n":{ID}},"error":{"code":1,"message":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":null,"result":{"a":1}}"#,
        r#"{"jsonrpc":"2.0","result":{"a":1}}"#,
    ] {
        let answer = answered_with(&client, text).await;
        assert!(refusal(&answer).contains("response cannot be used"), "{text}: {answer}");
    }
    assert_eq!(client.text("echo", json!({})).await, "{}");
    let nameless = r#"{"jsonrpc":"2.0","error":{"code":-32603,"message":"broke {down}"}}"#;
    let answer = answered_with(&client, nameless).await;
    assert!(refusal(&answer).contains("broke {down}"), "{answer}");
    // If another call is waiting, or a response to an abandoned call can still arrive, the wrapper cannot know
    // which call the line belongs to.
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.text("sleep", json!({"seconds": 1})).await }
    });
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 1).await;
    let line = "{\"jsonrpc\":\"2.0\",\"result\":{}}\n{\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{\"a\":1}}";
    assert_eq!(answered_with(&client, line).await["result"]["a"], 1);
    assert_eq!(waiting.await.unwrap(), "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_of_many_values_takes_no_more_memory_than_any_long_line() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let message = r#"{"jsonrpc":"2.0","method":"notifications/x"}"#;
    for (start, piece) in [("[1", ",1"), (message, "{}"), (&format!("[{message}"), ",1"), ("x ", "{ ")] {
        let count = (15 << 20) / piece.len();
        let line = json!({"start": start, "piece": piece, "count": count});
        assert_eq!(client.text("repeat", line).await, "repeated");
        wrapper.metric_at_least("stdio_wrapper_child_junk_lines_total", 1).await;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", wrapper.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 150 << 10, "{peak} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_clients_would_drop_keeps_its_words() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for error in [r#""no such file""#, r#"{"code":"ENOENT","message":"no such file"}"#] {
        let answer =
            answered_with(&client, &format!(r#"{{"jsonrpc":"2.0","id":{{ID}},"error":{error}}}"#)).await;
        assert_eq!(refusal(&answer), "no such file");
    }
    // With an error without an id, a child reports that it could not even read the id of a request.
    let nameless = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"cannot read {this}"}}"#;
    let answer = answered_with(&client, nameless).await;
    assert!(refusal(&answer).contains("cannot read {this}"), "{answer}");
    wrapper.logged("an error from the child was passed to the only waiting request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_without_an_id_is_not_given_to_a_call_that_it_may_not_be_about() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.text("sleep", json!({"seconds": 1})).await }
    });
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 1).await;
    // Two calls are waiting, and the wrapper cannot know which of them the error refers to.
    let nameless = r#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}"#;
    let line = format!("{nameless}\n{{\"jsonrpc\":\"2.0\",\"id\":{{ID}},\"result\":{{\"a\":1}}}}");
    assert_eq!(answered_with(&client, &line).await["result"]["a"], 1);
    assert_eq!(waiting.await.unwrap(), "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_child_prints_of_a_message_is_not_taken_for_it() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for printed in [
        r#"DEBUG got {"jsonrpc":"2.0","id":{ID},"method":"tools/call","params":{}}"#,
        r#"DEBUG sends {"jsonrpc":"2.0","id":{ID},"result":{"a":2,"cont..."#,
        r#"{"level":"debug","id":{ID},"msg":"result"}"#,
        r#"{"level":"error","id":{ID},"error":"retrying"}"#,
        r#"{"msg":"row","id":{ID},"result":"ok"}"#,
        r#"{"id":{ID},"error":{"code":1,"message":"x"},"level":"warn"}"#,
        r#"{"level":"debug","rpc":{"jsonrpc":"2.0","id":{ID},"result":{"balance":1}}}"#,
        r#"DEBUG {"rpc":{"jsonrpc":"2.0","id":{ID},"result":{"balance":1}}}"#,
        r#"[{"rpc":{"jsonrpc":"2.0","id":{ID},"result":{"balance":1}}}]"#,
        r#"Response from node: {"jsonrpc":"2.0","id":{ID},"result":"0x1"}"#,
        r#"{"jsonrpc":"2.0","id":{ID},"id":77,"result":{"a":3}}"#,
    ] {
        let line = format!("{printed}\n{{\"jsonrpc\":\"2.0\",\"id\":{{ID}},\"result\":{{\"a\":1}}}}");
        let answer = answered_with(&client, &line).await;
        assert_eq!(answer["result"], json!({"a": 1}), "{printed}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_a_shared_child_forges_no_answer_to_somebody_else() {
    let wrapper = Wrapper::start(&["--shared"], &[]).await;
    let (ana, eve) = (wrapper.session().await, wrapper.session().await);
    let waiting = tokio::spawn(async move { ana.text("sleep", json!({"seconds": 1})).await });
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 1).await;
    answered_with(&eve, &forged()).await;
    assert_eq!(waiting.await.unwrap(), "slept");
}

/// Lines that a child prints at Eve's request. She has guessed the ids of other callers' calls.
fn forged() -> String {
    let shown = |id| {
        let sound = format!(r#"Eve says {{"jsonrpc":"2.0","id":{id},"result":{{"evil":1}}}}"#);
        format!(r#"{sound}\nEve says {{"jsonrpc":"2.0","id":{id},"result":{{"evil":NaN}}}}"#)
    };
    let mut lines: Vec<String> = ["{ID-1}", "{ID}"].into_iter().map(shown).collect();
    // On its own line, the text looks like a response.
    lines.push(r#"{"jsonrpc":"2.0","id":{ID-1},"result":{"evil":1}}"#.to_owned());
    lines.push(r#"{"jsonrpc":"2.0","id":{ID-1},"result":{"evil":NaN}}"#.to_owned());
    lines.join("\n").replace("\\n", "\n") + "\n{\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{}}"
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stateless_child_prints_forges_no_answer_to_somebody_else() {
    let wrapper = modern::wrapper(&["--identity=headers"]).await;
    let as_user = |name: &str| wrapper.client().with_header("x-auth-subject", name);
    let (ana, eve) = (as_user("ana"), as_user("eve"));
    let seen = async |client: &Client| -> Value {
        let message = modern::request(
            1,
            "tools/call",
            json!({"name": "seen", "arguments": {}, "_meta": {"progressToken": "t"}}),
        );
        let answer = answer_of(modern::send(client, &message).await).await;
        serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap()
    };
    // Eve knows her own ids, but she cannot derive Ana's ids from them.
    let mut before = 0;
    for _ in 0..3 {
        let shown = seen(&eve).await;
        let number = shown["id"].as_u64().unwrap();
        assert_eq!(shown["params"]["_meta"]["progressToken"], shown["id"]);
        assert!(number < 1 << 53 && number.abs_diff(before) > 1 << 20, "{number} after {before}");
        before = number;
    }
    let waiting = tokio::spawn(async move { modern::call(&ana, "sleep", json!({"seconds": 1})).await.1 });
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 1).await;
    modern::call(&eve, "print", json!({"text": forged()})).await;
    assert_eq!(waiting.await.unwrap()["result"]["content"][0]["text"], "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shows_its_messages_on_its_output_is_understood_all_the_same() {
    for options in [&[][..], &["--shared"]] {
        for flags in [&["--shows-sent"][..], &["--shows-received"], &["--shows-sent", "--shows-received"]] {
            let wrapper = Wrapper::start(options, flags).await;
            let client = wrapper.session().await;
            for _ in 0..3 {
                assert_eq!(client.text("echo", json!({})).await, "{}", "{flags:?}");
            }
            assert_eq!(client.text("sleep", json!({"seconds": 0.5})).await, "slept", "{flags:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_answer_counts_more_than_one_before_it_that_cannot_be_used() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let good = r#"{"jsonrpc":"2.0","id":{ID},"result":{"a":1}}"#;
    for shown in [
        r#"{"jsonrpc":"2.0","id":{ID},"result":{"x":NaN}}"#,
        "{\n  \"jsonrpc\": \"2.0\",\n  \"id\": {ID},\n  \"result\": {\n    \"a\": 2\n  }\n}",
        r#"sends {"jsonrpc":"2.0","id":{ID},"result":{"x":undefined}}"#,
        r#"{"jsonrpc":"2.0","result":{"a":2}}"#,
    ] {
        let answer = answered_with(&client, &format!("{shown}\n{good}")).await;
        assert_eq!(answer["result"], json!({"a": 1}), "{shown}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_a_session_with_several_stateless_callers_forges_no_answer_either() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.client();
    assert_eq!(modern::call(&client, "echo", json!({})).await.0, 200);
    let ana = client.clone();
    let waiting = tokio::spawn(async move { modern::call(&ana, "sleep", json!({"seconds": 1})).await.1 });
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 1).await;
    modern::call(&client, "raw", json!({"text": forged()})).await;
    assert_eq!(waiting.await.unwrap()["result"]["content"][0]["text"], "slept");
    // Even if only one call is waiting, the line is not accepted, because it can refer to a call that already has
    // a response.
    let alone = "Eve says {\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{\"evil\":1}}\n{\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{\"a\":1}}";
    let answer = modern::call(&client, "raw", json!({"text": alone})).await.1;
    assert_eq!(answer["result"]["a"], 1, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_before_an_answer_is_doubtful_while_two_calls_wait() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.text("sleep", json!({"seconds": 1})).await }
    });
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 1).await;
    let line = "got {\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{\"a\":2}}\n{\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{\"a\":1}}";
    assert_eq!(answered_with(&client, line).await["result"]["a"], 1);
    assert_eq!(waiting.await.unwrap(), "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_line_with_the_id_of_a_question_does_not_answer_it() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let asking = json!({"method": "sampling/createMessage", "id": 77, "params": {}});
    let mut events = Events::new(client.post(call(1, "ask", asking)).await);
    while events.next().await.unwrap().data["id"] != 77 {}
    for line in [
        r#"{"time":"12:00","id":77,"method":"POST","path":"/api/items"}"#,
        r#"{"jsonrpc":"2.0","id":77,"method":"sampling/createMessage","params":[]}"#,
    ] {
        let line = format!("{line}\n{{\"jsonrpc\":\"2.0\",\"id\":{{ID}},\"result\":{{\"a\":1}}}}");
        assert_eq!(answered_with(&client, &line).await["result"]["a"], 1);
    }
    assert_eq!(client.post(r#"{"jsonrpc":"2.0","id":77,"result":{"said":"yes"}}"#).await.status(), 202);
    let rest = events.rest().await;
    let answer = rest.last().unwrap().data.to_string();
    assert!(answer.contains("yes"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_about_a_notification_is_not_given_to_the_call_after_it() {
    let wrapper = Wrapper::start(&[], &["--blames-notifications"]).await;
    let client = wrapper.session().await;
    assert_eq!(client.text("echo", json!({})).await, "{}");
    client.post(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#).await;
    assert_eq!(client.text("echo", json!({})).await, "{}");
    // A child that has responded to a later call has read the notification before it, so the next error refers to
    // another message.
    let nameless = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"cannot read {this}"}}"#;
    assert!(refusal(&answered_with(&client, nameless).await).contains("cannot read {this}"));
    // If the error is not a parse error, its cause is unknown.
    let other = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"x"}}"#;
    let line = format!("{other}\n{{\"jsonrpc\":\"2.0\",\"id\":{{ID}},\"result\":{{\"a\":1}}}}");
    assert_eq!(answered_with(&client, &line).await["result"]["a"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_without_an_id_is_not_given_to_the_call_after_a_cancelled_one() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { answer_of(client.post(call(5, "sleep", json!({"seconds": 30}))).await).await }
    });
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 1).await;
    client.post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}"#).await;
    assert!(waiting.await.unwrap()["error"].is_object());
    // This is also true after another response, because the cancelled call might still be running.
    assert_eq!(client.text("echo", json!({})).await, "{}");
    let late = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"cannot read the first one"}}"#;
    let line = format!("{late}\n{{\"jsonrpc\":\"2.0\",\"id\":{{ID}},\"result\":{{\"a\":1}}}}");
    assert_eq!(answered_with(&client, &line).await["result"]["a"], 1);
    wrapper.logged("an error of the child without an id was dropped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_without_an_id_refuses_initialize_and_leaves_no_session() {
    for options in [&["--translate=false"][..], &["--translate=false", "--shared"][..], &[]] {
        let wrapper = Wrapper::start(options, &["--nameless-refusal"]).await;
        let response = wrapper.client().try_initialize("2025-11-25").await;
        assert!(response.headers().get("mcp-session-id").is_none());
        assert_eq!(answer_of(response).await["error"]["code"], -32603);
        wrapper.metric_becomes("stdio_wrapper_sessions", 0).await;
        wrapper.metric_becomes("stdio_wrapper_children", 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_before_the_first_answer_does_not_cost_the_session() {
    let wrapper = Wrapper::start(&[], &["--banner"]).await;
    let client = wrapper.session().await;
    assert_eq!(client.text("echo", json!({})).await, "{}");
    let wrapper = Wrapper::start(&["--shared"], &["--banner"]).await;
    assert_eq!(wrapper.session().await.text("echo", json!({})).await, "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_answer_to_initialize_is_told_even_when_it_comes_late() {
    let wrapper = Wrapper::start(&["--stream-after=50ms", "--translate=false"], &["--late-refusal"]).await;
    let answer = answer_of(wrapper.client().try_initialize("2025-11-25").await).await;
    assert_eq!(answer["error"]["message"], "refused on purpose", "{answer}");
    wrapper.metric_becomes("stdio_wrapper_children", 0).await;
    let wrapper = Wrapper::start(&["--stream-after=50ms", "--translate=false"], &["--late-nonsense"]).await;
    let answer = answer_of(wrapper.client().try_initialize("2025-11-25").await).await;
    assert!(refusal(&answer).contains("not valid JSON"), "{answer}");
    wrapper.metric_becomes("stdio_wrapper_children", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_the_child_that_clients_would_drop_is_answered_with_an_error() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for params in [json!([1]), json!({"_meta": []}), json!({"_meta": {"progressToken": {}}})] {
        let answer = client.text("ask", json!({"method": "roots/list", "params": params})).await;
        assert!(answer.contains("-32600"), "{params}: {answer}");
    }
    // The wrapper removes an optional member whose value is null.
    let mut events = Events::new(
        client.post(call(1, "ask", json!({"method": "roots/list", "params": {"_meta": null}}))).await,
    );
    events.next().await.unwrap();
    assert_eq!(events.next().await.unwrap().data["params"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_too_large_is_refused_and_hits_no_call_with_its_number() {
    let wrapper = Wrapper::start(&["--max-line=64KiB"], &[]).await;
    let client = wrapper.session().await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.text("sleep", json!({"seconds": 1})).await }
    });
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 1).await;
    let params = json!({"method": "sampling/createMessage", "id": "sleeping", "size": 100_000});
    let answer = client.text("ask", params).await;
    assert!(answer.contains("over the limit of 65536"), "{answer}");
    assert_eq!(waiting.await.unwrap(), "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_end_lines_for_some_clients_are_escaped_in_event_streams() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let text = "before\u{2028}\u{2029}\u{85}after";
    let answer = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}});
    let line = format!("{answer}\n{{\"jsonrpc\":\"2.0\",\"id\":{{ID}},\"result\":{{\"x\":\"{text}\"}}}}");
    let body = client.post(call(1, "raw", json!({"text": line}))).await.text().await.unwrap();
    assert!(!body.contains(['\u{2028}', '\u{2029}', '\u{85}']), "{body}");
    let data = body.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().unwrap();
    assert_eq!(serde_json::from_str::<Value>(data).unwrap()["result"]["x"], text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_indents_its_answers_is_told_what_to_do() {
    for options in [&[][..], &["--shared"]] {
        let wrapper = Wrapper::start(options, &["--indents"]).await;
        let refused = answer_of(wrapper.client().try_initialize("2025-11-25").await).await;
        assert!(refusal(&refused).contains("print it without indentation"), "{options:?}: {refused}");
        let (_, refused) = modern::call(&wrapper.client(), "echo", json!({})).await;
        assert!(refusal(&refused).contains("print it without indentation"), "{options:?}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_when_it_refuses_initialize_is_passed_on() {
    for options in [&[][..], &["--shared"]] {
        let wrapper = Wrapper::start(options, &["--refuses"]).await;
        let (_, refused) = modern::call(&wrapper.client(), "echo", json!({})).await;
        assert!(refusal(&refused).contains("refused on purpose"), "{options:?}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_are_left_out_are_explained_and_those_that_are_not_logged_are_counted() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    assert_eq!(client.text("junk", json!({})).await, "after junk");
    let text = wrapper.logged("Listening on port 3000").await;
    assert!(text.contains("log to stderr"), "{text}");
    let flood = json!({"start": "", "piece": "tick\n", "count": 100});
    assert_eq!(client.text("repeat", flood).await, "repeated");
    wrapper.logged("were left out of the log").await;
    let counted = |line: &String| {
        let event: Value = serde_json::from_str(line).unwrap();
        let shown = u64::from(line.contains("was skipped"));
        shown + event["fields"]["left_out"].as_u64().unwrap_or_default()
    };
    for _ in 0..200 {
        if wrapper.log().iter().map(counted).sum::<u64>() == 100 + 6 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not every line was counted: {:#?}", wrapper.log());
}
