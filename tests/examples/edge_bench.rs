//! Measures the cost of the check at each edge proxy. It sends allowed requests through the proxy with
//! auth-service behind it, and through the same proxy with a bare actix handler that returns the same headers
//! without checking anything (the floor). The two alternate within one run.
//!
//!     cargo build --release -p auth-service && cargo run --release -p tests --example edge_bench --
//!     [SECONDS] [CONNECTIONS]
//!
//! The load and the service behind the edge run in this process. The check of each side runs in a separate
//! process. All of them share the machine.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that is run by hand"
)]

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{App, HttpResponse, HttpServer, web};
use tests::upstream::Upstream;
use tests::{Edge, Setup, Stack, raw};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// How often the floor and the check alternate.
const TURNS: u32 = 4;

/// The latencies of one side in all its turns.
#[derive(Default)]
struct Side {
    latencies: Vec<Duration>,
    busy: Duration,
}

impl Side {
    fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.latencies.len()).unwrap_or(u32::MAX)) / self.busy.as_secs_f64()
    }

    fn percentile(&mut self, percent: usize) -> Duration {
        self.latencies.sort_unstable();
        let at = self.latencies.len().saturating_sub(1) * percent / 100;
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

/// The check for the floor: an actix handler that allows every request. Like auth-service, it has its own
/// process.
struct BareHandler {
    port: u16,
    _process: Child,
}

/// The argument that turns this program into the bare handler. The handler reads the headers for its responses,
/// and prints its port.
const BARE: &str = "--bare-handler";

impl BareHandler {
    async fn start(headers: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg(BARE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        process.stdin.take().unwrap().write_all(headers.as_bytes()).await.unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).await.unwrap();
        Self { port: port.trim().parse().expect("the bare handler prints its port"), _process: process }
    }

    fn serve() {
        let text = std::io::read_to_string(std::io::stdin()).unwrap();
        let headers = text.lines().filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        // The headers are shared because actix clones the handler for every request.
        let headers: Arc<[(HeaderName, HeaderValue)]> = headers.collect();
        let server = HttpServer::new(move || {
            let headers = Arc::clone(&headers);
            App::new().default_service(web::to(move || {
                let mut response = HttpResponse::Ok().finish();
                for (name, value) in headers.iter() {
                    response.headers_mut().insert(name.clone(), value.clone());
                }
                std::future::ready(response)
            }))
        });
        let server = server.keep_alive(Duration::from_secs(90)).bind("127.0.0.1:0").unwrap();
        println!("{}", server.addrs().first().unwrap().port());
        actix_web::rt::System::new().block_on(server.run()).unwrap();
    }
}

/// The identity headers of auth-service's response if it allows a request with this token.
async fn headers_of_a_yes(stack: &Stack, token: &str) -> String {
    let bearer = format!("Bearer {token}");
    let host = format!("localhost:{}", stack.port);
    let headers =
        [("Host", host.as_str()), ("Authorization", &bearer), ("X-Edge-Secret", &stack.edge_secret)];
    let answer = raw::ask(stack.auth_edge_port, "POST", "/verify/envoy/mcp", &headers).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let lines = answer.head.lines().skip(1);
    let kept = lines.filter(|line| line.starts_with("x-auth-") || line.starts_with("cache-control"));
    kept.map(|line| format!("{line}\r\n")).collect::<Vec<_>>().concat()
}

/// Sends one request after another on each of these kept-alive connections.
async fn load(port: u16, request: &str, connections: usize, time: Duration, side: &mut Side) {
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let request = request.to_owned();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut buffer = vec![0; 16 * 1024];
            while begin.elapsed() < time {
                let sent = Instant::now();
                let mut received = Vec::new();
                let mut written = stream.write_all(request.as_bytes()).await.is_ok();
                while !is_whole(&received) {
                    let count = if written { stream.read(&mut buffer).await.unwrap_or(0) } else { 0 };
                    if count == 0 {
                        // A proxy closes a connection after a number of requests (nginx: 1000).
                        assert!(received.is_empty(), "cut off: {}", String::from_utf8_lossy(&received));
                        stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                        stream.set_nodelay(true).unwrap();
                        written = stream.write_all(request.as_bytes()).await.is_ok();
                    }
                    received.extend_from_slice(buffer.get(..count).unwrap_or_default());
                }
                assert!(received.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&received));
                latencies.push(sent.elapsed());
            }
            latencies
        });
    }
    while let Some(done) = tasks.join_next().await {
        side.latencies.extend(done.unwrap());
    }
    side.busy += begin.elapsed();
}

