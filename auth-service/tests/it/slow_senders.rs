//! Tests of attack 100 with slow senders. Each sender stays within all time limits, but together they occupy all
//! connections.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::app::{REDIRECT, TestApp};

/// More than the maximum number of connections to the public listener (docs/limits.md).
const FLOOD: usize = 1100;
const ADDRESSES: usize = 5;
/// The number of the flood's most recent connections that must stay open. It is at most the quota of one address,
/// and more than the number of connections that can wait to be accepted.
const LATEST: usize = 150;

/// Connects to the public listener from this loopback address.
async fn connect_from(app: &TestApp, from: Ipv4Addr) -> TcpStream {
    connect(&app.public, from).await
}

async fn connect(listener: &str, from: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(listener.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap()
}

/// Whether the server has neither responded nor closed the connection.
fn is_waited_for(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0; 16]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Opens the connections of the flood. Each of them sends `bytes` and then stays silent.
async fn flood(
    app: &TestApp,
    from: impl Fn(usize) -> Ipv4Addr,
    bytes: impl Fn(usize) -> String,
) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for n in 0..FLOOD {
        let mut stream = connect_from(app, from(n)).await;
        stream.write_all(bytes(n).as_bytes()).await.unwrap();
        streams.push(stream);
    }
    streams
}

