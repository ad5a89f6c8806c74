//! Tests of stateless clients in front of a server with sessions whose tools ask the user more than once, as
//! tools built with an SDK can.

use std::time::Duration;

use serde_json::{Value, json};

use crate::modern::{request, send};
use crate::wrapper::{Client, Events, Wrapper, answer_of};

const CHILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/children/asking.py");

async fn wrapper(options: &[&str], flags: &[&str]) -> Wrapper {
    let command: Vec<&str> = ["python3", CHILD].iter().chain(flags).copied().collect();
    Wrapper::run(options, &command, &[]).await
}

/// A call by a client that declares the capabilities for all kinds of questions.
fn call(tool: &str, extra: Value) -> Value {
    call_with(tool, json!({}), extra)
}

fn call_with(tool: &str, arguments: Value, extra: Value) -> Value {
    let able = json!({"elicitation": {}, "sampling": {}, "roots": {}});
    let mut meta = json!({"io.modelcontextprotocol/clientCapabilities": able});
    let mut params = json!({"name": tool, "arguments": arguments});
    for (name, value) in extra.as_object().into_iter().flatten() {
        let place = if name == "progressToken" { &mut meta } else { &mut params };
        place[name] = value.clone();
    }
    params["_meta"] = meta;
    request(1, "tools/call", params)
}

async fn answer(client: &Client, message: &Value) -> Value {
    answer_of(send(client, message).await).await
}

/// The names and the text of the questions in a response to a client.
fn questions(asked: &Value) -> Vec<(String, String)> {
    let requests = asked["result"]["inputRequests"].as_object();
    let text = |params: &Value| {
        let sampled = &params["messages"][0]["content"]["text"];
        params["message"].as_str().or(sampled.as_str()).unwrap_or_default().to_owned()
    };
    requests.unwrap().iter().map(|(name, request)| (name.clone(), text(&request["params"]))).collect()
}

fn text(done: &Value) -> &str {
    done["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {done}"))
}

fn retry(asked: &Value, responses: Value) -> Value {
    json!({"requestState": asked["result"]["requestState"], "inputResponses": responses})
}

/// A user's answer that accepts a question with this content.
fn accept(content: Value) -> Value {
    json!({"action": "accept", "content": content})
}

