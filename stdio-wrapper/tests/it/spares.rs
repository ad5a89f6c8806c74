//! Tests that spare children are pinged before their first client arrives, unless the ping would disturb them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::modern::{CHILD, request, send};
use crate::wrapper::{Events, Wrapper, answer_of};

const REFUSED: &str = "does not support a ping before initialize";
const TAKEN: &str = "spares are warmed up with a ping";
/// The line that the test child writes to standard error for each ping.
const PINGED: &str = "got a ping";

impl Wrapper {
    fn lines_with(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits until `count` log lines contain this text.
    async fn logs(&self, text: &str, count: usize) {
        for _ in 0..400 {
            if self.lines_with(text) == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("`{text}` appears {} times in {:#?}", self.lines_with(text), self.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_spare_is_pinged_once_it_is_known_that_they_answer() {
    let wrapper = Wrapper::start(&["--prewarm=1", "--log=debug"], &["--tells-pings"]).await;
    wrapper.logs(TAKEN, 1).await;
    let spare = wrapper.session().await;
    wrapper.metric_becomes("stdio_wrapper_children_started_total", 2).await;
    assert_eq!(spare.text("echo", json!({})).await, "{}");
    // The next spare might still be starting. Its response to the ping then arrives after the session has begun, and
    // is sent to no client.
    let early = wrapper.session().await;
    assert_eq!(early.text("echo", json!({"a": 1})).await, "{\"a\": 1}");
    wrapper.logs(PINGED, 3).await;
    wrapper.metric_becomes("stdio_wrapper_children_started_total", 3).await;
    assert_eq!(wrapper.metric("stdio_wrapper_children_crashed_total").await, 0);
    assert_eq!(wrapper.lines_with(REFUSED), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_after_the_session_began_goes_to_nobody() {
    let wrapper = Wrapper::start(&["--prewarm=1", "--log=debug"], &["--tells-pings", "--late-ping"]).await;
    wrapper.logs(TAKEN, 1).await;
    let first = wrapper.session().await;
    wrapper.logs(PINGED, 2).await;
    let second = wrapper.session().await;
    assert_eq!(first.text("echo", json!({})).await, "{}");
    // By then, the child has responded to the ping, with a line that it writes in two parts.
    tokio::time::sleep(Duration::from_millis(900)).await;
    let mut events = Events::new(second.get(None).await);
    let mut said = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(300), events.next()).await {
        said.push(event.data);
    }
    assert!(said.iter().all(serde_json::Value::is_null), "{said:?}");
    assert_eq!(second.text("echo", json!({"b": 2})).await, "{\"b\": 2}");
    assert_eq!(wrapper.metric("stdio_wrapper_child_messages_dropped_total").await, 1);
    assert_eq!(wrapper.metric("stdio_wrapper_child_junk_lines_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_child_that_exits_at_an_unknown_first_message_costs_no_session_and_is_not_asked_again() {
    let wrapper = Wrapper::start(&["--prewarm=2"], &["--picky"]).await;
    // No client gets the spare that was pinged first until the wrapper knows its reaction.
    let early = wrapper.session().await;
    assert_eq!(early.text("echo", json!({})).await, "{}");
    wrapper.logs(REFUSED, 1).await;
    wrapper.metric_becomes("stdio_wrapper_children", 3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..3 {
        let client = wrapper.session().await;
        assert_eq!(client.text("echo", json!({})).await, "{}");
    }
    assert_eq!(wrapper.metric("stdio_wrapper_children_crashed_total").await, 0);
    assert_eq!(wrapper.metric("stdio_wrapper_children_failed_total").await, 0);
    assert_eq!(wrapper.lines_with(REFUSED), 1);
    assert_eq!(wrapper.ops_status("/ready").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_child_that_refuses_a_ping_or_takes_it_for_initialize_is_replaced() {
    for flag in ["--refuses-ping", "--greets-at-once"] {
        let wrapper = Wrapper::start(&["--prewarm=1"], &[flag, "--tells-pings"]).await;
        wrapper.logs(REFUSED, 1).await;
        wrapper.metric_becomes("stdio_wrapper_children_started_total", 2).await;
        wrapper.metric_becomes("stdio_wrapper_children", 1).await;
        let client = wrapper.session().await;
        assert_eq!(client.text("echo", json!({})).await, "{}", "{flag}");
        wrapper.metric_becomes("stdio_wrapper_children_started_total", 3).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((wrapper.lines_with(PINGED), wrapper.lines_with(REFUSED)), (1, 1), "{flag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_child_that_never_answers_a_ping_holds_nobody_up() {
    let wrapper =
        Wrapper::start(&["--prewarm=1", "--start-timeout=5s"], &["--ignores-ping", "--tells-pings"]).await;
    wrapper.logs(PINGED, 1).await;
    let start = Instant::now();
    let client = wrapper.session().await;
    assert_eq!(client.text("echo", json!({})).await, "{}");
    assert!(start.elapsed() < Duration::from_secs(5), "the session must not wait for the spare");
    wrapper.logs(REFUSED, 1).await;
    wrapper.metric_becomes("stdio_wrapper_children_started_total", 3).await;
    assert_eq!(wrapper.session().await.text("echo", json!({})).await, "{}");
    assert_eq!(wrapper.lines_with(PINGED), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateless_request_never_gets_a_child_that_was_pinged() {
    // SDKs choose the era of a process by the first message that it receives.
    let wrapper = Wrapper::run(&["--prewarm=1"], &["python3", CHILD, "pinned"], &[]).await;
    wrapper.metric_becomes("stdio_wrapper_children", 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answer = answer_of(send(&wrapper.client(), &request(1, "tools/list", json!({}))).await).await;
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    assert_eq!(wrapper.lines_with(REFUSED), 0);
}
