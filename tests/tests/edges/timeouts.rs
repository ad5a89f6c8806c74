//! Tests that a stream outlasts all time limits for requests, but ends with its token.

use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use tests::places::recorder;
use tests::upstream::DOWNLOAD;
use tests::{Edge, Setup, raw};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use crate::suite;
use crate::world::{self, BROKEN, Broken, World};

each_edge!(
    a086_a_stream_ends_soon_after_its_token,
    a_slow_reader_whose_request_is_the_last_one_gets_the_whole_response
);

pub(crate) async fn a086_a_stream_ends_soon_after_its_token(edge: Edge) {
    let setup = Setup::as_shipped()
        .through(edge)
        .wrapping(recorder())
        .auth_setting("ACCESS_TOKEN_TTL", "4s")
        .wrapper_setting("STREAM_GRACE", "1s");
    let stack = setup.start().await;
    let token = stack.log_in().await.access_token;
    let begin = Instant::now();
    let session = stack.open_session(&token, HeaderMap::new()).await.unwrap();
    let mut stream = session.listen().await.unwrap();
    assert_eq!(stream.status(), 200, "{stream:?}\n{}", stack.logs());
    let ended = tokio::time::timeout(Duration::from_secs(12), async {
        // The end can be received as an error or as a complete body.
        while let Ok(Some(_)) = stream.chunk().await {}
    });
    assert!(ended.await.is_ok(), "the stream outlived its token\n{}", stack.logs());
    // The token lives for four seconds, counted in whole seconds, and the grace period is one second.
    let lasted = begin.elapsed();
    assert!(lasted > Duration::from_secs(2) && lasted < Duration::from_secs(9), "it lasted {lasted:?}");
}

/// The end of a large response stays in the kernel's buffers until the client has read the part before it.
/// During this time, the proxy has nothing to send on the connection, which it must close afterwards.
pub(crate) async fn a_slow_reader_whose_request_is_the_last_one_gets_the_whole_response(edge: Edge) {
    let world = World::start(edge).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], world.stack.port).into()).await.unwrap();
    let bearer = world.bearer();
    let headers = [
        ("Host", world.host.as_str()),
        ("Authorization", &bearer),
        ("X-Please", "download"),
        ("Connection", "close"),
    ];
    stream.write_all(raw::head("GET", "/mcp", &headers).as_bytes()).await.unwrap();
    let (mut received, mut buffer) = (0, vec![0; 32 << 10]);
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => received += count,
            Err(error) => panic!("{error} after {received} bytes\n{}", world.stack.logs()),
        }
        // The client reads half a megabyte per second. The kernel notifies the proxy only when a third of its
        // buffer is free again.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert!(received > DOWNLOAD, "only {received} bytes came\n{}", world.stack.logs());
}

/// Runs the test whose events take 1.7 s, with this time limit set to one second.
async fn streams_past(edge: Edge, name: &str, limit: &str) {
    if !world::is_here(edge, name) {
        return;
    }
    let change = (format!("{limit} 60s"), format!("{limit} 1s"));
    let changed = Broken { changes: vec![change], ..Broken::default() };
    BROKEN.scope(changed, suite::events_arrive_one_by_one(edge)).await;
}

/// Traefik limits slow request heads only through a limit on whole requests. This limit must not end responses.
#[tokio::test]
async fn traefik_streams_past_its_read_timeout() {
    streams_past(Edge::Traefik, "timeouts::traefik_streams_past_its_read_timeout", "readTimeout:").await;
}

/// Caddy's limit for slow bodies must not end responses.
#[tokio::test]
async fn caddy_streams_past_its_body_timeout() {
    streams_past(Edge::Caddy, "timeouts::caddy_streams_past_its_body_timeout", "read_body").await;
}
