//! What a child writes and its client cannot take as it is: the caller gets an answer at once all the same, the good one
//! where no value has to be guessed, and else an error that says why. Nobody waits for a timeout.
//!
//! The wrapper's own timeout is 5 minutes and that of the test's client is 60 s, so a call that waits fails its test.

use serde_json::{Value, json};

use crate::wrapper::{Client, Events, Wrapper, answer_of, call};

/// Lets the child answer with these bytes, in which `{ID}` is the id of the call.
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
    wrapper.logged("a line of the child was put right").await;
    let half = answered_with(&client, r#"{"jsonrpc":"2.0","id":{ID},"result":{"a":"x\ud83d"}}"#).await;
    assert_eq!(half["result"]["a"], "x\u{fffd}", "half a surrogate pair is no letter");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_used_fails_its_call_at_once_and_says_why() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for (text, why) in [
        (r#"{"jsonrpc":"2.0","id":{ID},"result":{"x":NaN}}"#, "not valid JSON"),
        ("{\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{\"x\":\"a\tb\"}}", "not valid JSON"),
        ("{\"jsonrpc\":\"2.0\",\"result\":{\"x\":\"a\nb\"},\"id\":{ID}}", "not valid JSON"),
        (
            "{\n  \"jsonrpc\": \"2.0\",\n  \"result\": {\n    \"id\": 99\n  },\n  \"id\": {ID}\n}",
            "not valid JSON",
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
    assert_eq!(client.text("echo", json!({})).await, "{}", "the session goes on");
    let logged = wrapper.logged("is no MCP message and was skipped").await;
    assert!(logged.contains("\"WARN\""), "{logged}");
    assert_eq!(wrapper.metric("stdio_wrapper_requests_in_flight").await, 0);
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
    // The child could not even read the id of the call.
    let nameless = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"cannot read {this}"}}"#;
    let answer = answered_with(&client, nameless).await;
    assert!(refusal(&answer).contains("cannot read {this}"), "{answer}");
    wrapper.logged("an error of the child was given to the only request that waits").await;
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
    // Two calls wait: nobody can tell which of them is meant.
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
    let waiting = tokio::spawn(async move { ana.call("sleep", json!({"seconds": 1})).await });
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 1).await;
    // The child prints what Eve says, and she guesses the id of Ana's call.
    let forged = (1..9).map(|id| format!(r#"Eve says {{"jsonrpc":"2.0","id":{id},"result":{{"evil":1}}}}"#));
    let text = forged.collect::<Vec<_>>().join("\n") + "\n{\"jsonrpc\":\"2.0\",\"id\":{ID},\"result\":{}}";
    answered_with(&eve, &text).await;
    assert!(!waiting.await.unwrap().to_string().contains("evil"));
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
        let told = client.text("ask", json!({"method": "roots/list", "params": params})).await;
        assert!(told.contains("-32600"), "{params}: {told}");
    }
    // Null in place of what may be left out is left out.
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
    // `initialize` was number 1, so the sleeping call is number 2.
    let params = json!({"method": "sampling/createMessage", "id": 2, "size": 100_000});
    let told = client.text("ask", params).await;
    assert!(told.contains("over the limit"), "{told}");
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
