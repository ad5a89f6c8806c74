//! Tests that starts of children are queued, and that no start delays the starts of other users for long.

use reqwest::Response;
use serde_json::Value;

use crate::wrapper::{CHILD, Client, Wrapper, answer_of};

/// Starts a wrapper whose child never responds to Mallory.
pub(crate) async fn wrapper(options: &[&str]) -> Wrapper {
    let code = format!(
        "import runpy, sys\nsys.argv = ['child.py'] + (['--never-answers'] if sys.argv[1].startswith('mallory') else [])\nrunpy.run_path({CHILD:?}, run_name='__main__')"
    );
    let options = [&["--identity=headers"], options].concat();
    Wrapper::run(&options, &["python3", "-c", &code, "{subject}"], &[]).await
}

pub(crate) fn caller(wrapper: &Wrapper, name: &str) -> Client {
    wrapper.client().with_header("x-auth-subject", name)
}

fn open(client: Client) -> tokio::task::JoinHandle<Response> {
    tokio::spawn(async move { client.try_initialize("2025-11-25").await })
}

/// Whether this response contains the response from a child.
async fn is_opened(response: Response) -> bool {
    response.status() == 200 && answer_of(response).await["result"].is_object()
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_an_account_whose_starts_never_end_does_not_hold_up_the_starts_of_others() {
    let wrapper = wrapper(&["--max-starts=2"]).await;
    let mallory: Vec<_> = (0..4).map(|_| open(caller(&wrapper, "mallory"))).collect();
    wrapper.metric_becomes("stdio_wrapper_starts_waiting", 3).await;
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, 1);
    let alice = caller(&wrapper, "alice").initialize("2025-11-25").await;
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, 2);
    assert_eq!(alice.text("echo", serde_json::json!({})).await, "{}");
    mallory.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_a_start_that_never_ends_gives_its_place_away() {
    let wrapper = wrapper(&["--max-starts=1"]).await;
    let mallory = open(caller(&wrapper, "mallory"));
    wrapper.metric_becomes("stdio_wrapper_children_started_total", 1).await;
    caller(&wrapper, "alice").initialize("2025-11-25").await;
    assert!(!mallory.is_finished());
    mallory.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_starts_than_run_at_a_time_are_all_done_one_after_the_other() {
    let wrapper = wrapper(&["--max-starts=1"]).await;
    let all: Vec<_> = (0..8).map(|number| open(caller(&wrapper, &format!("user-{number}")))).collect();
    for opened in all {
        assert!(is_opened(opened.await.unwrap()).await);
    }
    // No start is still waiting, so the wrapper is ready.
    assert_eq!(wrapper.ops_status("/ready").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_waited_for_too_long_is_told_why_and_when_to_come_back() {
    let wrapper = wrapper(&["--max-starts=1", "--start-timeout=9s"]).await;
    let mallory = open(caller(&wrapper, "mallory"));
    wrapper.metric_becomes("stdio_wrapper_children_started_total", 1).await;
    let refused = open(caller(&wrapper, "alice")).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let refusal: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
    let refusal = refusal["error"]["message"].as_str().unwrap();
    assert!(refusal.contains("waited for 6 s for other starts") && refusal.contains("PREWARM"), "{refusal}");
    mallory.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_when_the_wrapper_stops() {
    let wrapper = wrapper(&["--max-starts=1"]).await;
    let mallory = open(caller(&wrapper, "mallory"));
    wrapper.metric_becomes("stdio_wrapper_children_started_total", 1).await;
    let waiting = open(caller(&wrapper, "alice"));
    wrapper.metric_becomes("stdio_wrapper_starts_waiting", 1).await;
    wrapper.signal(rustix::process::Signal::TERM);
    let response = waiting.await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.text().await.unwrap().contains("is shutting down"));
    mallory.abort();
}
