//! Tests of floods by strangers, against each proxy within the memory, processes and open files that its compose
//! file allows.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tests::control_group::ControlGroup;
use tests::flood::{Flood, Kind, Times};
use tests::next_door::{MINUTE, is_for_a_table};
use tests::places::{free_port, repository};
use tests::{Edge, Setup, Tier, raw, say};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::world::{World, is_here};

each_edge!(
    a100_heads_that_never_end_do_not_end_the_edge,
    a100_bodies_that_stall_do_not_end_the_edge,
    a100_heads_of_many_headers_that_never_end_do_not_end_the_edge,
    a100_bodies_that_stall_after_many_headers_do_not_end_the_edge,
);

/// Runs one flood at a time. Two floods would be too much for a test machine and would slow each other down.
pub(crate) static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The number of requests that must be served during a flood. For a table, there are more, because the slowest hundredth
/// would depend on chance.
fn honest() -> usize {
    if is_for_a_table() { 2000 } else { 400 }
}

/// The time limit for one of these requests. The machine has few processors, which the flood also uses.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time limit for memory to be released after a flood. An idle machine needs less than a minute.
const BACK: Duration = Duration::from_secs(300);

/// The memory in bytes that a proxy can keep even if twice its memory before the flood is less. It consists of
/// partly used pages, which the allocator can use again but cannot return, or of garbage that is not worth collecting.
fn kept_by_allocator(edge: Edge) -> u64 {
    match edge.name() {
        "envoy" => 128 << 20,
        "nginx" => 64 << 20,
        _ => 96 << 20,
    }
}

pub(crate) async fn a100_heads_that_never_end_do_not_end_the_edge(edge: Edge) {
    // In an earlier version, the first flood killed every edge within seconds. The heads of the second flood have
    // the maximum size that is allowed now.
    let kinds = [(Kind::Head(47_000), 4200), (Kind::Head(16_000), 700)];
    survives(edge, "a100_heads_that_never_end_do_not_end_the_edge", &kinds).await;
}

pub(crate) async fn a100_bodies_that_stall_do_not_end_the_edge(edge: Edge) {
    let body = |path: &str, length| Kind::Body(path.to_owned(), length);
    let kinds =
        [(body("/token", 55_000), 2000), (body("/token", 10_000), 1000), (body("/mcp", 55_000), 2000)];
    survives(edge, "a100_bodies_that_stall_do_not_end_the_edge", &kinds).await;
}

/// The first lines of a request with as many headers as fit into the largest head. A map of them takes a multiple
/// of the memory that one long header would take.
fn many_headers(number: usize) -> String {
    let mut head = "POST /token HTTP/1.1\r\nHost: localhost\r\n".to_owned();
    for name in (0x100..).take(number) {
        write!(head, "{name:x}:\r\n").unwrap();
    }
    head
}

pub(crate) async fn a100_heads_of_many_headers_that_never_end_do_not_end_the_edge(edge: Edge) {
    let kinds = [(Kind::Bytes(many_headers(3300).into_bytes()), 4900)];
    survives(edge, "a100_heads_of_many_headers_that_never_end_do_not_end_the_edge", &kinds).await;
}

pub(crate) async fn a100_bodies_that_stall_after_many_headers_do_not_end_the_edge(edge: Edge) {
    let begun = format!("{}Content-Length: 16000\r\n\r\nx", many_headers(2700));
    // Envoy refuses each of these and counts its connection for three more seconds. With more of them, its limit of
    // connections would be reached.
    let connections = if edge.name() == "envoy" { 1000 } else { 2000 };
    let kinds = [(Kind::Bytes(begun.into_bytes()), connections)];
    survives(edge, "a100_bodies_that_stall_after_many_headers_do_not_end_the_edge", &kinds).await;
}

#[tokio::test]
async fn a100_heads_that_never_end_at_the_port_without_tls_do_not_end_traefik() {
    let name = "floods::a100_heads_that_never_end_at_the_port_without_tls_do_not_end_traefik";
    if !is_here(Edge::Traefik, name) {
        return;
    }
    // The stack also has this entry point if it obtains its own certificates (compose/tls.yaml).
    let port = free_port();
    let file = repository().join("compose/setup/traefik-redirect.yaml");
    let entry_point = std::fs::read_to_string(file).unwrap().replace("@HTTPS_PORT@", "443");
    let here = entry_point.replace("address: \":8080\"", &format!("address: \"127.0.0.1:{port}\""));
    assert_ne!(here, entry_point);
    let setup = Setup::as_shipped().edge_changed("@MORE_ENTRY_POINTS@", here.trim_start());
    let kinds = [(Kind::Line(900_000), 1600), (Kind::Head(8000), 700)];
    survives_at(Some(port), Edge::Traefik, setup, name, &kinds).await;
}

