//! Measures how soon a change at one of three replicas of auth-service takes effect at all of them. The replicas
//! share one edge and one Redis server.
//!
//! Envoy sends consecutive requests to the replicas in turn, so three responses in a row come from all three
//! replicas. `REVOCATIONS=1000` sets the number of changes of each kind. The results are in `docs/state.md`.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "../../auth-service/tests/support/redis_server.rs"]
mod redis_server;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis_server::RedisServer;
use reqwest::header::HeaderMap;
use rustix::process::Signal;
use serde_json::Value;
use tests::places::binary;
use tests::process::Process;
use tests::setup::ACCOUNT;
use tests::upstream::Upstream;
use tests::{Answer, Edge, Setup, Stack, Tier};

const REPLICAS: usize = 3;
/// The addresses of the replicas that are restarted. The first replica is at `127.0.0.1`.
const OTHERS: [Ipv4Addr; REPLICAS - 1] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
/// Of 100 changes, 99 must be known to all replicas within this time.
const BOUND: Duration = Duration::from_millis(50);

/// Runs one fleet at a time, because each starts four programs and clients. Two fleets would slow each other down.
static FLEETS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Fleet {
    _alone: tokio::sync::MutexGuard<'static, ()>,
    stack: Stack,
    http: reqwest::Client,
    others: Vec<(Ipv4Addr, Process)>,
    _upstream: Upstream,
}

impl Fleet {
    async fn start(redis: &RedisServer) -> Self {
        let fleet = Self::behind(Edge::EnvoyHttp, redis).await;
        fleet.is_whole().await;
        fleet
    }

    async fn behind(edge: Edge, redis: &RedisServer) -> Self {
        let alone = FLEETS.lock().await;
        let upstream = Upstream::start().await;
        // Traefik and Caddy use the first address that accepts a connection, so the first replica is last in the
        // list.
        let addresses = [&OTHERS[..], &[Ipv4Addr::LOCALHOST]].concat();
        let mut stack = Setup::as_shipped()
            .through(edge)
            .with_any_rate()
            .in_front_of(upstream.port)
            .auth_setting("REDIS_URL", &redis.url())
            .auth_setting("STORE_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
            .replicas_at(Tier::AuthService, &addresses)
            .start()
            .await;
        let mut others = Vec::new();
        for address in OTHERS {
            others.push((address, stack.start_replica(address).await));
        }
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { _alone: alone, stack, http, others, _upstream: upstream }
    }

    /// Waits until Envoy uses every replica.
    async fn is_whole(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut known = 0;
        while known < 3 * REPLICAS {
            known = if self.ask("none").await.status == 401 { known + 1 } else { 0 };
            assert!(Instant::now() < deadline, "the edge did not find all replicas");
        }
    }

    async fn ask(&self, token: &str) -> Answer {
        let request = self.http.post(&self.stack.mcp_url).bearer_auth(token);
        Answer::read(request.send().await.unwrap()).await.unwrap()
    }

    /// Waits until every replica has checked the token once, and has used its cache for a second check.
    async fn is_known(&self, token: &str, says: &str) {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut known = 0;
        while known < 2 * REPLICAS {
            let answer = self.ask(token).await;
            known = if answer.status == 200 && answer.body.contains(says) { known + 1 } else { 0 };
            assert!(Instant::now() < deadline, "{answer:?}");
        }
    }

    /// Waits until all replicas return the new result. After that, none may return the old one.
    async fn until(&self, token: &str, since: Instant, is_new: impl Fn(&Answer) -> bool) -> Spread {
        let (mut in_a_row, mut spread) = (0, Spread::default());
        while in_a_row < 3 * REPLICAS {
            let answer = self.ask(token).await;
            if is_new(&answer) {
                in_a_row += 1;
            } else {
                assert!(in_a_row < REPLICAS, "a replica returned to the old result: {answer:?}");
                in_a_row = 0;
                spread.last_old = since.elapsed();
            }
            if in_a_row == REPLICAS {
                spread.all_new = since.elapsed();
            }
            assert!(since.elapsed() < Duration::from_secs(5), "never: {answer:?}");
        }
        spread
    }

    /// Adds a machine client. Returns its identifier and secret.
    fn machine(&self, name: &str) -> (String, String) {
        let grant = ["--grant", "client-credentials", "--resource", &self.stack.mcp_url];
        let printed = self.stack.operator(&[&["client", "add", name][..], &grant].concat());
        let value = |name: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            line.unwrap_or_else(|| panic!("no {name} in {printed}")).to_owned()
        };
        (value("client_id"), value("client_secret"))
    }

