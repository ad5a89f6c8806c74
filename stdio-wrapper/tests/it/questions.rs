//! What a server asks its client within a session, and the calls that wait meanwhile.

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
    // This one never ends. It used to wait for twelve times REQUEST_TIMEOUT, since the question was open.
    let late = timeout(Duration::from_secs(40), client.call("rouse", json!({}))).await.unwrap();
    assert!(late["error"]["message"].as_str().unwrap().contains("did not answer within 5 s"), "{late}");
}
