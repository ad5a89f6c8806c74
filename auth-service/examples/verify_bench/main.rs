//! Measures the cost of a check, and compares it with lower bounds from the same run.
//!
//! `cargo run --release --example verify_bench` compares everything on this machine (with Redis only if it is
//! installed). `… -- --url http://127.0.0.1:8080/mcp --host mcp.example.com --bearer TOKEN` only sends load to
//! that address, for example to an edge proxy, and prints the results.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark"
)]

#[path = "../../tests/support/chaos.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod chaos;
mod load;
#[path = "../../tests/support/redis_server.rs"]
mod redis_server;
mod stores;
#[path = "../../tests/store/things.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod things;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};
use anyhow::{Context, ensure};
use auth_service::app;
use auth_service::config::Config;
use auth_service::domain::clock::{Clock, SystemClock};
use auth_service::keys::seal::{StoreKey, SystemRandomSource};
use auth_service::state::AppState;
use auth_service::store::Store;
use auth_service::store::embedded::EmbeddedStore;
use clap::Parser;
use metrics_exporter_prometheus::PrometheusBuilder;

use load::{Figures, drive, request};

#[derive(Parser)]
struct Options {
    /// Only send load to this address.
    #[arg(long)]
    url: Option<url::Url>,
    /// The `Host` to send, if it differs from the host of the URL.
    #[arg(long)]
    host: Option<String>,
    /// The access token to send.
    #[arg(long, default_value = "none")]
    bearer: String,
    /// HTTP method of the checked request.
    #[arg(long, default_value = "GET")]
    method: String,
    /// Number of open connections.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Duration of each measurement, in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Number of measurements of each kind. The median is printed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Number of accounts. Their tokens are used in turn.
const PEOPLE: usize = 256;

#[actix_web::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let time = Duration::from_secs(options.seconds);
    if let Some(url) = &options.url {
        let to = url.socket_addrs(|| None)?.into_iter().next().context("no address")?;
        let host = options.host.clone().unwrap_or_else(|| url.authority().to_owned());
        let requests = Arc::new(vec![request(&options.method, url.path(), &host, &options.bearer)]);
        print("load", &drive(to, &requests, options.connections, time)?);
        return Ok(());
    }
    check(&options, time).await?;
    stores::compare().await
}

