//! Tests of attack 107: whatever a child does, its client immediately gets a clear response, other clients are not
//! affected, and no process is left behind. Many of the tests print a row of the table in docs/stdio-wrapper.md.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::starts;
use crate::wrapper::{Client, Events, Wrapper, answer_of, call, gone, is_alive};

fn row(what: &str, got: &str, since: Instant) {
    println!("| {what} | {got} | {:.0?} |", since.elapsed());
}

fn error_of(answer: &Value) -> String {
    answer["error"]["message"].as_str().unwrap_or_else(|| panic!("no error: {answer}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_crash_is_told_to_everyone_who_waits_at_once() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let waiting: Vec<_> = (0..8)
        .map(|id| {
            let client = client.clone();
            tokio::spawn(async move {
                answer_of(client.post(call(id, "sleep", json!({"seconds": 30}))).await).await
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    let answer = client.call("crash", json!({})).await;
    assert_eq!(error_of(&answer), "The MCP server exited before it answered (exit status: 3).");
    assert_eq!(answer["error"]["code"], -32603);
    for (id, answer) in join_all(waiting).await.into_iter().enumerate() {
        let answer = answer.unwrap();
        assert_eq!(answer["id"], id);
        assert!(error_of(&answer).contains("exited before it answered"));
    }
    row("exits while 9 calls wait", "9 × JSON-RPC error -32603 with the exit status", start);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(client.status_of_ping().await, 404, "the session ended with its child");
    assert_eq!(
        wrapper.session().await.text("echo", json!({})).await,
        "{}",
        "a new session has a fresh child"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_killed_child_is_told_with_its_signal() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let start = Instant::now();
    let answer = client.call("kill", json!({})).await;
    assert!(error_of(&answer).contains("signal: 9"), "{answer}");
    row("is killed", "JSON-RPC error -32603 with the signal", start);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_half_a_line_and_a_closed_output_are_a_dead_child() {
    let wrapper = Wrapper::start(&[], &[]).await;
    for (tool, what) in
        [("half", "writes half a line and exits"), ("close", "closes its output but continues to run")]
    {
        let client = wrapper.session().await;
        let start = Instant::now();
        let answer = client.call(tool, json!({})).await;
        assert!(error_of(&answer).contains("before it answered"), "{answer}");
        row(what, "JSON-RPC error -32603", start);
        assert!(start.elapsed() < Duration::from_secs(5));
        gone(client.server_pid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_junk_is_skipped_and_logged_and_invalid_utf8_is_put_right() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let start = Instant::now();
    assert_eq!(client.text("junk", json!({})).await, "after junk");
    row("writes lines that are not messages", "the answer; the lines are logged", start);
    assert_eq!(wrapper.metric("stdio_wrapper_child_junk_lines_total").await, 6);
    wrapper.logged("Listening on port 3000").await;
    let start = Instant::now();
    let events = Events::new(client.post(call(1, "utf8", json!({}))).await).rest().await;
    assert_eq!(events[1].data["params"]["data"], "\u{fffd}\u{fffd}\u{fffd}", "{events:?}");
    assert_eq!(events[2].data["result"]["content"][0]["text"], "after invalid UTF-8");
    row("writes invalid UTF-8", "the message with replacement characters", start);
    assert_eq!(wrapper.metric("stdio_wrapper_child_junk_lines_total").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_what_a_child_writes_neither_forges_lines_of_the_log_nor_reaches_a_terminal() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let junk =
        "trick \u{1b}]0;x\u{7} \r2026-11-29T03:06:28Z  INFO forged \u{9b}31m \u{2028} \u{85} end of it";
    let text = format!("{junk}\n{{\"jsonrpc\":\"2.0\",\"id\":{{ID}},\"result\":{{}}}}");
    client.call("raw", json!({"text": text})).await;
    let line = wrapper.logged("end of it").await;
    let is_harmful = |letter: char| letter.is_control() || letter == '\u{2028}';
    assert!(line.contains("trick") && !line.contains(is_harmful), "{line:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_large_lines_pass_up_to_the_limit_and_fail_clearly_beyond() {
    let wrapper = Wrapper::start(&["--max-line=16MiB"], &[]).await;
    let client = wrapper.session().await;
    for bytes in [64 << 10, 1 << 20, 15 << 20] {
        let start = Instant::now();
        assert_eq!(client.text("big", json!({"bytes": bytes})).await.len(), bytes);
        row(&format!("answers with a line of {} KiB", bytes >> 10), "the answer", start);
    }
    let start = Instant::now();
    let answer = client.call("big", json!({"bytes": 24 << 20})).await;
    assert!(error_of(&answer).contains("over the limit"), "{answer}");
    row("answers with a line of 24 MiB (limit 16 MiB)", "JSON-RPC error -32603 that names MAX_LINE", start);
    assert_eq!(client.text("echo", json!({})).await, "{}", "the session continues");
    let memory = wrapper.metric("process_resident_memory_bytes").await;
    assert!(memory < 120 << 20, "{memory}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_flood_on_stderr_blocks_nothing_and_is_not_all_logged() {
    let wrapper = Wrapper::start(&["--stderr-rate=50"], &[]).await;
    let client = wrapper.session().await;
    let start = Instant::now();
    assert_eq!(client.text("stderr", json!({"mib": 20})).await, "after stderr");
    row("writes 21 MiB to standard error", "the answer; 50 lines a second are logged", start);
    assert!(wrapper.metric("stdio_wrapper_child_stderr_suppressed_total").await > 10_000);
    assert!(wrapper.log().len() < 2000, "{}", wrapper.log().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_orphans_and_workers_end_with_the_session() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let orphan: i32 = client.text("orphan", json!({"seconds": 1000})).await.parse().unwrap();
    let workers: Vec<i32> =
        serde_json::from_str(&client.text("workers", json!({"count": 20})).await).unwrap();
    let other = wrapper.session().await;
    let spared: i32 = other.text("orphan", json!({"seconds": 1000})).await.parse().unwrap();
    assert!(is_alive(orphan) && workers.iter().all(|pid| is_alive(*pid)));
    let start = Instant::now();
    assert_eq!(client.delete().await, 204);
    for pid in workers.into_iter().chain([orphan, client.server_pid]) {
        gone(pid).await;
    }
    row("leaves 20 workers and a detached process behind (DELETE)", "204; all of them were ended", start);
    assert!(is_alive(spared), "the process of another session keeps running");
    other.call("crash", json!({})).await;
    gone(spared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_processes_without_environment_end_with_their_session_and_with_the_wrapper() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let early = wrapper.session().await;
    let spared: i32 = early.text("bare worker", json!({})).await.parse().unwrap();
    let client = wrapper.session().await;
    let worker: i32 = client.text("bare worker", json!({})).await.parse().unwrap();
    assert_eq!(client.delete().await, 204);
    gone(worker).await;
    assert!(is_alive(spared), "the process of another session keeps running");
    assert_eq!(early.delete().await, 204);
    gone(spared).await;
    let last: i32 = client_with_worker(&wrapper).await;
    wrapper.terminate().await;
    gone(last).await;
}

/// Starts a process without an environment in a new session, which stays open. Returns the process id.
async fn client_with_worker(wrapper: &Wrapper) -> i32 {
    wrapper.session().await.text("bare worker", json!({})).await.parse().unwrap()
}

/// Makes the child start a process that detaches immediately and has only these environment variables. Returns the
/// process id.
async fn orphan(client: &Client, env: Value) -> i32 {
    client.text("orphan", json!({"seconds": 1000, "env": env})).await.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_what_detaches_from_a_child_ends_with_its_session_also_while_older_ones_live() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let older = wrapper.session().await;
    let spared = orphan(&older, json!({})).await;
    for env in [
        json!({}),
        json!({"STDIO_WRAPPER_CHILD": format!("{}-0", wrapper.pid())}),
        json!({"STDIO_WRAPPER_CHILD": format!("{}-1", wrapper.pid())}),
    ] {
        let client = wrapper.session().await;
        let left = orphan(&client, env.clone()).await;
        assert!(is_alive(left), "{env}");
        assert_eq!(client.delete().await, 204);
        gone(left).await;
        let client = wrapper.session().await;
        let left = orphan(&client, env.clone()).await;
        client.call("crash", json!({})).await;
        gone(left).await;
    }
    assert!(is_alive(spared) && is_alive(older.server_pid), "the processes of another session keep running");
    wrapper.terminate().await;
    gone(spared).await;
}

/// Whether any process has `mark` as an argument.
fn is_anywhere(mark: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let mut commands = processes.filter_map(|process| std::fs::read_to_string(process.join("cmdline")).ok());
    commands.any(|command| command.split('\0').any(|argument| argument == mark))
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_process_that_forks_and_exits_over_and_over_is_caught() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let older = wrapper.session().await;
    let client = wrapper.session().await;
    let mark = format!("runner-of-{}", wrapper.pid());
    client.text("runner", json!({"mark": mark})).await;
    assert!((0..1000).any(|_| is_anywhere(&mark)));
    assert_eq!(client.delete().await, 204);
    gone(client.server_pid).await;
    wrapper.metric_becomes("stdio_wrapper_children", 1).await;
    assert!(!(0..200).any(|_| is_anywhere(&mark)), "the process outlived its session");
    assert_eq!(older.text("echo", json!({})).await, "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_wrapper_that_is_killed_leaves_nothing_behind() {
    let wrapper = Wrapper::start(&["--prewarm=1"], &["--ignores-eof", "--ignores-sigterm"]).await;
    let client = wrapper.session().await;
    let left = orphan(&client, json!({})).await;
    let worker: i32 = client.text("bare worker", json!({})).await.parse().unwrap();
    wrapper.signal(Signal::KILL);
    for pid in [client.server_pid, left, worker] {
        gone(pid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_child_that_kills_what_watches_over_it_ends_with_all_that_it_has_started() {
    // The test itself sends these signals, because a child could send them only without isolation.
    let wrapper = Wrapper::start(&["--child-isolation=off"], &[]).await;
    let older = wrapper.session().await;
    let client = wrapper.session().await;
    let left = orphan(&client, json!({})).await;
    let watcher = parent(client.server_pid);
    assert_ne!(watcher, wrapper.pid(), "the parent of a child must be a supervisor");
    for signal in [Signal::STOP, Signal::KILL] {
        rustix::process::kill_process(Pid::from_raw(watcher).unwrap(), signal).unwrap();
    }
    for pid in [client.server_pid, left] {
        gone(pid).await;
    }
    assert_eq!(older.text("echo", json!({})).await, "{}");
    // A stopped supervisor cannot terminate its child, so the wrapper terminates the supervisor.
    let stopped = wrapper.session().await;
    let left = orphan(&stopped, json!({})).await;
    rustix::process::kill_process(Pid::from_raw(parent(stopped.server_pid)).unwrap(), Signal::STOP).unwrap();
    assert_eq!(stopped.delete().await, 204);
    for pid in [stopped.server_pid, left] {
        gone(pid).await;
    }
}

/// The parent of a process (`proc_pid_stat(5)`).
fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_takes_a_child_before_the_wrapper_when_memory_ends() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let of = |pid: i32| -> i32 {
        std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    };
    let own = of(wrapper.pid());
    assert_eq!(of(client.server_pid), (own + 500).min(1000));
    let worker: i32 = client.text("bare worker", json!({})).await.parse().unwrap();
    assert_eq!(of(worker), of(client.server_pid));
    assert_eq!(of(parent(client.server_pid)), own, "the supervisor must not end before the wrapper");
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_child_that_ignores_everything_is_killed() {
    let wrapper = Wrapper::start(&["--stop-grace=300ms"], &["--ignores-sigterm"]).await;
    let client = wrapper.session().await;
    let start = Instant::now();
    assert_eq!(client.delete().await, 204);
    gone(client.server_pid).await;
    row("ignores the end of its input and SIGTERM (grace 300 ms, DELETE)", "204; killed", start);
    assert!(start.elapsed() < Duration::from_secs(8));
    wrapper.metric_becomes("stdio_wrapper_children_killed_total", 1).await;
    let wrapper = Wrapper::start(&["--stop-grace=300ms"], &["--ignores-eof"]).await;
    let client = wrapper.session().await;
    client.delete().await;
    gone(client.server_pid).await;
    assert_eq!(wrapper.metric("stdio_wrapper_children_killed_total").await, 0, "SIGTERM was enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_child_that_does_not_read_holds_up_its_own_callers_only() {
    let wrapper = Wrapper::start(&["--request-timeout=1s", "--max-body=4MiB"], &[]).await;
    let client = wrapper.session().await;
    let other = wrapper.session().await;
    assert_eq!(client.text("deaf", json!({})).await, "deaf now");
    let start = Instant::now();
    let big = "x".repeat(3 << 20);
    let answers = join_all((0..8).map(|id| {
        let client = client.clone();
        let body = call(id, "echo", json!(big));
        async move { answer_of(client.post(body).await).await }
    }))
    .await;
    assert!(answers.iter().all(|answer| answer["error"]["code"] == -32603));
    row("stops reading its input (timeout 1 s, 8 × 3 MiB)", "JSON-RPC error -32603 after the timeout", start);
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(other.text("echo", json!({})).await, "{}");
    assert!(wrapper.metric("process_resident_memory_bytes").await < 150 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_late_answer_is_an_error_and_the_child_is_told() {
    let wrapper = Wrapper::start(&["--request-timeout=500ms"], &[]).await;
    let client = wrapper.session().await;
    let start = Instant::now();
    let answer = client.call("sleep", json!({"seconds": 3})).await;
    assert_eq!(
        error_of(&answer),
        "The MCP server did not answer within 0.5 s. If it needs more time, its operator can raise REQUEST_TIMEOUT."
    );
    // The operator learns which call failed, and how to change that.
    let line = wrapper.logged("did not answer a request in time").await;
    for part in ["WARN", "child", "tools/call", "sleep", "waited_seconds", "raise REQUEST_TIMEOUT"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    row("does not answer (timeout 500 ms)", "JSON-RPC error -32603", start);
    wrapper.logged("notifications/cancelled").await;
    // Each progress notification restarts the time limit.
    let params =
        json!({"name": "progress", "arguments": {"steps": 12, "pause": 0.1}, "_meta": {"progressToken": 1}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    assert_eq!(answer_of(client.post(body).await).await["result"]["content"][0]["text"], "done");
}

async fn failed_initialize(client: &Client) -> (u16, Option<String>, Value) {
    let response = client.try_initialize("2025-11-25").await;
    let status = response.status().as_u16();
    let session = response.headers().get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
    (status, session, answer_of(response).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_child_that_dies_at_start_is_told_and_then_backed_off_from() {
    let wrapper = Wrapper::start(&["--stream-after=30s"], &["--dies"]).await;
    for _ in 0..3 {
        let start = Instant::now();
        let (status, session, answer) = failed_initialize(&wrapper.client()).await;
        assert_eq!((status, session), (200, None));
        assert!(error_of(&answer).contains("exit status: 7"), "{answer}");
        row("dies at start", "JSON-RPC error -32603 with the exit status", start);
        assert!(start.elapsed() < Duration::from_secs(15));
    }
    let start = Instant::now();
    let (status, _, answer) = failed_initialize(&wrapper.client()).await;
    assert_eq!(status, 503);
    assert!(error_of(&answer).contains("keeps failing"), "{answer}");
    row("dies at start for the fourth time in a row", "503 with Retry-After; no process is started", start);
    assert_eq!(wrapper.ops_status("/ready").await, 503);
    assert_eq!(wrapper.ops_status("/health").await, 200);
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, 3);
    wrapper.metric_becomes("stdio_wrapper_sessions", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_child_that_never_answers_initialize_or_refuses_it_opens_no_session() {
    let wrapper =
        Wrapper::start(&["--start-timeout=500ms", "--stream-after=30s"], &["--never-answers"]).await;
    let start = Instant::now();
    let (status, session, answer) = failed_initialize(&wrapper.client()).await;
    assert_eq!((status, session), (200, None));
    assert!(error_of(&answer).contains("did not answer within"), "{answer}");
    assert!(error_of(&answer).contains("its operator can raise START_TIMEOUT"), "{answer}");
    let told =
        |wrapper: &Wrapper| wrapper.log().iter().filter(|line| line.contains("raise START_TIMEOUT")).count();
    wrapper.logged("raise START_TIMEOUT").await;
    assert_eq!(told(&wrapper), 1, "{:?}", wrapper.log());
    row("never answers initialize (START_TIMEOUT 500 ms)", "JSON-RPC error -32603, no session", start);
    let start = Instant::now();
    let (status, _, answer) = failed_initialize(&wrapper.client()).await;
    assert_eq!(status, 503);
    assert!(error_of(&answer).contains("did not answer initialize within 0.5 s"), "{answer}");
    row("did not answer initialize a moment ago", "503 with Retry-After; no process is started", start);
    assert_eq!(wrapper.metric("stdio_wrapper_children_started_total").await, 1);
    wrapper.metric_becomes("stdio_wrapper_children", 0).await;
    let wrapper = Wrapper::start(&["--stream-after=30s"], &["--refuses"]).await;
    let (_, session, answer) = failed_initialize(&wrapper.client()).await;
    assert_eq!((session, error_of(&answer)), (None, "refused on purpose".to_owned()));
    wrapper.metric_becomes("stdio_wrapper_children", 0).await;
    wrapper.metric_becomes("stdio_wrapper_sessions", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_before_it_knows_its_session_leaves_none_behind() {
    // The session must end long before START_TIMEOUT, which is 45 s.
    for options in [&["--translate=true"], &["--translate=false"]] {
        let wrapper = Wrapper::start(options, &["--never-answers"]).await;
        let client = wrapper.client();
        let gone = tokio::spawn(async move { client.try_initialize("2025-11-25").await });
        wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 1).await;
        gone.abort();
        wrapper.metric_becomes("stdio_wrapper_sessions", 0).await;
        wrapper.metric_becomes("stdio_wrapper_children", 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_whoever_waits_for_a_child_that_never_answers_is_told_when_its_time_is_over() {
    let wrapper = starts::wrapper(&["--start-timeout=5s"]).await;
    // In an earlier version, a client that waited for the child could be forgotten between the child's timeout and
    // the end of its session. The attempts run one after another, because an otherwise idle wrapper notifies the
    // client at exactly that moment.
    for number in 0..3 {
        // After a server has failed to respond, the wrapper refuses sessions for a while. Therefore each
        // attempt is for another user, and is preceded by a working session.
        let alice = starts::caller(&wrapper, "alice").initialize("2025-11-25").await;
        assert_eq!(alice.delete().await, 204);
        let mallory = starts::caller(&wrapper, &format!("mallory-{number}"));
        let failed = failed_initialize(&mallory);
        let response = tokio::time::timeout(Duration::from_secs(12), failed).await;
        // A client that is forgotten gets its response only after 15 s.
        let (status, session, answer) = response.expect("every client gets a response in time");
        assert_eq!((status, session), (200, None));
        assert!(error_of(&answer).contains("did not answer within"), "{answer}");
    }
    assert!(wrapper.log().iter().any(|line| line.contains("raise START_TIMEOUT")), "{:?}", wrapper.log());
    wrapper.metric_becomes("stdio_wrapper_sessions", 0).await;
}

/// Starts a call with a long stream, and reads only the first three events.
async fn slow_reader(client: &Client) -> Events {
    let mut events =
        Events::new(client.post(call(1, "log", json!({"lines": 3000, "padding": 20_000}))).await);
    for _ in 0..3 {
        events.next().await.unwrap();
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a107_a_client_that_does_not_read_holds_its_child_back_and_costs_no_memory() {
    let wrapper = Wrapper::start(&["--event-log=256KiB"], &[]).await;
    let client = wrapper.session().await;
    let other = wrapper.session().await;
    let events = slow_reader(&client).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let memory = wrapper.metric("process_resident_memory_bytes").await;
    assert!(memory < 60 << 20, "60 MB must wait in the child instead of the wrapper: {memory}");
    assert_eq!(other.text("echo", json!({})).await, "{}");
    // When the client continues to read, it receives everything.
    let rest = events.rest().await;
    assert_eq!(rest.iter().filter(|event| event.data["method"] == "notifications/message").count(), 3000 - 2);
    assert_eq!(rest.last().unwrap().data["id"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_kernel_hold_for_the_child() {
    let wrapper = Wrapper::start(
        &["--child-cpu=77", "--child-files=64", "--child-memory=2GiB", "--child-processes=500"],
        &[],
    )
    .await;
    let client = wrapper.session().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", client.server_pid)).unwrap();
    for (name, value) in [
        ("Max cpu time", "77"),
        ("Max open files", "64"),
        ("Max address space", "2147483648"),
        ("Max processes", "500"),
        ("Max core file size", "0"),
    ] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.split_whitespace().any(|word| word == value), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_low_limit_of_open_files_is_the_childs_and_not_ours() {
    let wrapper = Wrapper::with_files(64).await;
    // The wrapper opens two files for each connection, so it needs more than 64.
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(tokio::net::TcpStream::connect(&wrapper.address).await.unwrap());
    }
    let client = wrapper.session().await;
    assert_eq!(client.text("echo", json!({})).await, "{}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", client.server_pid)).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("64"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banner_is_logged_in_short_and_the_reason_of_a_failure_in_full() {
    let shown = |wrapper: &Wrapper| {
        let log = wrapper.log();
        log.iter().filter(|line| line.contains("banner line") && line.contains("INFO")).count()
    };
    let wrapper = Wrapper::start(&["--log=debug"], &["--wordy"]).await;
    let client = wrapper.session().await;
    // The child logs this notification after its banner. Once the log contains it, the wrapper has read the whole
    // banner.
    client.post(r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#).await;
    assert!(
        wrapper.logged("roots/list_changed").await.contains("INFO"),
        "output after the child's first response is logged"
    );
    assert_eq!(shown(&wrapper), 3);
    let failing = Wrapper::start(&[], &["--wordy", "--dies"]).await;
    assert_eq!(failing.client().try_initialize("2025-11-25").await.status(), 200);
    failing.logged("banner line 20").await;
    assert_eq!(shown(&failing), 20);
}

/// Two children can send open files to each other over a socket in the file system.
#[tokio::test(flavor = "multi_thread")]
async fn a107_pipes_that_a_child_has_given_to_another_one_are_closed_when_it_has_ended() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("door");
    let (keeper, lender) = (wrapper.session().await, wrapper.session_of_its_own().await);
    keeper.text("borrow", json!({"path": path})).await;
    lender.text("lend", json!({"path": path})).await;
    assert_eq!(lender.delete().await, 204);
    for _ in 0..400 {
        if keeper.text("borrowed", json!({})).await == r#"["writes", "EPIPE", "EPIPE"]"# {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the pipes are still open: {}", keeper.text("borrowed", json!({})).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_user_of_a_child_and_the_limit_that_might_be_too_low_for_it() {
    let limits = ["--identity=headers", "--child-cpu=77"];
    let wrapper = Wrapper::start(&limits, &[]).await;
    let client = wrapper.client().with_header("x-auth-subject", "u-1").initialize("2025-11-25").await;
    assert!(wrapper.logged("notified ").await.contains(r#""user":"u-1""#));
    answer_of(client.post(call(1, "crash", json!({}))).await).await;
    let crashed = wrapper.logged("child exited without being stopped").await;
    assert!(crashed.contains(r#""user":"u-1""#) && !crashed.contains("CHILD_CPU"), "{crashed}");
    let failing = Wrapper::start(&limits, &["--dies"]).await;
    failing.client().with_header("x-auth-subject", "u-2").try_initialize("2025-11-25").await;
    let exited = failing.logged("child exited without being stopped").await;
    assert!(exited.contains(r#""user":"u-2""#) && exited.contains("CHILD_CPU might be too low"), "{exited}");
    let unlimited = Wrapper::start(&[], &["--dies"]).await;
    unlimited.client().try_initialize("2025-11-25").await;
    let exited = unlimited.logged("child exited without being stopped").await;
    assert!(!exited.contains("too low"), "{exited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_child_that_never_answers_initialize_is_logged_like_any_other() {
    let options = ["--shared", "--start-timeout=500ms", "--stream-after=30s"];
    let wrapper = Wrapper::start(&options, &["--never-answers"]).await;
    failed_initialize(&wrapper.client()).await;
    let line = wrapper.logged("raise START_TIMEOUT").await;
    assert!(line.contains("0.5 s") && line.contains("\"level\":\"WARN\""), "{line}");
}
