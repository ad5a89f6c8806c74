//! Tests that clients cannot hold memory or connections forever at either listener by sending slowly, sending
//! nothing, not reading, or opening many connections at the same time.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::modern;
use crate::wrapper::{Client, Events, Wrapper, call};

/// Sends these bytes and nothing more.
fn send(address: &str, text: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    // This is much longer than all of the wrapper's own limits, so a test fails if its connection is not closed.
    stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    // The other side might already have closed the connection.
    let _ = stream.write_all(text);
    stream
}

/// Reads until the other side closes the connection. Panics if it stays open.
async fn until_closed(mut stream: TcpStream) -> String {
    let read = move || {
        let mut out = Vec::new();
        match stream.read_to_end(&mut out) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the connection stays open")
            }
            _ => String::from_utf8_lossy(&out).into_owned(),
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// A client with the headers that the edge proxy sends for this user.
pub(crate) fn caller(wrapper: &Wrapper, who: &str) -> Client {
    let headers = [("subject", who), ("client-id", "c"), ("username", who), ("groups", ""), ("scope", "")];
    headers
        .iter()
        .fold(wrapper.client(), |client, (name, value)| client.with_header(&format!("x-auth-{name}"), value))
}

/// The head of a POST request with a body of this length.
fn head(address: &str, length: usize) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: */*\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_given_up_and_so_is_a_head() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let stalled = send(&wrapper.address, (head(&wrapper.address, 60_000) + "{").as_bytes());
    let half_a_head = send(&wrapper.address, b"POST /mcp HTTP/1.1\r\nHost: loc");
    let nothing = send(&wrapper.address, b"");
    let answer = until_closed(stalled).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("16 KiB per second"), "{answer}");
    until_closed(half_a_head).await;
    until_closed(nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_does_not_hold_its_connection_until_its_body_comes() {
    let wrapper = Wrapper::start(&["--identity=headers"], &[]).await;
    let refused = [
        head(&wrapper.address, 60_000),
        head(&wrapper.address, 60_000).replace("POST /mcp", "POST /nothing"),
        head(&wrapper.address, 60_000).replace("POST /mcp", "PUT /mcp"),
        head(&wrapper.address, 60_000).replace("Content-Length: 60000", "Transfer-Encoding: chunked"),
    ];
    for request in refused {
        let answer = until_closed(send(&wrapper.address, request.as_bytes())).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{request}: {answer}");
    }
    for framing in ["Content-Length: 60000", "Transfer-Encoding: chunked"] {
        let request = format!("GET /health HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n");
        let answer = until_closed(send(&wrapper.ops, request.as_bytes())).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{framing}: {answer}");
    }
    until_closed(send(&wrapper.ops, b"GET /metrics HTTP/1.1\r\nHos")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_held_back_have_a_ceiling_together() {
    let wrapper = Wrapper::start(&["--max-body=1MiB"], &[]).await;
    let idle = wrapper.metric("process_resident_memory_bytes").await;
    // The total size of the bodies is 54 MB. The wrapper keeps at most 32 MiB of them.
    let body = vec![b' '; 900_000];
    let (address, flood) = (wrapper.address.clone(), 60);
    let streams = tokio::task::spawn_blocking(move || {
        let request = [head(&address, 1_000_000).into_bytes(), body].concat();
        (0..flood).map(|_| send(&address, &request)).collect::<Vec<_>>()
    });
    let mut answers = Vec::new();
    let mut memory = 0;
    for stream in streams.await.unwrap() {
        memory = memory.max(wrapper.metric("process_resident_memory_bytes").await);
        answers.push(until_closed(stream).await);
    }
    let refused = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 503 ")).count();
    let late = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 408 ")).count();
    assert!(refused >= 20 && refused + late <= flood, "{refused} refused, {late} late: {answers:?}");
    assert!(memory < idle + (80 << 20), "{memory} after {idle}");
    assert_eq!(wrapper.session().await.text("echo", json!({})).await, "{}", "the memory was released");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_second_head_does_not_hold_its_connection() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let started = Instant::now();
    let half = "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHos";
    let held = [&wrapper.address, &wrapper.ops].map(|address| send(address, half.as_bytes()));
    for stream in held {
        let answer = until_closed(stream).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    // The wrapper does not close a connection while it is in use.
    let client = wrapper.session().await;
    assert_eq!(client.text("sleep", json!({"seconds": 18})).await, "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_one_principal_leave_room_for_those_of_others() {
    let wrapper = Wrapper::start(&["--identity=headers", "--max-body=1MiB"], &[]).await;
    let of = |who: &str| caller(&wrapper, who);
    let bob = of("bob").initialize("2025-11-25").await;
    let request = head(&wrapper.address, 1_000_000)
        .replace("\r\n\r\n", "\r\nX-Auth-Subject: ana\r\nX-Auth-Client-Id: c\r\nX-Auth-Username: ana\r\nX-Auth-Groups: \r\nX-Auth-Scope: \r\n\r\n");
    let request = [request.into_bytes(), vec![b' '; 900_000]].concat();
    let address = wrapper.address.clone();
    let held =
        tokio::task::spawn_blocking(move || (0..40).map(|_| send(&address, &request)).collect::<Vec<_>>());
    let held = held.await.unwrap();
    let large = "x".repeat(900_000);
    assert!(bob.text("echo", json!({"text": large})).await.contains(&large));
    let mut refused = 0;
    for stream in held {
        refused += usize::from(until_closed(stream).await.starts_with("HTTP/1.1 503 "));
    }
    assert!(refused >= 30, "{refused}");
}

/// Sends a POST in a session on a separate connection, and does not read the response.
pub(crate) fn post_and_not_read(client: &Client, address: &str, body: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
    (&stream).write_all(post(client, address, body).as_bytes()).unwrap();
    stream
}

/// A POST in a session.
fn post(client: &Client, address: &str, body: &str) -> String {
    let mut request = head(address, body.len());
    let headers = client.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let session = client.session.as_ref().map(|session| format!("Mcp-Session-Id: {session}\r\n"));
    let session = format!("\r\n{}", session.unwrap_or_default());
    request = request.replacen("\r\n", &(session + &headers.collect::<String>()), 1);
    request + body
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_their_answers_hold_neither_connections_nor_memory() {
    let wrapper = Wrapper::start(&["--max-connections=20", "--workers=1"], &[]).await;
    let client = wrapper.session().await;
    let idle = wrapper.metric("process_resident_memory_bytes").await;
    let body = call(1, "big", json!({"bytes": 8_000_000}));
    let held: Vec<TcpStream> = (0..25).map(|_| post_and_not_read(&client, &wrapper.address, &body)).collect();
    let started = Instant::now();
    // The first client's connection might be one of the twenty, so the test opens another one.
    let other = wrapper.session_of_its_own().await;
    assert_eq!(other.text("echo", json!({})).await, "{}");
    assert!(started.elapsed() < Duration::from_secs(59), "{:?}", started.elapsed());
    drop(held);
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 0).await;
    memory_becomes(&wrapper, idle + (60 << 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_requests_before_the_last_response_was_read_are_not_answered() {
    let wrapper = Wrapper::start(&["--identity=headers"], &[]).await;
    let before = wrapper.metric("process_open_fds").await;
    let all = 5000;
    let unread = |address: &str, request: &str| {
        let stream = TcpStream::connect(address).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
        let text = request.replace("\r\n", &format!("\r\nHost: {address}\r\n")) + "\r\n";
        // The other side might close the connection in the meantime.
        let _ = (&stream).write_all(text.repeat(all).as_bytes());
        stream
    };
    // Requests from strangers are refused with 401.
    let strangers = unread(&wrapper.address, "DELETE /mcp HTTP/1.1\r\n");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let answered = wrapper.metric("stdio_wrapper_http_requests_total").await;
    assert!(answered < all as u64 / 2, "{answered} requests got responses, and no response was read");
    drop(strangers);
    wrapper.metric_becomes("process_open_fds", before).await;
    let operators = unread(&wrapper.ops, "GET /metrics HTTP/1.1\r\n");
    wrapper.metric_becomes("process_open_fds", before).await;
    let mut text = Vec::new();
    // The connection might have been reset.
    let _ = (&operators).read_to_end(&mut text);
    let responses = String::from_utf8_lossy(&text).matches("HTTP/1.1 200").count();
    assert!(responses <= 1, "{responses} responses");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_can_send_requests_ahead() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let request = format!("DELETE /mcp HTTP/1.1\r\nHost: {}\r\n\r\n", wrapper.address);
    let last = request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let answers = until_closed(send(&wrapper.address, (request.repeat(20) + &last).as_bytes())).await;
    assert_eq!(answers.matches("HTTP/1.1 400 ").count(), 21, "{answers}");
}

/// The next request arrives while the kernel accepts no more of the response to the previous one.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_can_send_a_request_ahead_of_a_large_response() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let stream = post_and_not_read(&client, &wrapper.address, &call(1, "big", json!({"bytes": 1_000_000})));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let last = post(&client, &wrapper.address, &call(2, "echo", json!({"text": "the last one"})));
    let last = last.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    (&stream).write_all(last.as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answers = until_closed(stream).await;
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 2, "{} bytes", answers.len());
    assert!(answers.len() > 1_000_000 && answers.contains("the last one"), "{} bytes", answers.len());
}

/// The number of the listener's connections with unsent bytes in the kernel, and the total number of these
/// bytes.
fn queued(address: &str) -> (usize, u64) {
    let port = address.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // The fields are the local address, the state, and the number of unsent bytes (`proc(5)`).
    let ours = lines.filter(|line| line[1].ends_with(&format!(":{port:04X}")) && line[3] == "01");
    let sizes: Vec<u64> =
        ours.map(|line| u64::from_str_radix(line[4].split(':').next().unwrap(), 16).unwrap()).collect();
    (sizes.iter().filter(|size| **size > 0).count(), sizes.iter().sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_holds_little_of_answers_that_are_not_read() {
    let wrapper = Wrapper::start(&[], &[]).await;
    let client = wrapper.session().await;
    let body = call(1, "big", json!({"bytes": 4_000_000}));
    let held: Vec<TcpStream> = (0..10).map(|_| post_and_not_read(&client, &wrapper.address, &body)).collect();
    let mut waiting = 0;
    for _ in 0..400 {
        waiting = queued(&wrapper.address).0;
        if waiting == held.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(waiting, held.len());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, bytes) = queued(&wrapper.address);
    // Up to 64 KiB of each were sent before the client had so little room, and are still on their way.
    assert!(bytes < held.len() as u64 * (80 << 10), "{bytes}");
}

/// Waits until the wrapper uses no more memory than this.
async fn memory_becomes(wrapper: &Wrapper, most: u64) {
    let mut memory = 0;
    for _ in 0..500 {
        memory = wrapper.metric("process_resident_memory_bytes").await;
        if memory <= most {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the wrapper still uses {memory} bytes, which are more than {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_many_answers_that_nobody_read_is_given_back_within_a_minute() {
    // Each connection needs two open files in the wrapper and one in the test.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: files.maximum, maximum: files.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let wrapper = Wrapper::start(&[], &[]).await;
    let (ana, bob) = (wrapper.session().await, wrapper.session().await);
    let idle = wrapper.metric("process_resident_memory_bytes").await;
    let body = call(1, "big", json!({"bytes": 31 << 10, "pause": 1}));
    let held: Vec<TcpStream> = (0..900)
        .map(|number| if number % 2 == 0 { &ana } else { &bob })
        .map(|client| post_and_not_read(client, &wrapper.address, &body))
        .collect();
    wrapper.metric_at_least("stdio_wrapper_requests_total", 902).await;
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 0).await;
    assert!(wrapper.metric("process_resident_memory_bytes").await > 2 * idle, "responses use memory");
    drop(held);
    assert_eq!((ana.delete().await, bob.delete().await), (204, 204));
    let given_back = async { memory_becomes(&wrapper, 2 * idle).await };
    tokio::time::timeout(Duration::from_secs(60), given_back).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_for_clients_that_may_come_back_do_not_pile_up() {
    let wrapper = Wrapper::start(&["--stream-after=50ms"], &[]).await;
    let client = wrapper.session().await;
    let idle = wrapper.metric("process_resident_memory_bytes").await;
    let mut last = String::new();
    for pause in [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 9] {
        let body = call(1, "big", json!({"bytes": 8_000_000, "pause": pause}));
        last = Events::new(client.post(body).await).next().await.unwrap().id.unwrap();
    }
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 0).await;
    memory_becomes(&wrapper, idle + (50 << 20)).await;
    // The response to the last call is still kept.
    let kept = Events::new(client.get(Some(&last)).await).rest().await;
    assert!(kept.last().unwrap().data.to_string().len() > 8_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_one_principal_does_not_read_leave_room_for_those_of_others() {
    let wrapper = Wrapper::start(&["--identity=headers", "--max-line=8MiB"], &[]).await;
    let of = |who: &str| caller(&wrapper, who);
    let (ana, bob) = (of("ana").initialize("2025-11-25").await, of("bob").initialize("2025-11-25").await);
    // Each caller can use 32 MiB of the 128 MiB. Four of these responses fit, and a fifth one does not.
    let body = call(1, "big", json!({"bytes": 7_900_000}));
    let held: Vec<TcpStream> = (0..4).map(|_| post_and_not_read(&ana, &wrapper.address, &body)).collect();
    wrapper.metric_at_least("stdio_wrapper_requests_total", 6).await;
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 0).await;
    let refused = ana.call("big", json!({"bytes": 7_900_000})).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("waiting to be read"), "{refused}");
    assert_eq!(bob.text("big", json!({"bytes": 7_900_000})).await.len(), 7_900_000);
    assert_eq!(ana.text("echo", json!({})).await, "{}");
    drop(held);
    assert_eq!(ana.text("big", json!({"bytes": 7_900_000})).await.len(), 7_900_000);
    // Translated responses count as well. This call starts their child, and the requests of the start are counted, too.
    let (_, echo) = modern::call(&of("ana"), "echo", json!({})).await;
    assert!(echo["result"].is_object(), "{echo}");
    let body = modern::request(1, "tools/call", json!({"name": "big", "arguments": {"bytes": 7_900_000}}));
    let stateless = modern::with_headers(&of("ana"), &body);
    let mut held = Vec::new();
    for _ in 0..4 {
        let before = wrapper.metric("stdio_wrapper_requests_total").await;
        held.push(post_and_not_read(&stateless, &wrapper.address, &body.to_string()));
        wrapper.metric_at_least("stdio_wrapper_requests_total", before + 1).await;
        wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 0).await;
    }
    let (_, refused) = modern::call(&of("ana"), "big", json!({"bytes": 7_900_000})).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("waiting to be read"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_an_answer_that_is_not_utf_8_is_counted_with_the_copy_that_is_made_of_it() {
    let wrapper = Wrapper::start(&["--identity=headers", "--max-line=1MiB"], &[]).await;
    let ana = caller(&wrapper, "ana").initialize("2025-11-25").await;
    // Each of these bytes becomes a character of three bytes. The line and its copy take almost 4 MiB, which is
    // the limit for one user.
    let line =
        format!(r#"{{"jsonrpc":"2.0","id":{{ID}},"result":{{"content":"{}"}}}}"#, "ÿ".repeat(1_000_000));
    let broken = json!({"text": line, "encoding": "latin-1"});
    let held = post_and_not_read(&ana, &wrapper.address, &call(1, "big", json!({"bytes": 900_000})));
    wrapper.metric_at_least("stdio_wrapper_requests_total", 2).await;
    wrapper.metric_becomes("stdio_wrapper_requests_in_flight", 0).await;
    let refused = ana.call("raw", broken.clone()).await;
    assert!(refused["error"]["message"].as_str().unwrap().contains("waiting to be read"), "{refused}");
    drop(held);
    let text = ana.call("raw", broken).await["result"]["content"].as_str().unwrap().to_owned();
    assert_eq!((text.len(), text.chars().next()), (3_000_000, Some('\u{fffd}')));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_have_a_ceiling_and_those_beyond_it_wait() {
    let wrapper = Wrapper::start(&["--max-connections=20", "--workers=1"], &[]).await;
    let before = wrapper.metric("process_open_fds").await;
    let request = head(&wrapper.address, 60_000);
    let streams: Vec<TcpStream> = (0..200).map(|_| send(&wrapper.address, request.as_bytes())).collect();
    wrapper.metric_at_least("process_open_fds", before + 20).await;
    let open = wrapper.metric("process_open_fds").await;
    // Each connection uses two open files, and a few more connections might be about to open.
    assert!(open <= before + 2 * 24, "{open} open files after {before}");
    assert_eq!(wrapper.ops_status("/health").await, 200, "the operator's listener has its own connections");
    drop(streams);
    assert_eq!(wrapper.session().await.text("echo", json!({})).await, "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_translated_call_that_waits_does_not_keep_its_body() {
    let wrapper = Wrapper::start(&["--max-in-flight=100"], &[]).await;
    let client = wrapper.client();
    modern::text(&client, "echo", json!({})).await;
    let idle = wrapper.metric("process_resident_memory_bytes").await;
    // Many small members cause the largest overhead in a parsed tree.
    let padding = r#","a":1"#.repeat(1 << 15);
    let mut calls = Vec::new();
    for _ in 0..40 {
        let message =
            modern::request(1, "tools/call", json!({"name": "sleep", "arguments": {"seconds": 50}}));
        let client = modern::with_headers(&client, &message);
        let body =
            message.to_string().replacen(r#""name":"sleep""#, &format!(r#""name":"sleep"{padding}"#), 1);
        calls.push(tokio::spawn(async move { client.post(body).await }));
        // The bodies are sent one after another. Otherwise, a busy machine might have to keep many of them at
        // once, and refuse some.
        wrapper.metric_becomes("stdio_wrapper_requests_in_flight", calls.len() as u64).await;
    }
    // The allocator keeps about as much memory as was sent. If the wrapper kept the bodies, it would use twice as
    // much.
    memory_becomes(&wrapper, idle + 3 * 40 * padding.len() as u64 / 2).await;
    for call in calls {
        call.abort();
    }
}

/// Opens sessions whose children no longer read their input.
async fn deaf_sessions(wrapper: &Wrapper, who: &str, count: usize) -> Vec<Client> {
    let mut all = Vec::new();
    for _ in 0..count {
        let client = caller(wrapper, who).initialize("2025-11-25").await;
        assert_eq!(client.text("deaf", json!({})).await, "deaf now");
        all.push(client);
    }
    all
}

/// A notification of this size.
fn notification(size: usize) -> String {
    let params = json!({"padding": "x".repeat(size)});
    json!({"jsonrpc": "2.0", "method": "notifications/x", "params": params}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_for_children_that_do_not_read_have_a_ceiling_together() {
    let wrapper = Wrapper::start(&["--identity=headers", "--max-body=1MiB"], &[]).await;
    let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
    let deaf = deaf_sessions(&wrapper, "ana", 7).await;
    // Each of the seven queues could contain two of these notifications, which is 14 MB in total. Ana can use 8
    // MiB.
    let mut statuses = Vec::new();
    for client in deaf.iter().chain(&deaf) {
        let response = client.post(notification(1_000_000)).await;
        let is_refused = response.status() == 503;
        let text = response.text().await.unwrap();
        assert_eq!(is_refused, text.contains("does not read its input"), "{text}");
        statuses.push(is_refused);
    }
    let refused = statuses.iter().filter(|is_refused| **is_refused).count();
    assert!((5..=7).contains(&refused), "{statuses:?}");
    let large = "x".repeat(900_000);
    assert!(bob.text("echo", json!({"text": large})).await.contains(&large), "bob has his own quota");
    // The end of a session releases its memory.
    for client in &deaf {
        assert_eq!(client.delete().await, 204);
    }
    let ana = caller(&wrapper, "ana").initialize("2025-11-25").await;
    assert!(ana.text("echo", json!({"text": large})).await.contains(&large));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_for_a_child_that_does_not_read_is_not_taken_for_ever() {
    let wrapper =
        Wrapper::start(&["--identity=headers", "--max-body=1MiB", "--request-timeout=1s"], &[]).await;
    let deaf = deaf_sessions(&wrapper, "ana", 1).await;
    let mut last = None;
    for _ in 0..4 {
        let response = deaf[0].post(notification(900_000)).await;
        last = Some((response.status().as_u16(), response.text().await.unwrap()));
    }
    let (status, text) = last.unwrap();
    assert!(status == 503 && text.contains("does not read its input"), "{status} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_does_not_read_has_a_short_queue_of_small_messages_too() {
    let wrapper = Wrapper::start(&["--identity=headers", "--request-timeout=1s"], &[]).await;
    let deaf = deaf_sessions(&wrapper, "ana", 1).await;
    let (mut refused, all) = (0, 20 * 100);
    for _ in 0..20 {
        let messages = (0..100).map(|_| deaf[0].post(notification(400)));
        let responses = futures_util::future::join_all(messages).await;
        refused += responses.iter().filter(|response| response.status() == 503).count();
    }
    // The pipe contains some of the messages, and the queue contains 1024 of them. With only the limit of 8 MiB,
    // the queue could contain almost 20,000.
    assert!((500..all).contains(&refused), "{refused}");
}
