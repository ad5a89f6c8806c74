//! Tests that no request passes while a program is down, and that everything works again automatically once the
//! program is back.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;
use tests::process::{Process, clean_command};
use tests::{Answer, Edge, Setup, Tier, places};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::world::World;

/// How long cached principals are used without a message from the store (docs/adr/0009).
const LEASE: Duration = Duration::from_secs(1);

each_edge!(
    a088_with_auth_service_down_nothing_passes_and_when_it_is_back_everything_does,
    a088_with_the_store_down_nothing_passes,
    a_stopped_edge_starts_again_over_the_same_state,
    with_the_wrapper_down_the_client_is_told_so,
    a_request_goes_to_another_instance_of_a_wrapper_that_is_not_running,
    a_post_that_has_reached_an_instance_of_the_wrapper_is_never_sent_again,
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

/// The address of the first of two instances of the wrapper. The second one, at 127.0.0.1, always runs.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

async fn with_two_instances(edge: Edge) -> World {
    let instances = [FIRST, Ipv4Addr::LOCALHOST];
    World::of(Setup::as_shipped().through(edge).replicas_at(Tier::Wrapper, &instances)).await
}

pub(crate) async fn a_request_goes_to_another_instance_of_a_wrapper_that_is_not_running(edge: Edge) {
    // Nothing listens at `FIRST`.
    let world = with_two_instances(edge).await;
    for method in [Method::POST, Method::GET, Method::DELETE] {
        for number in 0..6 {
            let request = world.stack.http.request(method.clone(), &world.stack.mcp_url);
            let body = if method == Method::POST { "x".repeat(20_000) } else { String::new() };
            let answer = request.bearer_auth(&world.token).body(body).send().await.unwrap();
            let answer = Answer::read(answer).await.unwrap();
            assert_eq!(answer.status, 200, "{method} {number}: {answer:?}\n{}", world.stack.logs());
        }
        assert_eq!(world.upstream.take_heads().len(), 6, "{method}");
    }
    let is_envoy = matches!(edge, Edge::EnvoyHttp | Edge::EnvoyGrpc);
    for number in 0..6 {
        let request = world.stack.http.post(&world.stack.mcp_url).body("x".repeat(200_000));
        let answer = request.bearer_auth(&world.token).send().await.unwrap();
        let answer = Answer::read(answer).await.unwrap();
        // Envoy keeps only short bodies for another instance.
        if is_envoy && answer.status != 200 {
            assert_eq!((answer.status, answer.header("retry-after")), (503, "5"), "{answer:?}");
            assert!(answer.body.contains("does not answer"), "{answer:?}");
        } else {
            assert_eq!(answer.status, 200, "{number}: {answer:?}");
        }
    }
}

pub(crate) async fn a_post_that_has_reached_an_instance_of_the_wrapper_is_never_sent_again(edge: Edge) {
    const POSTS: usize = 12;
    let world = with_two_instances(edge).await;
    // The first instance reads each request, and then closes the connection, as in a crash.
    let heads = Arc::new(Mutex::new(Vec::new()));
    let arrived = Arc::clone(&heads);
    let listener = TcpListener::bind((FIRST, world.upstream.port)).await.unwrap();
    let crashing = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 64 * 1024];
            let count = stream.read(&mut buffer).await.unwrap_or_default();
            arrived.lock().unwrap().push(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
    });
    for number in 0..POSTS {
        let number = number.to_string();
        let bearer = world.bearer();
        let answer = world.ask(Method::POST, &[("authorization", &bearer), ("x-number", &number)]).await;
        assert!([200, 502, 503].contains(&answer.status), "{answer:?}");
    }
    crashing.abort();
    let mut heads = std::mem::take(&mut *heads.lock().unwrap());
    assert!(heads.iter().any(|head| head.starts_with("POST /mcp")), "no request reached {FIRST}: {heads:?}");
    heads.extend(world.upstream.take_heads());
    for number in 0..POSTS {
        let line = format!("x-number: {number}");
        let times =
            heads.iter().filter(|head| head.to_lowercase().lines().any(|other| other == line)).count();
        assert_eq!(times, 1, "{line} was sent {times} times");
    }
}