    /// Sends a request directly to the first replica.
    async fn post(&self, path: &str, (id, secret): &(String, String), form: &[(&str, &str)]) -> Answer {
        let url = format!("http://127.0.0.1:{}{path}", self.stack.auth_public_port);
        let request = self.http.post(url).basic_auth(id, Some(secret)).form(form);
        let answer = Answer::read(request.send().await.unwrap()).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    }

    async fn token(&self, machine: &(String, String)) -> String {
        let form = [("grant_type", "client_credentials"), ("resource", &self.stack.mcp_url)];
        let answer: Value = serde_json::from_str(&self.post("/token", machine, &form).await.body).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }
}

/// The times from a change until it took effect.
#[derive(Default)]
struct Spread {
    /// The time of the last old response, or 0 if there was none.
    last_old: Duration,
    /// The time at which every replica had sent a new response. Three requests take longer on a busy machine.
    all_new: Duration,
}

fn print(what: &str, spreads: &[Spread]) {
    println!("{what}, {} times", spreads.len());
    let of = |name: &str, one: fn(&Spread) -> Duration| {
        let mut times: Vec<_> = spreads.iter().map(one).collect();
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 1000];
        println!("  {name:<36} p50 {:>8.2?}  p99 {:>8.2?}  longest {:>8.2?}", at(500), at(990), at(1000));
        at(990)
    };
    of("every replica had responded with it", |spread| spread.all_new);
    let late = of("the last old response", |spread| spread.last_old);
    assert!(late < BOUND, "{what}: all replicas must apply it within {BOUND:?}");
}

fn refused(answer: &Answer) -> bool {
    assert!([200, 401].contains(&answer.status), "{answer:?}");
    answer.status == 401
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a066_a083_what_is_done_at_one_replica_is_so_at_all_of_them_within_50_ms() {
    let Some(redis) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let times = std::env::var("REVOCATIONS").map_or(20, |text| text.parse().unwrap());
    let fleet = Fleet::start(&redis).await;

    let (machine, mut spreads) = (fleet.machine("bot"), Vec::new());
    for _ in 0..times {
        let token = fleet.token(&machine).await;
        fleet.is_known(&token, "").await;
        let since = Instant::now();
        fleet.post("/revoke", &machine, &[("token", &token)]).await;
        spreads.push(fleet.until(&token, since, refused).await);
    }
    print("a grant revoked at one, since the request", &spreads);

    let mut spreads = Vec::new();
    for n in 0..times {
        let machine = fleet.machine(&format!("bot-{n}"));
        let token = fleet.token(&machine).await;
        fleet.is_known(&token, "").await;
        fleet.stack.operator(&["client", "delete", &machine.0]);
        spreads.push(fleet.until(&token, Instant::now(), refused).await);
    }
    print("a client deleted, since the operator's reply", &spreads);

    let token = fleet.stack.log_in().await.access_token;
    let (name, mut spreads) = (ACCOUNT.0, Vec::new());
    for _ in 0..times {
        fleet.is_known(&token, "").await;
        fleet.stack.operator(&["user", "disable", name]);
        spreads.push(fleet.until(&token, Instant::now(), refused).await);
        fleet.stack.operator(&["user", "enable", name]);
    }
    print("a user disabled, since the operator's reply", &spreads);

    let mut spreads = Vec::new();
    for n in 0..times {
        let (before, after) = (format!("team-{n}-a"), format!("team-{n}-b"));
        fleet.stack.operator(&["user", "groups", name, &before]);
        fleet.is_known(&token, &before).await;
        fleet.stack.operator(&["user", "groups", name, &after]);
        let is_new = |answer: &Answer| {
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.body.contains(&after)
        };
        spreads.push(fleet.until(&token, Instant::now(), is_new).await);
    }
    print("groups changed, since the operator's reply", &spreads);
}

/// Sends calls until `stop` is set. Returns the number of calls, and the responses other than 200.
async fn call_for_ever(call: reqwest::RequestBuilder, stop: Arc<AtomicBool>) -> (usize, Vec<Answer>) {
    let (mut calls, mut failed) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let answer = call.try_clone().unwrap().send().await.unwrap();
        let answer = Answer::read(answer).await.unwrap();
        calls += 1;
        if answer.status != 200 {
            failed.push(answer);
        }
    }
    (calls, failed)
}