/// Whether the response, which has a length or chunks, is complete.
fn is_whole(received: &[u8]) -> bool {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(received.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.map_or_else(|| received.ends_with(b"0\r\n\r\n"), |length| received.len() >= end + 4 + length)
}

fn print(what: &str, floor: &mut Side, check: &mut Side) {
    let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1000.0);
    let ratio = check.rate() / floor.rate();
    let p99 = check.percentile(99).as_secs_f64() / floor.percentile(99).as_secs_f64();
    println!(
        "{what:<16} {:>8.0} {:>7} {:>7}   {:>8.0} {:>7} {:>7}   {ratio:>6.2} {p99:>6.2}",
        floor.rate(),
        ms(floor.percentile(50)),
        ms(floor.percentile(99)),
        check.rate(),
        ms(check.percentile(50)),
        ms(check.percentile(99)),
    );
}

fn main() {
    if std::env::args().nth(1).is_some_and(|argument| argument == BARE) {
        return BareHandler::serve();
    }
    tokio::runtime::Runtime::new().unwrap().block_on(compare());
}

async fn compare() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(2, |text| text.parse().expect("SECONDS is a number"));
    let connections = arguments.next().map_or(16, |text| text.parse().expect("CONNECTIONS is a number"));
    let time = Duration::from_secs(seconds);
    println!(
        "{TURNS} turns of {seconds} s a side, {connections} connections, allowed requests; ratio = with auth-service / floor\n"
    );
    println!("{:<16} {:>24}   {:>24}", "", "floor", "auth-service");
    let columns = "req/s  p50 ms  p99 ms";
    println!("{:<16} {columns:>24}   {columns:>24}   {:>6} {:>6}", "through", "req/s", "p99");
    let mut direct_is_done = false;
    for edge in Edge::ALL {
        if let Err(why) = edge.program() {
            println!("{edge}: skipped; {why}");
            continue;
        }
        let upstream = Upstream::start().await;
        let setup = Setup::as_shipped().with_any_rate().in_front_of(upstream.port);
        let real = setup.clone().through(edge).start().await;
        let token = real.log_in().await.access_token;
        let bare_handler = BareHandler::start(&headers_of_a_yes(&real, &token).await).await;
        let port = bare_handler.port;
        // gRPC has no floor here, so it is compared with the floor of the HTTP variant.
        let floor_edge = if edge == Edge::EnvoyGrpc { Edge::EnvoyHttp } else { edge };
        let floor = setup.through(floor_edge).checked_at(port).with_any_answer().start().await;
        let request = |stack: &Stack, target: &str, secret: &str| {
            let host = format!("localhost:{}", stack.port);
            let bearer = format!("Bearer {token}");
            let headers = [("Host", host.as_str()), ("Authorization", &bearer), ("X-Edge-Secret", secret)];
            raw::head("GET", target, headers.get(..if secret.is_empty() { 2 } else { 3 }).unwrap())
        };
        if !direct_is_done {
            direct_is_done = true;
            let request = request(&real, "/verify/envoy/mcp", &real.edge_secret);
            let (mut bare, mut check) = (Side::default(), Side::default());
            for _ in 0..TURNS {
                load(port, &request, connections, time, &mut bare).await;
                load(real.auth_edge_port, &request, connections, time, &mut check).await;
            }
            print("no proxy", &mut bare, &mut check);
        }
        let (mut bare, mut check) = (Side::default(), Side::default());
        for _ in 0..TURNS {
            load(floor.port, &request(&floor, "/mcp", ""), connections, time, &mut bare).await;
            upstream.take_heads();
            load(real.port, &request(&real, "/mcp", ""), connections, time, &mut check).await;
            upstream.take_heads();
        }
        print(&edge.to_string(), &mut bare, &mut check);
    }
}
