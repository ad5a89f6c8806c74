//! Tests of a graceful shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::modern;
use crate::wrapper::{Client, EVERY_LINE, Events, Wrapper, answer_of, call, gone};

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
    // The stream must be terminated properly. A broken connection is an error.
    assert!(stream.rest().await.len() <= 1);
    let (code, time) = ended.await.unwrap();
    assert_eq!(code, Some(0));
    assert!(time < Duration::from_secs(4), "{time:?}");
    for pid in pids {
        gone(pid).await;
    }
}

/// Calls on new connections would be refused. An edge uses another instance only if it cannot connect.
#[tokio::test(flavor = "multi_thread")]
async fn new_connections_are_refused_while_running_calls_finish() {
    let wrapper = Wrapper::start(&["--shutdown-timeout=20s"], &[]).await;
    let client = wrapper.session().await;
    let running =
        tokio::spawn(
            async move { answer_of(client.post(call(1, "sleep", json!({"seconds": 4}))).await).await },
        );
    tokio::time::sleep(Duration::from_millis(200)).await;
    let address = wrapper.address.clone();
    let ended = tokio::spawn(wrapper.terminate());
    while TcpStream::connect(&address).await.is_ok() {
        assert!(!running.is_finished(), "the wrapper listened until its last call had finished");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(running.await.unwrap()["result"]["content"][0]["text"], "slept");
    assert_eq!(ended.await.unwrap().0, Some(0));
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
    let told = waiting.await.unwrap()["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        told.starts_with("This server is shutting down, and the request did not complete in time."),
        "{told}"
    );
    gone(pid).await;
}

/// An edge sends requests of stateless clients to an instance until it notices that the instance is stopping, and cannot
/// send them again. The instance might just have been started.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_session_is_served_shortly_after_sigterm() {
    for stateless in [false, true] {
        let mut is_seen = false;
        // On a busy machine, the request might be sent only when new connections are already refused.
        for _ in 0..10 {
            let wrapper = if stateless {
                modern::wrapper(&["--shutdown-timeout=20s"]).await
            } else {
                Wrapper::start(&["--shutdown-timeout=20s"], &[]).await
            };
            let client = wrapper.client();
            // The connection is open before the signal, as an edge keeps it.
            client.get(None).await;
            let ended = tokio::spawn(wrapper.terminate());
            tokio::time::sleep(Duration::from_millis(100)).await;
            let message = modern::request(1, "tools/call", json!({"name": "echo", "arguments": {}}));
            let sent = modern::with_headers(&client, &message).request(reqwest::Method::POST);
            let sent = sent.header("content-type", "application/json").body(message.to_string());
            let answered = sent.header("accept", "application/json, text/event-stream").send().await;
            assert_eq!(ended.await.unwrap().0, Some(0));
            if let Ok(answer) = answered {
                assert_eq!(answer.status(), 200, "{stateless} {}", answer.text().await.unwrap());
                is_seen = true;
                break;
            }
        }
        assert!(is_seen);
    }
}

/// Spares need not wait for running calls, and have their grace periods as other children do.
#[tokio::test(flavor = "multi_thread")]
async fn spares_stop_while_running_calls_finish() {
    let saved = tempfile::NamedTempFile::new().unwrap();
    let flag = format!("--saves={}", saved.path().display());
    let wrapper =
        Wrapper::start(&["--prewarm=1", "--stop-grace=15s", "--shutdown-timeout=120s"], &[&flag]).await;
    let client = wrapper.session().await;
    let running =
        tokio::spawn(
            async move { answer_of(client.post(call(1, "sleep", json!({"seconds": 14}))).await).await },
        );
    wrapper.metric_at_least("stdio_wrapper_children", 2).await;
    wrapper.metric_at_least("stdio_wrapper_requests_in_flight", 1).await;
    wrapper.signal(Signal::TERM);
    while std::fs::read_to_string(saved.path()).unwrap() != "saved\n" {
        assert!(!running.is_finished(), "the spare was not stopped before the call had finished");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(running.await.unwrap()["result"]["content"][0]["text"], "slept");
}

/// A server that saves its state at the end gets the time for it, even if no session uses it any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_already_stopping_keeps_its_grace_period() {
    let saved = tempfile::NamedTempFile::new().unwrap();
    let flag = format!("--saves={}", saved.path().display());
    let wrapper = Wrapper::start(&["--stop-grace=15s", "--shutdown-timeout=30s"], &[&flag]).await;
    let client = wrapper.session().await;
    assert_eq!(client.delete().await, 204);
    let (code, _) = wrapper.terminate().await;
    assert_eq!(code, Some(0));
    assert_eq!(std::fs::read_to_string(saved.path()).unwrap(), "saved\n");
    gone(client.server_pid).await;
}