/// The first message of a TLS handshake (RFC 8446 §4.1.2).
fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut hello).unwrap();
    hello
}

/// Handshakes that stop after the first message, and some that stop in the middle of it.
fn handshakes() -> [(Kind, usize); 2] {
    let hello = client_hello();
    let half = hello[..hello.len() / 2].to_vec();
    [(Kind::Bytes(hello), 4200), (Kind::Bytes(half), 700)]
}

#[tokio::test]
async fn a100_handshakes_that_never_end_do_not_end_traefik() {
    let name = "floods::a100_handshakes_that_never_end_do_not_end_traefik";
    if !is_here(Edge::Traefik, name) {
        return;
    }
    let port = free_port();
    let entry_point = format!(
        "tls:\n    address: \"127.0.0.1:{port}\"\n    http: {{ tls: {{}}, maxHeaderBytes: 16384 }}\n    \
         transport: {{ respondingTimeouts: {{ readTimeout: 60s, idleTimeout: 60s }} }}"
    );
    let setup = Setup::as_shipped().edge_changed("@MORE_ENTRY_POINTS@", &entry_point);
    survives_at(Some(port), Edge::Traefik, setup, name, &handshakes()).await;
}

#[tokio::test]
async fn a100_handshakes_that_never_end_do_not_end_caddy() {
    let name = "floods::a100_handshakes_that_never_end_do_not_end_caddy";
    if !is_here(Edge::Caddy, name) {
        return;
    }
    let port = free_port();
    let site = format!("https://localhost:{port} {{\n\ttls internal\n\trespond 404\n}}\n\n@EDGE_SITE@ {{\n");
    let setup = Setup::as_shipped()
        .edge_changed("\tauto_https off\n", "\tauto_https disable_redirects\n\tskip_install_trust\n")
        .edge_changed("@EDGE_SITE@ {\n", &site);
    survives_at(Some(port), Edge::Caddy, setup, name, &handshakes()).await;
}

pub(crate) async fn survives(edge: Edge, name: &str, kinds: &[(Kind, usize)]) {
    survives_at(None, edge, Setup::as_shipped(), name, kinds).await;
}

/// Each response is larger than the buffers of the edge and the kernel. It is the last one on its connection,
/// so that the edge waits for a client that reads nothing.
#[tokio::test]
async fn a100_last_responses_that_nobody_reads_do_not_end_envoy() {
    const CONNECTIONS: usize = 2000;
    let name = "floods::a100_last_responses_that_nobody_reads_do_not_end_envoy";
    if is_here(Edge::EnvoyHttp, name) {
        survives_floods(Edge::EnvoyHttp, Setup::as_shipped(), name, CONNECTIONS, |world| {
            let bearer = world.bearer();
            let headers = [
                ("Host", world.host.as_str()),
                ("Authorization", &bearer),
                ("X-Please", "download"),
                ("Connection", "close"),
            ];
            let request = raw::head("GET", "/mcp", &headers).into_bytes();
            vec![Flood::unread(world.stack.port, request, CONNECTIONS, 1)]
        })
        .await;
    }
}

/// Floods this port of the proxy, or the port for clients if `port` is `None`. During the flood, requests to the
/// port for clients must be served.
async fn survives_at(port: Option<u16>, edge: Edge, setup: Setup, name: &str, kinds: &[(Kind, usize)]) {
    let kinds = fewer_than_the_connections(edge, kinds);
    let wanted = kinds.iter().map(|(_, connections)| connections).sum();
    let start = |world: &World| {
        let started = |(kind, connections): &(&Kind, usize)| {
            Flood::stalled(port.unwrap_or(world.stack.port), &world.host, kind, *connections, 1)
        };
        kinds.iter().map(started).collect()
    };
    survives_floods(edge, setup, name, wanted, start).await;
}

/// The same kinds, with at most two thirds of the connections that the edge accepts (docs/limits.md). If a flood had all
/// of them, other clients would have to wait until the flood ends.
fn fewer_than_the_connections(edge: Edge, kinds: &[(Kind, usize)]) -> Vec<(&Kind, usize)> {
    let all: usize = kinds.iter().map(|(_, connections)| connections).sum();
    let accepted = match edge {
        Edge::EnvoyHttp | Edge::EnvoyGrpc => 2560,
        Edge::Nginx => 4096,
        Edge::Traefik | Edge::Caddy => usize::try_from(edge.container().bounds().files.unwrap()).unwrap(),
    };
    let room = accepted * 2 / 3;
    let share = |connections: usize| if all > room { connections * room / all } else { connections };
    kinds.iter().map(|(kind, connections)| (kind, share(*connections))).collect()
}