/// Asserts that other clients are served while the last connections of the flood are still open. If the other
/// clients were served only after the end of the flood, these connections would be closed by then. Each of them
/// sends `more` before each request.
async fn assert_others_are_served(app: &TestApp, flood: &mut [TcpStream], more: &[u8]) {
    let (_, latest) = flood.split_at_mut(FLOOD - LATEST);
    for n in 0..20 {
        for stream in &mut *latest {
            assert!(stream.write_all(more).await.is_ok(), "one of the last connections was closed");
        }
        let jwks = app.http.get(format!("{}/jwks", app.public));
        let answer = jwks.header("x-forwarded-for", format!("203.0.113.{n}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        app.client_with(&[&format!("{REDIRECT}/{n}")]).await;
    }
    assert_eq!(latest.iter().filter(|stream| is_waited_for(stream)).count(), LATEST);
}

#[actix_web::test]
async fn a100_bodies_that_come_slowly_take_no_connection_from_others() {
    let app = TestApp::start().await;
    let bytes = |n| {
        format!(
            "POST /token HTTP/1.1\r\nHost: auth.example\r\nX-Forwarded-For: 198.51.100.{}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 16000\r\n\r\na",
            n % ADDRESSES
        )
    };
    let mut flood = flood(&app, |_| Ipv4Addr::LOCALHOST, bytes).await;
    assert_others_are_served(&app, &mut flood, b"a").await;
}

/// After the refusal, the server waits for a second, so that the client can read it.
#[actix_web::test]
async fn a100_connections_that_nobody_closes_after_a_refusal_take_no_slot_from_others() {
    let app = TestApp::start_with(&[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    let mut streams = Vec::new();
    for n in 0..900 {
        let mut stream = connect_from(&app, Ipv4Addr::new(127, 0, 2, u8::try_from(n % 9).unwrap() + 1)).await;
        let sent =
            stream.write_all(b"POST /token HTTP/1.1\r\nHost: auth.example\r\nContent-Length: 5\r\n\r\n");
        sent.await.unwrap();
        streams.push(stream);
    }
    app.client().await;
    // Of the connections, 256 wait for a body, 128 wait to be closed, and a few are being closed.
    let open = streams.iter().filter(|stream| !is_closed(stream)).count();
    assert!(open < 450, "{open}");
}

fn is_closed(stream: &TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.try_read(&mut buffer) {
            Ok(1..) => {}
            Ok(0) => return true,
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

#[actix_web::test]
async fn a100_heads_that_come_slowly_take_no_connection_from_others() {
    let app = TestApp::start_with(&[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    let from = |n: usize| Ipv4Addr::new(127, 0, 1, u8::try_from(n % ADDRESSES).unwrap() + 1);
    for (bytes, more) in [("", &b""[..]), ("GET /jwks HTTP/1.1\r\nHost: auth", b"a")] {
        let mut flood = flood(&app, from, |_| bytes.to_owned()).await;
        assert_others_are_served(&app, &mut flood, more).await;
    }
}

#[actix_web::test]
async fn a100_a_whole_body_is_heard_from_an_address_whose_others_are_slow() {
    let app = TestApp::start().await;
    let head = "POST /token HTTP/1.1\r\nHost: auth.example\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                Content-Length: 9000\r\n\r\na";
    let (mut slow, begin) = (Vec::new(), Instant::now());
    for _ in 0..136 {
        let mut stream = connect_from(&app, Ipv4Addr::LOCALHOST).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    app.client().await;
    assert!(is_waited_for(&slow[135]));
    // Connections whose slots are needed get a response that asks the client to retry. The order in which the workers
    // read the heads determines which connections these are. After three seconds, all connections have been idle for
    // too long. On a slow machine, this can already be the case here.
    let idle = begin + Duration::from_secs(3);
    let was_too_late = Instant::now() + Duration::from_secs(1) >= idle;
    let is_told = |stream: &TcpStream| {
        let mut response = [0; 4096];
        let Ok(length @ 1..) = stream.try_read(&mut response) else { return false };
        let response = String::from_utf8_lossy(&response[..length]).to_lowercase();
        response.starts_with("http/1.1 429") && response.contains("retry-after: 1")
    };
    while !slow.iter().any(is_told) {
        if was_too_late {
            return;
        }
        assert!(Instant::now() < idle, "nobody was told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[actix_web::test]
async fn a100_one_address_that_is_no_proxy_has_few_connections() {
    let app = TestApp::start_with(&[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    let (proxy, one, other) = ([127, 0, 0, 1].into(), [127, 0, 1, 1].into(), [127, 0, 1, 2].into());
    let mut all = Vec::new();
    for _ in 0..300 {
        all.push(connect(&app.edge, one).await);
    }
    // The listener closes excess connections when it accepts them, which takes a moment.
    let open = async |all: &[TcpStream]| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        all.iter().filter(|stream| is_waited_for(stream)).count()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while open(&all).await > 128 && Instant::now() < deadline {}
    assert_eq!(open(&all).await, 128);
    for (address, expected) in [(proxy, 200), (other, 1)] {
        let mut connections = Vec::new();
        for _ in 0..expected {
            connections.push(connect(&app.edge, address).await);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(open(&connections).await, expected, "{address}");
    }
    // After they are closed, the address can connect again.
    all.clear();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let again = [connect(&app.edge, one).await];
        tokio::time::sleep(Duration::from_millis(50)).await;
        if open(&again).await == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "the address cannot connect again");
    }
}

#[actix_web::test]
async fn a100_requests_before_the_response_was_read_close_the_connection() {
    let app = TestApp::start().await;
    for (listener, path) in [(&app.public, "/errors"), (&app.ops, "/health")] {
        let mut stream = connect(listener, Ipv4Addr::LOCALHOST).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.repeat(200).as_bytes()).await.unwrap();
        let mut received = Vec::new();
        // The connection ends with an error if the server has not read all requests.
        let _ =
            tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut received)).await.unwrap();
        let responses = String::from_utf8_lossy(&received).matches("HTTP/1.1 200").count();
        assert!(responses <= 2, "{responses} responses at {listener}");
    }
}

#[actix_web::test]
async fn a100_half_heads_keep_no_health_check_from_the_ops_listener() {
    let app = TestApp::start().await;
    let mut slow = Vec::new();
    // The ops listener accepts fewer connections than this.
    for _ in 0..100 {
        let mut stream = connect(&app.ops, Ipv4Addr::new(127, 0, 1, 1)).await;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: o").await.unwrap();
        slow.push(stream);
    }
    let answer = app.http.get(format!("{}/health", app.ops)).send();
    let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
    assert_eq!(answer.expect("unfinished requests block the health check").unwrap().status(), StatusCode::OK);
    // The listener closes surplus connections in separate tasks, so this takes a moment.
    let deadline = Instant::now() + Duration::from_secs(10);
    let count = || slow.iter().filter(|stream| is_waited_for(stream)).count();
    while count() > 32 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let waited_for = count();
    assert!((1..=32).contains(&waited_for), "{waited_for}");
}
