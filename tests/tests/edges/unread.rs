//! A request to auth-service is in progress in Traefik until its response has been written. The tests keep requests in
//! progress by not reading the responses.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tests::flood::Flood;
use tests::{Edge, Setup, raw};

use crate::world::{World, is_here};

/// The number of attacking addresses, which are 127.0.0.2 and the following ones. `scripts/fence` allows each address
/// 256 connections, and Traefik has files for 1408 connections, so it takes six addresses to use up these.
const ADDRESSES: u8 = 5;

/// The shipped limits (128 and 672), and about a 64th of them. The proportion is almost the same, and the test needs
/// a 64th of the connections.
const SMALLER: [(&str, &str); 2] = [("amount: 128\n", "amount: 2\n"), ("amount: 672\n", "amount: 11\n")];

/// The number of requests on each connection. Their responses have 29 kB each, and do not fit into the buffers of the
/// kernel, which can be 4 MB.
const REQUESTS: usize = 250;

/// The time limit for the buffers to be full, and for requests of others. A test machine can be slow.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a100_requests_whose_responses_nobody_reads_do_not_keep_others_from_auth_service_in_traefik() {
    let name =
        "unread::a100_requests_whose_responses_nobody_reads_do_not_keep_others_from_auth_service_in_traefik";
    if !is_here(Edge::Traefik, name) {
        return;
    }
    let setup = Setup::as_shipped().through(Edge::Traefik).with_any_rate();
    let setup = SMALLER.iter().fold(setup, |setup, (from, to)| setup.edge_changed(from, to));
    let world = World::of(setup).await;
    let url = format!("http://127.0.0.1:{}/jwks", world.stack.port);
    let request = raw::head("GET", "/errors", &[("Host", &world.host)]).into_bytes();
    // Each address begins with as many connections as it can have requests, so that all of their requests are
    // served until the buffers are full.
    let flood =
        || Flood::unread(world.stack.port, request.repeat(REQUESTS), 2 * usize::from(ADDRESSES), ADDRESSES);
    let _first = flood();
    // While the responses of an address still arrive, it gets 429 only sometimes. When the buffers are full, it gets
    // nothing else.
    for number in 0..ADDRESSES {
        let address = IpAddr::from([127, 0, 0, 2 + number]);
        let client = reqwest::Client::builder().local_address(address).no_proxy().build().unwrap();
        let (deadline, mut refused) = (Instant::now() + PATIENCE, 0);
        while refused < 20 {
            let answer = client.get(&url).header("Host", &world.host).send().await.unwrap();
            refused = if answer.status() == 429 { refused + 1 } else { 0 };
            assert!(Instant::now() < deadline, "{address} is not limited\n{}", world.stack.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let _second = flood();
    let deadline = Instant::now() + PATIENCE;
    for (method, path) in [("GET", "/jwks"), ("GET", "/errors"), ("OPTIONS", "/mcp"), ("POST", "/token")] {
        let headers = [("Host", world.host.as_str()), ("Content-Length", "0"), ("Connection", "close")];
        loop {
            let answer = raw::ask(world.stack.port, method, path, &headers).await.unwrap();
            if answer.status < 429 {
                break;
            }
            assert!(Instant::now() < deadline, "{method} {path}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