/// Compares an allowed check whose token is cached with a handler that checks nothing.
async fn check(options: &Options, time: Duration) -> anyhow::Result<()> {
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let directory = tempfile::tempdir()?;
    let key = StoreKey::new([7; 32]);
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(directory.path(), &key)?);
    let policy = directory.path().join("policy.toml");
    std::fs::write(&policy, include_str!("policy.toml"))?;
    let settings = [
        ("POLICY_FILE", policy.to_str().context("the directory is not UTF-8 text")?),
        ("ISSUER", things::ISSUER),
        ("PROTECTED_HOSTS", "mcp.example"),
        ("WORKERS", "1"),
        ("PUBLIC_LISTEN", "127.0.0.1:0"),
        ("EDGE_LISTEN", "127.0.0.1:0"),
        ("OPS_LISTEN", "127.0.0.1:0"),
    ];
    let config = Config::from_variables(settings.map(|(name, value)| (name.to_owned(), value.to_owned())))?;
    let listeners = config.listeners;
    let clock = Arc::new(SystemClock);
    let state = Data::new(
        AppState::new(config, Arc::clone(&store), &key, clock, Arc::new(SystemRandomSource)).await?,
    );
    let tokens = tokens(&state).await?;
    let servers = app::listen(listeners, &state, metrics)?;
    let edge = servers.addresses[1];
    tokio::spawn(servers.public);
    tokio::spawn(servers.edge);
    tokio::spawn(servers.ops);

    let asked = |token: &String| request("POST", "/verify/envoy/mcp", "mcp.example", token);
    let requests: Arc<Vec<Vec<u8>>> = Arc::new(tokens.iter().map(asked).collect());
    let url = format!("http://{edge}/verify/envoy/mcp");
    let sample = reqwest::Client::builder().no_proxy().build()?;
    let sample = sample.post(url).header("host", "mcp.example").header("x-forwarded-proto", "https");
    let sample = sample.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/call");
    let refused = sample.try_clone().context("a request without a body")?.header("mcp-name", "delete_page");
    let refused = refused.bearer_auth(&tokens[0]).send().await?.status();
    ensure!(refused == reqwest::StatusCode::FORBIDDEN, "the rules do not count: {refused}");
    let sample = sample.header("mcp-name", "read_page").bearer_auth(&tokens[0]).send().await?;
    ensure!(sample.status() == reqwest::StatusCode::OK, "{}", sample.status());
    let mut headers = Vec::new();
    for (name, value) in sample.headers().iter().filter(|(name, _)| name.as_str() != "date") {
        if name.as_str() != "content-length" {
            headers.push((name.as_str().parse()?, value.to_str()?.parse()?));
        }
    }
    let floor = bare(headers)?;

    let (mut floors, mut checks) = (Vec::new(), Vec::new());
    // The load is generated by another thread, because the servers run on this one.
    let round = async |to: SocketAddr, time: Duration| {
        let (requests, connections) = (Arc::clone(&requests), options.connections);
        tokio::task::spawn_blocking(move || drive(to, &requests, connections, time)).await?
    };
    round(floor, time / 3).await?;
    round(edge, time / 3).await?;
    // The two measurements alternate, so that other work on this machine affects both.
    for _ in 0..options.rounds {
        floors.push(round(floor, time).await?);
        checks.push(round(edge, time).await?);
    }
    let (floor, check) = (median(floors), median(checks));
    println!(
        "check, token cached, policy and assertion on ({PEOPLE} tokens, {} connections, one worker)",
        options.connections
    );
    print("  bare handler", &floor);
    print("  check", &check);
    println!(
        "  ratio to the floor: throughput {:.2}, p50 {:.2}, p99 {:.2}",
        check.a_second / floor.a_second,
        check.p50.as_secs_f64() / floor.p50.as_secs_f64(),
        check.p99.as_secs_f64() / floor.p99.as_secs_f64()
    );
    Ok(())
}

fn median(mut figures: Vec<Figures>) -> Figures {
    figures.sort_by(|a, b| a.a_second.total_cmp(&b.a_second));
    figures.remove(figures.len() / 2)
}

fn print(what: &str, figures: &Figures) {
    println!(
        "{what:<28} {:>9.0}/s   p50 {:>9.1?}   p99 {:>9.1?}",
        figures.a_second, figures.p50, figures.p99
    );
}

/// Starts a handler that only responds with 200 and these headers. Returns its address.
fn bare(headers: Vec<(HeaderName, HeaderValue)>) -> anyhow::Result<SocketAddr> {
    // The headers are shared, because actix clones the handler for every request.
    let headers: Arc<[_]> = headers.into();
    let server = HttpServer::new(move || {
        let headers = Arc::clone(&headers);
        App::new().default_service(web::to(move || {
            let mut response = HttpResponse::new(StatusCode::OK);
            for (name, value) in headers.iter() {
                response.headers_mut().insert(name.clone(), value.clone());
            }
            std::future::ready(response)
        }))
    })
    .workers(1)
    .backlog(4096)
    .keep_alive(Duration::from_secs(90))
    .disable_signals()
    .bind("127.0.0.1:0")?;
    let address = server.addrs()[0];
    tokio::spawn(server.run());
    Ok(address)
}

/// Creates access tokens of [`PEOPLE`] accounts.
async fn tokens(state: &AppState) -> anyhow::Result<Vec<String>> {
    let mut tokens = Vec::new();
    for n in 0..PEOPLE {
        let (_, _, grant) = things::granted(state.store.as_ref(), &format!("p{n}"), &format!("r{n}")).await;
        tokens.push(things::access_token(&state.keys, &grant, SystemClock.now()));
    }
    Ok(tokens)
}
