//! Graceful shutdown.

use std::time::Duration;

use serde_json::json;

use crate::wrapper::{Events, Wrapper, answer_of, call, gone};

#[tokio::test(flavor = "multi_thread")]
async fn running_calls_finish_streams_end_and_children_go() {
    let wrapper = Wrapper::start(&["--shutdown-timeout=4s", "--prewarm=1"], &[]).await;
    let client = wrapper.session().await;
    let idle = wrapper.session().await;
    let stream = Events::new(idle.get(None).await);
    let finishing = tokio::spawn({
        let client = client.clone();
        async move { answer_of(client.post(call(1, "sleep", json!({"seconds": 0.5}))).await).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (pids, ops) = ([client.server_pid, idle.server_pid], wrapper.ops.clone());
    let ended = tokio::spawn(wrapper.terminate());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(reqwest::get(format!("http://{ops}/ready")).await.unwrap().status(), 503);
    assert_eq!(client.clone().try_initialize_again().await, 503);
    assert_eq!(finishing.await.unwrap()["result"]["content"][0]["text"], "slept");
    // The stream ends properly, not by a broken connection.
    assert!(stream.rest().await.len() <= 1);
    let (code, time) = ended.await.unwrap();
    assert_eq!(code, Some(0));
    assert!(time < Duration::from_secs(4), "{time:?}");
    for pid in pids {
        gone(pid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_does_not_finish_is_told_within_the_bound() {
    let wrapper =
        Wrapper::start(&["--shutdown-timeout=2s", "--stop-grace=200ms"], &["--ignores-sigterm"]).await;
    let client = wrapper.session().await;
    let pid = client.server_pid;
    let waiting =
        tokio::spawn(
            async move { answer_of(client.post(call(1, "sleep", json!({"seconds": 60}))).await).await },
        );
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (code, time) = wrapper.terminate().await;
    assert_eq!(code, Some(0));
    assert!(time < Duration::from_secs(4), "{time:?}");
    assert_eq!(waiting.await.unwrap()["error"]["message"], "The session has ended.");
    gone(pid).await;
}
