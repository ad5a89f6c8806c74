//! Tests that a stream outlasts all time limits for requests, but ends with its token.

use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use tests::places::recorder;
use tests::{Edge, Setup};

use crate::suite;
use crate::world::{self, BROKEN, Broken};

each_edge!(a086_a_stream_ends_soon_after_its_token);

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
