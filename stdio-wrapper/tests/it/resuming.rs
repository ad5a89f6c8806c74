//! Tests of priming events, of `retry`, and of resuming with `Last-Event-ID`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::wrapper::{Client, Event, Events, Wrapper, call};

fn data_line(event: &Event) -> &str {
    event.data["params"]["data"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_starts_with_a_priming_event_from_2025_11_25_on() {
    let wrapper = Wrapper::start(&["--retry=1500ms"], &[]).await;
    for (version, has_priming) in [("2025-03-26", false), ("2025-06-18", false), ("2025-11-25", true)] {
        let client = wrapper.client().initialize(version).await;
        let events = Events::new(client.post(call(1, "log", json!({"lines": 1}))).await).rest().await;
        assert_eq!(events[0].data.is_null(), has_priming, "{version}: {events:?}");
        if has_priming {
            assert_eq!(events[0].retry, Some(1500));
            assert_eq!(events[0].id.as_deref(), Some("2-0"));
        }
        assert_eq!(events.last().unwrap().data["id"], 1);
    }
}

/// Reads some events of a call and drops the connection. Returns the last event id.
async fn lose_connection(client: &Client, lines: usize, seen: usize) -> String {
    let mut events =
        Events::new(client.post(call("job", "log", json!({"lines": lines, "pause": 0.03}))).await);
    let mut last = String::new();
    for _ in 0..seen {
        last = events.next().await.unwrap().id.unwrap();
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_post_stream_is_resumed_without_gap_or_repeat() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let last = lose_connection(&client, 20, 6).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let rest = Events::new(client.get(Some(&last)).await).rest().await;
    let lines: Vec<&str> = rest.iter().map(data_line).filter(|line| !line.is_empty()).collect();
    // One of the six events was the priming event, so the client has seen five lines.
    let expected: Vec<String> = (5..20).map(|step| format!("line {step}")).collect();
    assert_eq!(lines, expected);
    assert_eq!(rest.last().unwrap().data["id"], "job");
    // The client can also get the response again.
    let before_last = rest[rest.len() - 2].id.clone().unwrap();
    let again = Events::new(client.get(Some(&before_last)).await).rest().await;
    assert_eq!(again.last().unwrap().data["id"], "job");
    assert_eq!(wrapper.metric("stdio_wrapper_streams_resumed_total").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn resuming_one_stream_never_gives_messages_of_another() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let last = lose_connection(&client, 10, 3).await;
    let other = Events::new(client.post(call("other", "log", json!({"lines": 3}))).await).rest().await;
    assert_eq!(other.last().unwrap().data["id"], "other");
    let rest = Events::new(client.get(Some(&last)).await).rest().await;
    assert!(rest.iter().all(|event| event.data["id"] != "other"), "{rest:?}");
    let mut ids: Vec<&String> = rest.iter().chain(&other).filter_map(|event| event.id.as_ref()).collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    // The priming event of the resumed stream repeats the id from which the client resumed.
    assert!(ids.len() + 1 >= count, "ids must be unique in a session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_resumes_its_own_events_only() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let ana = wrapper.session().await;
    let last = lose_connection(&ana, 5, 3).await;
    let eve = wrapper.session().await;
    assert_eq!(eve.get(Some(&last)).await.status(), 400);
    for id in
        ["", "x", "1", "1-", "-1", "1-0 ", "01-0", "1-99999999999999999999", "1-18446744073709551615", "7-7"]
    {
        let status = ana.get(Some(id)).await.status();
        assert!(status == 400 || id.trim() == "1-0", "{id}: {status}");
    }
    // A client can request any number on the GET stream, which then continues as after a gap.
    assert_eq!(ana.get(Some("0-18446744073709551615")).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_takes_long_becomes_a_stream_that_can_be_resumed() {
    let wrapper = Wrapper::start(&["--stream-after=100ms", "--keep-alive=100ms"], &[]).await;
    let client = wrapper.session().await;
    let mut events = Events::new(client.post(call(4, "sleep", json!({"seconds": 0.6}))).await);
    let priming = events.next().await.unwrap();
    drop(events);
    let rest = Events::new(client.get(priming.id.as_deref()).await).rest().await;
    assert_eq!(rest.last().unwrap().data["result"]["content"][0]["text"], "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_log_is_bounded_and_the_get_stream_goes_on_after_a_gap() {
    let wrapper = Wrapper::start(&["--event-log=4KiB"], &[]).await;
    let client = wrapper.session().await;
    let mut stream = Events::new(client.get(None).await);
    let first = stream.next().await.unwrap();
    assert_eq!(first.data, Value::Null);
    drop(stream);
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..300 {
        client.text("changed", json!({})).await;
    }
    let mut resumed = Events::new(client.get(first.id.as_deref()).await);
    assert_eq!(resumed.next().await.unwrap().data, Value::Null);
    assert_eq!(resumed.next().await.unwrap().data["method"], "notifications/tools/list_changed");
    assert!(wrapper.metric("process_resident_memory_bytes").await < 100 << 20);
}