/// Like [`survives_at`], for any floods, with this many connections in total.
async fn survives_floods(
    edge: Edge,
    setup: Setup,
    name: &str,
    wanted: usize,
    start: impl Fn(&World) -> Vec<Flood>,
) {
    let bounds = edge.container().bounds();
    if !ControlGroup::is_possible(bounds, name) {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut world = World::of(setup.through(edge).with_any_rate().within(Tier::Edge, bounds)).await;
    // The memory in use is measured after some work, because it is higher than after the start.
    work(&world).await;
    let idle = world.stack.group(Tier::Edge).held().unwrap();
    let quiet = Times::of(honest(), async || {
        until_served(&world).await;
    })
    .await;

    let floods = start(&world);
    let deadline = Instant::now() + PATIENCE;
    while floods.iter().map(Flood::opened).sum::<usize>() < wanted && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let opened: usize = floods.iter().map(Flood::opened).sum();
    let hint = "Is the limit of open files (ulimit -n) below that?";
    assert!(opened >= wanted, "{opened} of {wanted} connections were opened. {hint}\n{}", world.stack.logs());
    let mut refused = 0;
    // Some floods are a single burst of valid requests, which are served first.
    let start = Instant::now();
    refused += until_served(&world).await;
    let first = start.elapsed();
    let during = Times::of(honest(), async || refused += until_served(&world).await).await;
    let most = world.stack.group(Tier::Edge).held().unwrap();
    drop(floods);

    let kept = (2 * idle).max(kept_by_allocator(edge));
    // For a table, the test waits for a minute to find out how much is really kept.
    let (wanted, patience) = if is_for_a_table() { (2 * idle, MINUTE) } else { (kept, BACK) };
    let (end, mut held) = (Instant::now(), most);
    while held > wanted && end.elapsed() < patience {
        // A garbage collector runs only after a certain amount of allocation, so a proxy without requests keeps
        // memory for longer.
        work(&world).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        held = world.stack.group(Tier::Edge).held().unwrap();
    }
    // Kernels before 5.19 do not report the peak of a group of version 2.
    let (killed, peak) = (
        world.stack.group(Tier::Edge).killed().unwrap(),
        world.stack.group(Tier::Edge).peak().unwrap_or_default(),
    );
    let mib = |bytes: u64| bytes >> 20;
    let figures = format!(
        "{edge}: {} MiB idle, {} in the flood, {} counted by the kernel at most, {} of {} after {:.0} s; {} requests: quiet {quiet}, in the flood {during}, the first after {:.1} s, {refused} refused before",
        mib(idle),
        mib(most),
        mib(peak),
        mib(held),
        mib(bounds.memory),
        end.elapsed().as_secs_f32(),
        honest(),
        first.as_secs_f32()
    );
    say(&format!("FIGURE {name}, {figures}"));
    assert_eq!(killed, 0, "{figures}");
    assert!(world.stack.runs(Tier::Edge), "{figures}\n{}", world.stack.logs());
    assert!(held <= kept, "memory is not released: {figures}");
}

/// Repeats an honest request until it is served. A check can take at most three seconds, and the test machine also
/// runs auth-service and the flood. Returns how often the request was refused for lack of time.
async fn until_served(world: &World) -> usize {
    let deadline = Instant::now() + PATIENCE;
    let mut refused = 0;
    loop {
        let request = world.stack.http.get(&world.stack.mcp_url).bearer_auth(&world.token);
        let answer = request.timeout(PATIENCE).send().await;
        match answer.as_ref().map(|answer| answer.status().as_u16()) {
            Ok(200) => return refused,
            // The check or the service behind it took too long.
            Ok(500 | 502..=504) if Instant::now() < deadline => refused += 1,
            _ => panic!("{answer:?}\n{}", world.stack.logs()),
        }
    }
}

/// Sends many honest requests at the same time.
async fn work(world: &World) {
    let mut requests = JoinSet::new();
    for _ in 0..200 {
        let request = world.stack.http.get(&world.stack.mcp_url).bearer_auth(&world.token);
        requests.spawn(async move {
            let answer = request.timeout(PATIENCE).send().await?.error_for_status()?;
            answer.bytes().await
        });
    }
    assert!(requests.join_all().await.iter().any(Result::is_ok), "none of 200 requests was served");
    world.upstream.take_heads();
}
