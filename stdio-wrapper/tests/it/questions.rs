//! Tests of a server's questions to its client in a session, and of the calls waiting for the answers.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::wrapper::{Events, Wrapper, call};

const CHILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/children/asking.py");

async fn wrapper(options: &[&str]) -> Wrapper {
    Wrapper::run(options, &["python3", CHILD], &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_nobody_answers_holds_up_no_later_call() {
    let wrapper = wrapper(&["--request-timeout=5s"]).await;
    let client = wrapper.session().await;
    let left = Events::new(client.post(call(1, "leave", json!({}))).await).rest().await;
    assert!(left.iter().any(|event| event.data["params"]["message"] == "left behind"), "{left:?}");
    // The server never responds to this call. In an earlier version, the call waited for twelve times
    // REQUEST_TIMEOUT, because the earlier question was still open.
    let late = timeout(Duration::from_secs(40), client.call("rouse", json!({}))).await.unwrap();
    assert!(late["error"]["message"].as_str().unwrap().contains("did not answer within 5 s"), "{late}");
}

/// A call whose tool pauses before it sends its question to the client, so that the test can close the connection
/// first.
fn asking() -> String {
    call(1, "ask", json!({"method": "roots/list", "params": {}, "pause": 1.5}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_a_call_whose_connection_is_lost_comes_on_the_get_stream() {
    // With the first value, the response is already an event stream when the connection is lost. With the second
    // value, it could still become JSON.
    for stream_after in ["--stream-after=50ms", "--stream-after=30s"] {
        let wrapper = Wrapper::start(&[stream_after], &[]).await;
        let client = wrapper.session().await;
        let mut stream = Events::new(client.get(None).await);
        let posted = client.post(asking());
        assert!(
            timeout(Duration::from_millis(700), async { Events::new(posted.await).rest().await })
                .await
                .is_err()
        );
        let question = timeout(Duration::from_secs(20), async {
            loop {
                let event = stream.next().await.unwrap();
                if event.data["method"] == "roots/list" {
                    return event.data;
                }
            }
        });
        let question = question.await.expect("the question must arrive on the GET stream");
        let reply = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}}).to_string();
        assert_eq!(client.post(reply).await.status(), 202);
        wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_a_call_that_may_be_resumed_waits_there_if_nothing_else_is_read() {
    let wrapper = Wrapper::start(&["--stream-after=50ms"], &[]).await;
    let client = wrapper.session().await;
    let mut events = Events::new(client.post(asking()).await);
    let last = events.next().await.unwrap().id.unwrap();
    drop(events);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut resumed = Events::new(client.get(Some(&last)).await);
    while resumed.next().await.unwrap().data["method"] != "roots/list" {}
}