/// Creates a test for each edge.
macro_rules! behind_each_edge {
    ($test:ident: $($name:ident $edge:ident)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $test(Edge::$edge).await;
        }
    )* };
}

behind_each_edge! { restarts_fail_no_call:
    replicas_that_are_restarted_one_after_the_other_fail_no_call_through_envoy EnvoyHttp
    replicas_that_are_restarted_one_after_the_other_fail_no_call_through_envoy_over_grpc EnvoyGrpc
    replicas_that_are_restarted_one_after_the_other_fail_no_call_through_nginx Nginx
    replicas_that_are_restarted_one_after_the_other_fail_no_call_through_caddy Caddy
    replicas_that_are_restarted_one_after_the_other_fail_no_call_through_traefik Traefik
}

/// The number of allowed checks in the metrics of a replica.
fn allowed(metrics: &str) -> u64 {
    let counts =
        metrics.lines().filter(|line| line.starts_with("mcp_gate_checks_total{outcome=\"allowed\"}"));
    counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

async fn restarts_fail_no_call(edge: Edge) {
    let Some(redis) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let mut fleet = Fleet::behind(edge, &redis).await;
    let mut others = std::mem::take(&mut fleet.others);
    let token = fleet.stack.log_in().await.access_token;
    let stop = Arc::new(AtomicBool::new(false));
    let call = fleet.http.post(&fleet.stack.mcp_url).bearer_auth(&token);
    let clients: Vec<_> =
        (0..4).map(|_| tokio::spawn(call_for_ever(call.try_clone().unwrap(), stop.clone()))).collect();
    // Requests to the public endpoints of auth-service reach another replica, too.
    let keys = fleet.http.get(fleet.stack.mcp_url.replace("/mcp", "/jwks"));
    let readers: Vec<_> =
        (0..4).map(|_| tokio::spawn(call_for_ever(keys.try_clone().unwrap(), stop.clone()))).collect();
    let mut checked = [0; OTHERS.len()];
    for _ in 0..2 {
        for ((address, replica), checked) in others.iter_mut().zip(&mut checked) {
            tokio::time::sleep(Duration::from_millis(300)).await;
            *checked += allowed(&fleet.stack.metrics_of(*address).await);
            let ended = tokio::task::block_in_place(|| replica.stop());
            assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
            *replica = fleet.stack.start_replica(*address).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (mut calls, mut failed) = (0, Vec::new());
    for client in clients.into_iter().chain(readers) {
        let (of_one, failed_of_one) = client.await.unwrap();
        calls += of_one;
        failed.extend(failed_of_one);
    }
    println!(
        "{edge}: {calls} calls during {} restarts, {} failed; the stopped replicas had processed {checked:?} checks",
        2 * others.len(),
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:?}\n{}", fleet.stack.logs());
    assert!(checked.iter().all(|checks| *checks > 0), "a replica received no check: {checked:?}");
}

behind_each_edge! { a_frozen_replica_is_left_out:
    a_replica_that_does_not_respond_is_left_out_by_envoy EnvoyHttp
    a_replica_that_does_not_respond_is_left_out_by_envoy_over_grpc EnvoyGrpc
}

/// A time for which a replica can stop without being left out, in two parts: before calls are sent, and afterwards.
const STALL: [Duration; 2] = [Duration::from_millis(2200), Duration::from_millis(300)];
/// How soon a frozen replica must be left out. On an idle machine, this takes 6 s.
const FROZEN: Duration = Duration::from_secs(15);

async fn timed(call: reqwest::RequestBuilder) -> (u16, Duration) {
    let sent = Instant::now();
    (call.send().await.unwrap().status().as_u16(), sent.elapsed())
}

async fn a_frozen_replica_is_left_out(edge: Edge) {
    let Some(redis) = RedisServer::start(&["--appendonly", "no"]) else { return };
    let fleet = Fleet::behind(edge, &redis).await;
    let token = fleet.stack.log_in().await.access_token;
    fleet.is_known(&token, "").await;
    let (address, replica) = &fleet.others[0];
    let deadline = Instant::now() + FROZEN;
    while allowed(&fleet.stack.metrics_of(*address).await) == 0 {
        assert!(Instant::now() < deadline, "the edge does not use {address}\n{}", fleet.stack.logs());
        fleet.is_known(&token, "").await;
    }

    // A replica that stops for a moment, for example because of its disk, still gets requests, and answers them.
    replica.signal(Signal::STOP);
    tokio::time::sleep(STALL[0]).await;
    let call = fleet.http.post(&fleet.stack.mcp_url).bearer_auth(&token);
    let calls: Vec<_> = (0..2 * REPLICAS).map(|_| tokio::spawn(timed(call.try_clone().unwrap()))).collect();
    tokio::time::sleep(STALL[1]).await;
    replica.signal(Signal::CONT);
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}\n{}", fleet.stack.logs());
    let waited = answers.iter().filter(|(_, took)| *took >= Duration::from_millis(250)).count();
    assert!(waited > 0, "{address} was left out after a short stall: {answers:?}");

    // A frozen one does not.
    replica.signal(Signal::STOP);
    let frozen = Instant::now();
    let keys = fleet.http.get(fleet.stack.mcp_url.replace("/mcp", "/jwks"));
    let mut in_a_row = 0;
    while in_a_row < 4 * REPLICAS {
        let sent = Instant::now();
        let read = keys.try_clone().unwrap().send().await.unwrap().status();
        assert_eq!(read, 200, "a document for everyone must be read from another replica");
        let was_passed = fleet.ask(&token).await.status == 200 && sent.elapsed() < Duration::from_secs(2);
        in_a_row = if was_passed { in_a_row + 1 } else { 0 };
        assert!(frozen.elapsed() < FROZEN, "{address} is still used\n{}", fleet.stack.logs());
    }
    println!("{edge}: {address} was left out {:?} after it was frozen", frozen.elapsed());

    // When it continues, it is used again.
    replica.signal(Signal::CONT);
    let before = allowed(&fleet.stack.metrics_of(*address).await);
    let deadline = Instant::now() + FROZEN;
    while allowed(&fleet.stack.metrics_of(*address).await) == before {
        assert!(Instant::now() < deadline, "{address} is not used again");
        assert_eq!(fleet.ask(&token).await.status, 200);
    }

    // If all replicas are frozen, all of them are used: when one continues, it answers the requests that wait.
    for (_, other) in &fleet.others {
        other.signal(Signal::STOP);
    }
    fleet.stack.signal_auth_service(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(9)).await;
    let waiting = keys.try_clone().unwrap().send();
    let resumed = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for (_, other) in &fleet.others {
            other.signal(Signal::CONT);
        }
        fleet.stack.signal_auth_service(Signal::CONT);
    };
    let (read, ()) = tokio::join!(waiting, resumed);
    assert_eq!(read.unwrap().status(), 200, "a request failed although it could have waited");
}

behind_each_edge! { a_stopped_wrapper_fails_no_call:
    a_wrapper_that_has_stopped_fails_no_call_through_envoy EnvoyHttp
    a_wrapper_that_has_stopped_fails_no_call_through_envoy_over_grpc EnvoyGrpc
    a_wrapper_that_has_stopped_fails_no_call_through_nginx Nginx
    a_wrapper_that_has_stopped_fails_no_call_through_caddy Caddy
    a_wrapper_that_has_stopped_fails_no_call_through_traefik Traefik
}

async fn a_stopped_wrapper_fails_no_call(edge: Edge) {
    let _alone = FLEETS.lock().await;
    let server = binary("example-server").to_str().unwrap().to_owned();
    let mut stack = Setup::as_shipped()
        .through(edge)
        .wrapping(vec![server])
        .replicas_at(Tier::Wrapper, &[OTHERS[0], Ipv4Addr::LOCALHOST])
        .start()
        .await;
    let mut other = stack.start_wrapper_at(OTHERS[0]).await;
    let token = stack.log_in().await.access_token;
    let metrics = format!("http://{}:{}/metrics", OTHERS[0], stack.wrapper_ops_port);
    let deadline = Instant::now() + Duration::from_secs(20);
    while stack.get(&metrics).await.unwrap().body.contains("stdio_wrapper_http_requests_total 0\n") {
        assert!(Instant::now() < deadline, "the edge does not use the other instance");
        // This request belongs to no session, so every instance refuses it.
        stack.http.get(&stack.mcp_url).bearer_auth(&token).send().await.unwrap();
    }
    let ended = tokio::task::block_in_place(|| other.stop());
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    for number in 0..8 {
        // The only instance that runs has all sessions.
        let session = stack.open_session(&token, HeaderMap::new()).await;
        assert!(session.is_ok(), "{number}: {:?}\n{}", session.err(), stack.logs());
    }
}