/// A child that no session uses must not hold up the end for longer than `SHUTDOWN_TIMEOUT`.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_does_not_stop_in_time_is_killed_with_the_wrapper() {
    let wrapper = Wrapper::start(&["--stop-grace=60s", "--shutdown-timeout=2s"], &["--ignores-eof"]).await;
    let client = wrapper.session().await;
    assert_eq!(client.delete().await, 204);
    let (code, time) = wrapper.terminate().await;
    assert_eq!(code, Some(0));
    assert!(time > Duration::from_millis(1700) && time < Duration::from_secs(6), "{time:?}");
    gone(client.server_pid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a095_a_log_that_nobody_reads_holds_up_neither_calls_nor_the_end() {
    let wrapper = Wrapper::start(&[EVERY_LINE, "--stderr-rate=100000"], &[]).await;
    let (noisy, other) = (wrapper.session().await, wrapper.session().await);
    let unread = wrapper.unread_log();
    // This is more than fits into the pipe and the queue of log lines.
    answer_of(noisy.post(call(1, "stderr", json!({"mib": 4}))).await).await;
    wrapper.metric_at_least("stdio_wrapper_log_lines_left_out_total", 1).await;
    let echo = answer_of(other.post(call(1, "echo", json!({"text": "hello"}))).await).await;
    assert!(echo["result"]["content"][0]["text"].as_str().unwrap().contains("hello"));
    let newcomer = wrapper.session().await;
    assert_eq!(wrapper.ops_status("/ready").await, 200);
    let (code, _) = wrapper.terminate().await;
    assert_eq!(code, Some(0));
    gone(newcomer.server_pid).await;
    drop(unread);
}

/// Reads one response. Returns `None` if the connection ended before it was complete.
async fn whole_answer(stream: &mut TcpStream) -> Option<String> {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&received);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
            });
            if length.is_none_or(|length: usize| body.len() >= length) {
                return Some(text.into_owned());
            }
        }
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => received.extend_from_slice(&piece[..read]),
        }
    }
}

/// Sends pings over reused connections, as an edge does, until the wrapper no longer listens. Returns how many of
/// them got no response.
async fn ping_until_it_is_gone(client: Client, address: String, answered: Arc<AtomicUsize>) -> usize {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: {address}\r\nMcp-Session-Id: {}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
        client.session.unwrap(),
        body.len()
    );
    let (mut cut, mut was_taken) = (0, true);
    while let Ok(mut stream) = TcpStream::connect(&address).await {
        // If a request was sent on a new connection just before the listener closed, only the kernel received it.
        // It counts as cut only if another connection can be opened afterwards.
        cut += usize::from(!was_taken);
        was_taken = false;
        loop {
            let is_sent = stream.write_all(request.as_bytes()).await.is_ok();
            let answer = if is_sent { whole_answer(&mut stream).await } else { None };
            let Some(answer) = answer else {
                cut += usize::from(was_taken);
                break;
            };
            was_taken = true;
            answered.fetch_add(1, Ordering::Relaxed);
            if answer.to_ascii_lowercase().contains("connection: close") {
                break;
            }
        }
    }
    cut
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_cuts_no_request_that_an_edge_has_sent() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut edges = Vec::new();
    for _ in 0..8 {
        let client = wrapper.session_of_its_own().await;
        edges.push(tokio::spawn(ping_until_it_is_gone(client, wrapper.address.clone(), answered.clone())));
    }
    while answered.load(Ordering::Relaxed) < 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (code, _) = wrapper.terminate().await;
    assert_eq!(code, Some(0));
    let mut cut = 0;
    for edge in edges {
        cut += edge.await.unwrap();
    }
    assert_eq!(cut, 0, "of {} requests", answered.load(Ordering::Relaxed));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_for_a_reload_and_unknown_ones_do_not_end_the_wrapper() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    for (signal, name) in [(Signal::HUP, "SIGHUP"), (Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")] {
        wrapper.signal(signal);
        wrapper.logged(&format!("{name} is ignored")).await;
    }
    assert_eq!(client.text("echo", json!({"still": "here"})).await, r#"{"still": "here"}"#);
}
