//! Tests that no request passes while a program is down, and that everything works again automatically once the
//! program is back.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;
use tests::process::{Process, clean_command};
use tests::{Answer, Edge, Setup, places};

use crate::world::World;

/// How long cached principals are used without a message from the store (docs/adr/0009).
const LEASE: Duration = Duration::from_secs(1);

each_edge!(
    a088_with_auth_service_down_nothing_passes_and_when_it_is_back_everything_does,
    a088_with_the_store_down_nothing_passes,
    a_stopped_edge_starts_again_over_the_same_state,
    with_the_wrapper_down_the_client_is_told_so,
);

pub(crate) async fn a088_with_auth_service_down_nothing_passes_and_when_it_is_back_everything_does(
    edge: Edge,
) {
    let mut world = World::start(edge).await;
    let bearer = world.bearer();
    world.stack.kill_auth_service();
    for headers in [&[("authorization", bearer.as_str())][..], &[]] {
        let answer = world.ask(Method::POST, headers).await;
        // docs/edges.md promises these statuses.
        let expected = if edge == Edge::Traefik { 500 } else { 503 };
        assert_eq!(answer.status, expected, "{answer:?}");
        if edge != Edge::Traefik {
            assert_eq!(answer.headers["retry-after"], "5", "{answer:?}");
            assert_readable_by_pages(&answer);
            let said: Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(said["error"], "temporarily_unavailable", "{answer:?}");
            assert!(said["error_description"].as_str().unwrap().contains("does not answer"), "{said}");
        }
        assert!(!answer.body.contains("<html"), "not JSON, as clients expect: {answer:?}");
        assert_eq!(answer.challenge(), "", "a client would log in again: {answer:?}");
    }
    world.assert_nothing_passed("an unchecked request");
    if edge != Edge::Traefik {
        let url = world.stack.mcp_url.replace("/mcp", "/jwks");
        let answer = Answer::read(world.stack.http.get(url).send().await.unwrap()).await.unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(answer.headers["retry-after"], "5", "{answer:?}");
        assert_readable_by_pages(&answer);
        assert!(answer.body.contains("does not answer"), "{answer:?}");
    }
    world.stack.start_auth_service().await;
    let answer = world.ask(Method::POST, &[("authorization", &bearer)]).await;
    assert_eq!(answer.status, 200, "{answer:?}\n{}", world.stack.logs());
}

/// Asserts that a web page of any origin can read the response, unless its request includes the user's cookies.
fn assert_readable_by_pages(answer: &Answer) {
    let allowed: Vec<_> = answer.headers.get_all("access-control-allow-origin").iter().collect();
    assert_eq!(allowed, ["*"], "{answer:?}");
    assert_eq!(answer.header("access-control-expose-headers").to_lowercase(), "retry-after", "{answer:?}");
    assert_eq!(answer.header("access-control-allow-credentials"), "", "{answer:?}");
}

pub(crate) async fn a088_with_the_store_down_nothing_passes(edge: Edge) {
    let directory = tempfile::tempdir().unwrap();
    let port = places::free_port();
    let mut command = clean_command("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--dir"])
        .arg(directory.path());
    let mut redis = Process::start("redis", &mut command, directory.path());
    for _ in 0..200 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let setup = Setup::as_shipped()
        .through(edge)
        .auth_setting("REDIS_URL", &format!("redis://127.0.0.1:{port}/0"))
        .auth_setting("STORE_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    let world = World::of(setup).await;
    let bearer = world.bearer();
    let good = world.ask(Method::POST, &[("authorization", &bearer)]).await;
    assert_eq!(good.status, 200, "{good:?}");
    let fresh = world.stack.log_in().await;

    redis.kill();
    let killed = Instant::now();
    // A cached token can pass until the lease ends. After the first refusal, it must not pass again.
    let mut refused = false;
    loop {
        let leased = killed.elapsed() < LEASE;
        let answer = world.ask(Method::POST, &[("authorization", &bearer)]).await;
        if answer.status == 200 {
            assert!(leased && !refused, "{:?} after the store was killed: {answer:?}", killed.elapsed());
        } else {
            assert_unavailable(&answer);
            refused = true;
        }
        if !leased {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.upstream.take_heads();
    // The second token has never been checked, so nothing about it is cached.
    let unseen = format!("Bearer {}", fresh.access_token);
    for bearer in [&bearer, &unseen] {
        for method in [Method::POST, Method::GET] {
            assert_unavailable(&world.ask(method, &[("authorization", bearer)]).await);
        }
    }
    world.assert_nothing_passed("a request that could not be checked");
}

#[track_caller]
fn assert_unavailable(answer: &Answer) {
    // nginx supports only 401 and 403 as denials of a check.
    assert!([403, 500, 503].contains(&answer.status), "{answer:?}");
    assert_eq!(answer.challenge(), "", "a client would log in again: {answer:?}");
}

pub(crate) async fn a_stopped_edge_starts_again_over_the_same_state(edge: Edge) {
    let mut world = World::start(edge).await;
    let bearer = world.bearer();
    assert!(world.stack.stop_edge(), "{edge} did not exit successfully\n{}", world.stack.logs());
    assert!(world.stack.http.post(&world.stack.mcp_url).send().await.is_err());
    world.stack.start_edge_again().await;
    let answer = world.ask(Method::POST, &[("authorization", &bearer)]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

pub(crate) async fn with_the_wrapper_down_the_client_is_told_so(edge: Edge) {
    // Nothing listens on this port, as if the wrapper were down.
    let stack = Setup::as_shipped().through(edge).in_front_of(places::free_port()).start().await;
    let token = stack.log_in().await.access_token;
    let answer = stack.http.post(&stack.mcp_url).bearer_auth(&token).send().await.unwrap();
    assert!([502, 503].contains(&answer.status().as_u16()), "{answer:?}");
}