/// Calls a tool like an SDK's client: it asks its user every question, and sends only the answers from the current
/// round. Returns the text of each question in order, and the final response.
async fn converse(client: &Client, first: &Value, reply: impl Fn(&str) -> Value) -> (Vec<String>, Value) {
    let (mut message, mut asked, mut names) = (first.clone(), Vec::new(), Vec::new());
    for _ in 0..200 {
        let found = answer(client, &message).await;
        if found["result"]["resultType"] != "input_required" {
            return (asked, found);
        }
        let mut responses = json!({});
        for (name, text) in questions(&found) {
            assert!(!names.contains(&name), "{name} is the name of two questions");
            responses[&name] = reply(&text);
            names.push(name);
            asked.push(text);
        }
        message = first.clone();
        for (name, value) in retry(&found, responses).as_object().unwrap() {
            message["params"][name] = value.clone();
        }
    }
    panic!("the questions {asked:?} do not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_question_of_a_call_is_put_to_the_user() {
    let wrapper = wrapper(&[], &[]).await;
    let client = wrapper.client();
    // From the second call on, the child has already asked questions.
    for _ in 0..2 {
        let yes_to_one = |text: &str| {
            if text.contains("ALL") { json!({"action": "decline"}) } else { accept(json!({"answer": "yes"})) }
        };
        let (asked, done) = converse(&client, &call("clean", json!({})), yes_to_one).await;
        assert_eq!(asked, ["Delete 1 temporary file?", "Delete ALL 10000 files?"]);
        assert_eq!(text(&done), r#"["yes", "decline"]"#);
        let no_to_one = |text: &str| {
            if text.contains("ALL") { accept(json!({"answer": "yes"})) } else { json!({"action": "decline"}) }
        };
        let (asked, done) = converse(&client, &call("clean", json!({})), no_to_one).await;
        assert_eq!((asked.len(), text(&done)), (2, r#"["decline", "yes"]"#), "a decline counts once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_prompt_and_each_request_for_roots_gets_its_own_answer() {
    let wrapper = wrapper(&[], &[]).await;
    let client = wrapper.client();
    let complete = |text: &str| json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": format!("of {text}")}});
    let (asked, done) = converse(&client, &call("complete", json!({})), complete).await;
    assert_eq!((asked.len(), text(&done)), (2, r#"["of first", "of second"]"#));
    let count = std::cell::Cell::new(0);
    let roots = |_: &str| {
        count.set(count.get() + 1);
        json!({"roots": [{"uri": format!("file:///{}", count.get())}]})
    };
    let (_, done) = converse(&client, &call("roots", json!({})), roots).await;
    assert_eq!(text(&done), r#"[[{"uri": "file:///1"}], [{"uri": "file:///2"}]]"#);
    let any = |text: &str| match text {
        "two" => complete(text),
        other => accept(json!({"answer": other})),
    };
    let (asked, done) = converse(&client, &call("mixed", json!({})), any).await;
    assert_eq!(
        (asked, text(&done)),
        (vec!["one".into(), "two".into(), "three".into()], r#"["one", "of two", "three"]"#)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_of_calls_in_parallel_stay_apart() {
    let wrapper = wrapper(&[], &[]).await;
    let calls = (0..6).map(|number| {
        let client = wrapper.client();
        async move {
            let who = format!("client {number}");
            let first = call_with("register", json!({"who": who}), json!({}));
            let say =
                |text: &str| accept(json!({"name": format!("[{text}]"), "colour": format!("[{text}]")}));
            let (asked, done) = converse(&client, &first, say).await;
            assert_eq!(asked, [format!("Name of {who}"), format!("Colour of {who}")]);
            assert_eq!(text(&done), format!(r#"["[Name of {who}]", "[Colour of {who}]"]"#));
        }
    });
    futures_util::future::join_all(calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_insists_asks_its_user_each_time_and_not_without_end() {
    let wrapper = wrapper(&[], &[]).await;
    let client = wrapper.client();
    let third = |text: &str| accept(json!({"answer": if text.contains("(3)") { "yes" } else { "no" }}));
    let (asked, done) = converse(&client, &call("insist", json!({})), third).await;
    assert_eq!((asked.len(), text(&done)), (3, "3"));
    let (asked, done) =
        converse(&client, &call("insist", json!({})), |_| accept(json!({"answer": "no"}))).await;
    assert_eq!((asked.len(), &done["error"]["code"]), (64, &json!(-32603)), "{done}");
    assert!(done["error"]["message"].as_str().unwrap().contains("more than 64 rounds"), "{done}");
    wrapper.logged("cancelled a call").await;
    // The server asks faster than a user could answer. On a busy machine, it might pause, and then the user is
    // asked.
    let flood = call_with("flood", json!({"count": 100_000}), json!({}));
    let (asked, flooded) = converse(&client, &flood, |_| accept(json!({}))).await;
    assert!(flooded["error"]["message"].as_str().unwrap().contains("more than"), "{flooded}");
    assert!(asked.len() <= 256, "{}", asked.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_come_again_answer_nothing_else() {
    let wrapper = wrapper(&[], &[]).await;
    let client = wrapper.client();
    let first = answer(&client, &call("clean", json!({}))).await;
    let [(name, _)] = questions(&first).try_into().unwrap();
    let yes = json!({&name: accept(json!({"answer": "yes"}))});
    // The same retry is sent twice at the same time. One request continues the call, and the other finds no
    // waiting call.
    let retried = call("clean", retry(&first, yes.clone()));
    let (one, two) = tokio::join!(answer(&client, &retried), answer(&client, &retried));
    let (second, refused) = if one["result"].is_object() { (one, two) } else { (two, one) };
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    assert_eq!(questions(&second)[0].1, "Delete ALL 10000 files?");
    // The client sends the old answers with the new state, and then again with the old state.
    let again = answer(&client, &call("clean", retry(&second, yes.clone()))).await;
    assert_eq!(questions(&again)[0].1, "Delete ALL 10000 files?", "{again}");
    assert_eq!(answer(&client, &retried).await["error"]["code"], -32602);
    // Answers without a state belong to no question.
    let fresh = answer(&client, &call("clean", json!({"inputResponses": yes}))).await;
    assert_eq!(questions(&fresh)[0].1, "Delete 1 temporary file?", "{fresh}");
    // A state is valid only for its own request. It is refused with different arguments, and for a client with
    // different capabilities.
    let first = answer(&client, &call_with("register", json!({"who": "a"}), json!({}))).await;
    let named = json!({&questions(&first)[0].0: accept(json!({"name": "n"}))});
    let other = call_with("register", json!({"who": "b"}), retry(&first, named.clone()));
    assert_eq!(answer(&client, &other).await["error"]["code"], -32602);
    let own = call_with("register", json!({"who": "a"}), retry(&first, named));
    assert_eq!(questions(&answer(&client, &own).await)[0].1, "Colour of a");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_come_together_are_answered_in_any_order() {
    let wrapper = wrapper(&[], &[]).await;
    let client = wrapper.client();
    let first = answer(&client, &call("both", json!({}))).await;
    let [(this, _), (that, last)] = questions(&first).try_into().unwrap();
    let some = answer(&client, &call("both", retry(&first, json!({&that: {"action": "decline"}})))).await;
    assert_eq!((questions(&some).len(), &questions(&some)[0].0, last.as_str()), (1, &this, "that"));
    // An answer that has already been used does not answer the question that is still open.
    let used = answer(&client, &call("both", retry(&some, json!({&that: {"action": "cancel"}})))).await;
    assert_eq!(questions(&used)[0].0, this);
    let done = answer(&client, &call("both", retry(&used, json!({&this: {"action": "accept"}})))).await;
    assert_eq!(text(&done), r#"["accept", "decline"]"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_whose_call_is_over_is_not_asked_in_the_next_one() {
    let wrapper = wrapper(&[], &[]).await;
    let client = wrapper.client();
    assert_eq!(text(&answer(&client, &call("leave", json!({}))).await), r#""left""#);
    let (asked, _) = converse(&client, &call("clean", json!({})), |_| json!({"action": "decline"})).await;
    assert_eq!(asked, ["Delete 1 temporary file?", "Delete ALL 10000 files?"]);
    assert!(wrapper.logged("left behind got").await.contains("-32000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_the_server_takes_back_is_not_asked() {
    let wrapper = wrapper(&[], &[]).await;
    let client = wrapper.client();
    let (asked, done) =
        converse(&client, &call("reconsider", json!({})), |_| accept(json!({"answer": "x"}))).await;
    assert_eq!((asked, text(&done)), (vec!["asked instead".to_owned()], r#""x""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_a_question_that_was_taken_back_is_none_to_the_next_under_its_id() {
    let wrapper = wrapper(&[], &[]).await;
    let client = wrapper.client();
    let first = answer(&client, &call("swap", json!({}))).await;
    let [(name, asked)] = questions(&first).try_into().unwrap();
    assert_eq!(asked, "Delete 1 file?");
    wrapper.logged("swapped its question").await;
    // The wrapper might still be processing the output from the child before that line.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let accepted = json!({&name: {"action": "accept"}});
    let second = answer(&client, &call("swap", retry(&first, accepted.clone()))).await;
    let [(other, asked)] = questions(&second).try_into().unwrap_or_else(|_| panic!("{second}"));
    assert_eq!(asked, "Delete ALL files?");
    // The answer is not accepted under its old name either, and the user is asked again.
    let third = answer(&client, &call("swap", retry(&second, accepted))).await;
    assert_eq!(questions(&third)[0], (other.clone(), asked));
    let done = answer(&client, &call("swap", retry(&third, json!({other: {"action": "decline"}})))).await;
    assert_eq!(text(&done), r#""decline""#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_whose_user_took_long_has_its_whole_time_again() {
    let wrapper = wrapper(&["--request-timeout=2s", "--input-timeout=60s"], &[]).await;
    let client = wrapper.client();
    let first = call_with("ponder", json!({"seconds": 1}), json!({}));
    let asked = answer(&client, &first).await;
    // The user takes longer than the time limit for a request.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let given = retry(&asked, json!({&questions(&asked)[0].0: accept(json!({"answer": "yes"}))}));
    let done = answer(&client, &call_with("ponder", json!({"seconds": 1}), given)).await;
    assert_eq!(text(&done), r#""yes""#);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_declare_has_a_bound_and_makes_no_sessions_of_its_own() {
    let wrapper = wrapper(&[], &[]).await;
    let client = wrapper.client();
    let declaring = |capabilities: Value| {
        let meta = json!({"io.modelcontextprotocol/clientCapabilities": capabilities});
        request(1, "tools/call", json!({"name": "pid", "arguments": {}, "_meta": meta}))
    };
    for number in 0..4 {
        let able = json!({"elicitation": {"n": number}, "experimental": {"n": {"n": number}}});
        assert!(answer(&client, &declaring(able)).await["result"].is_object());
    }
    assert_eq!(wrapper.metric("stdio_wrapper_sessions").await, 1);
    let large = json!({"elicitation": {"a": vec![1; 10_000]}});
    let refused = answer(&client, &declaring(large)).await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().contains("At most 16384"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_after_a_round_has_the_token_of_that_round() {
    let wrapper = wrapper(&[], &[]).await;
    let client = wrapper.client();
    let first = answer(&client, &call("steps", json!({"progressToken": "one"}))).await;
    let name = &questions(&first)[0].0;
    let mut extra = retry(&first, json!({name: accept(json!({"answer": "x"}))}));
    extra["progressToken"] = json!(2);
    let events = Events::new(send(&client, &call("steps", extra)).await).rest().await;
    assert_eq!(events[0].data["params"], json!({"progressToken": 2, "progress": 2}), "{events:?}");
}

/// Starts a call that takes a while, and closes the connection before the response.
async fn give_up(wrapper: &Wrapper, client: &Client) {
    let response = send(client, &call("later", json!({}))).await;
    wrapper.logged("later has begun").await;
    drop(response);
    wrapper.logged("cancelled a call").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_given_up_asks_no_other_calls_user() {
    let wrapper = wrapper(&["--stream-after=50ms"], &["--goes-on"]).await;
    let client = wrapper.client();
    give_up(&wrapper, &client).await;
    // The call continues in its child. The following calls are sent to the same child until one of them asks a
    // question.
    let (asked, done) =
        converse(&client, &call("meanwhile", json!({})), |_| json!({"action": "accept"})).await;
    assert_eq!(asked, Vec::<String>::new(), "{done}");
    assert!(text(&done).contains("uncertain which call this question belongs to"), "{done}");
    wrapper.logged("later was refused").await;
    // From then on, calls that can ask questions get a child in which no such call runs.
    let (asked, _) = converse(&client, &call("clean", json!({})), |_| json!({"action": "decline"})).await;
    assert_eq!(asked, ["Delete 1 temporary file?", "Delete ALL 10000 files?"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_ends_when_it_is_given_up_leaves_no_doubt() {
    let wrapper = wrapper(&["--input-timeout=500ms"], &[]).await;
    let client = wrapper.client();
    let before = pid(&client).await;
    let _ = answer(&client, &call("clean", json!({}))).await;
    // The user does not answer, and the server ends the call when the wrapper cancels it.
    wrapper.logged("cancelled a call").await;
    let (asked, _) = converse(&client, &call("clean", json!({})), |_| json!({"action": "decline"})).await;
    assert_eq!(asked, ["Delete 1 temporary file?", "Delete ALL 10000 files?"]);
    assert_eq!(pid(&client).await, before);
}

/// The process ID of the child that receives a call from this client.
async fn pid(client: &Client) -> String {
    text(&answer(client, &call("pid", json!({}))).await).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_beside_one_that_waits_meets_another_child() {
    let wrapper = wrapper(&[], &[]).await;
    let client = wrapper.client();
    let before = pid(&client).await;
    let _waits = answer(&client, &call("clean", json!({}))).await;
    assert_ne!(pid(&client).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_session_it_waits_for_the_same_child() {
    let wrapper = wrapper(&["--translate-sessions=1"], &[]).await;
    let client = wrapper.client();
    let before = pid(&client).await;
    let first = answer(&client, &call("both", json!({}))).await;
    let beside = {
        let client = client.clone();
        tokio::spawn(async move { pid(&client).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!beside.is_finished());
    let both: Value = questions(&first)
        .into_iter()
        .map(|(name, _)| (name, json!({"action": "accept"})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let done = answer(&client, &call("both", retry(&first, both))).await;
    assert_eq!(text(&done), r#"["accept", "accept"]"#);
    assert_eq!(beside.await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_errors_keep_what_they_say() {
    for flags in [&[][..], &["--goes-on"]] {
        let wrapper = wrapper(&[], flags).await;
        let client = wrapper.client();
        let refused = answer(&client, &call("unable", json!({}))).await;
        assert_eq!(
            (&refused["error"]["code"], &refused["error"]["data"]),
            (&json!(-32021), &json!({"requiredCapabilities": {"sampling": {"tools": {}}}}))
        );
        let unknown = answer(&client, &request(1, "resources/read", json!({"uri": "test://none"}))).await;
        assert_eq!(
            (&unknown["error"]["code"], &unknown["error"]["data"]),
            (&json!(-32602), &json!({"uri": "test://none"})),
            "{unknown}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_counted_for_a_principal_whatever_its_clients_can_be_asked() {
    let wrapper = wrapper(&["--translate-sessions=3", "--request-timeout=1s"], &[]).await;
    let client = wrapper.client();
    let insist = call("insist", json!({}));
    let (one, two) = (answer(&client, &insist).await, answer(&client, &insist).await);
    wrapper.metric_becomes("stdio_wrapper_sessions", 2).await;
    // A client with different capabilities can always open a first session. Its further sessions count together
    // with those of the first client.
    let able = json!({"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}});
    let other = request(1, "tools/call", json!({"name": "insist", "arguments": {}, "_meta": able}));
    let third = answer(&client, &other).await;
    assert_eq!(third["result"]["resultType"], "input_required", "{third}");
    wrapper.metric_becomes("stdio_wrapper_sessions", 3).await;
    let response = send(&client, &other).await;
    assert_eq!(response.status(), 429);
    let refused = answer_of(response).await;
    assert!(!refused.to_string().contains("session"), "an error about sessions: {refused}");
    // When the calls from the first client no longer need their sessions, another session can be opened.
    for asked in [one, two] {
        let yes = json!({&questions(&asked)[0].0: accept(json!({"answer": "yes"}))});
        assert_eq!(text(&answer(&client, &call("insist", retry(&asked, yes))).await), "1");
    }
    let fourth = answer(&client, &other).await;
    assert_eq!(fourth["result"]["resultType"], "input_required", "{fourth}");
    wrapper.metric_becomes("stdio_wrapper_sessions", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_which_there_is_no_room_among_the_questions_is_told_at_once() {
    let wrapper = wrapper(&["--translate-sessions=2"], &[]).await;
    let client = wrapper.client();
    let insist = call("insist", json!({}));
    let asked = answer(&client, &insist).await;
    answer(&client, &insist).await;
    // The wrapper does not give up a question that is less than half a minute old, so it refuses the new call
    // immediately.
    let refused = send(&client, &insist).await;
    assert_eq!(refused.status(), 429);
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    let refused = answer_of(refused).await;
    assert!(
        refused["error"]["message"].as_str().unwrap().contains("waiting for answers from their users"),
        "{refused}"
    );
    let yes = json!({&questions(&asked)[0].0: accept(json!({"answer": "yes"}))});
    assert_eq!(text(&answer(&client, &call("insist", retry(&asked, yes))).await), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_user_is_away_does_not_hold_up_the_others_for_long() {
    // To make room for another call, the wrapper can give up a question that is older than a twentieth of
    // INPUT_TIMEOUT, which is half a second here.
    let wrapper = wrapper(&["--translate-sessions=2", "--input-timeout=10s"], &[]).await;
    let client = wrapper.client();
    let insist = call("insist", json!({}));
    let first = answer(&client, &insist).await;
    let second = answer(&client, &insist).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let third = answer(&client, &insist).await;
    assert_eq!(third["result"]["resultType"], "input_required", "{third}");
    let yes = |asked: &Value| {
        let said = json!({&questions(asked)[0].0: accept(json!({"answer": "yes"}))});
        call("insist", retry(asked, said))
    };
    // The question that had waited longest was dropped, and the error asks its client to call again.
    let refused = answer(&client, &yes(&first)).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("Call again"), "{refused}");
    for asked in [second, third] {
        assert_eq!(text(&answer(&client, &yes(&asked)).await), "1");
    }
}
