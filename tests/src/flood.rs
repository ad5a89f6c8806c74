//! Floods: thousands of connections whose requests never end, and requests without pauses.
//!
//! A flood runs on a separate thread with the lowest priority, so that its own use of the processor affects the
//! measured program as little as possible.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;

use crate::raw;

/// An increment of a thread's nice value that results in the lowest priority, whatever the value was.
const LOWEST: i32 = 39;

/// How long an attacker waits before replacing a closed connection.
const AGAIN: Duration = Duration::from_secs(2);

/// The bytes that each connection sends before it becomes silent.
#[derive(Debug, Clone)]
pub enum Kind {
    /// An unterminated request head of this many bytes.
    Head(usize),
    /// A request head with an unterminated line of this many bytes.
    Line(usize),
    /// A request to this path whose body has this many bytes, which is less than its head announces.
    Body(String, usize),
    /// Exactly these bytes, for requests that no other kind covers.
    Bytes(Vec<u8>),
}

impl Kind {
    fn bytes(&self, host: &str) -> Vec<u8> {
        match self {
            Self::Head(length) => {
                // A line has at least a kilobyte, and there are at most about 80 lines. Many servers limit a
                // line or the number of lines more strictly than the whole head.
                let line = "x".repeat(1000.max(length / 80));
                let mut head = format!("GET /mcp HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
                let mut number = 0;
                while head.len() < *length {
                    head.extend_from_slice(format!("X-Line-{number}: {line}\r\n").as_bytes());
                    number += 1;
                }
                head.truncate(*length);
                head
            }
            Self::Line(length) => {
                format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Line: {}", "x".repeat(*length)).into_bytes()
            }
            Self::Body(path, length) => {
                let mut request = format!(
                    "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
                    length + 5000
                )
                .into_bytes();
                request.resize(request.len() + length, b'a');
                request
            }
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// The results of a flood so far.
#[derive(Debug, Default)]
pub struct Counts {
    tried: AtomicUsize,
    opened: AtomicUsize,
    answers: Mutex<BTreeMap<u16, usize>>,
}

impl Counts {
    /// Counts a response with this status.
    pub fn answered(&self, status: u16) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
    }
}

/// A flood that runs until this value is dropped.
#[derive(Debug)]
pub struct Flood {
    counts: Arc<Counts>,
    runtime: Option<Runtime>,
}

impl Flood {
    /// Runs this work for each of `members` attackers at the same time.
    pub fn of<W: Future<Output = ()> + Send + 'static>(
        members: usize,
        work: impl Fn(usize, Arc<Counts>) -> W,
    ) -> Self {
        let mut builder = Builder::new_multi_thread();
        // On Linux, this sets the priority of only the calling thread.
        builder.worker_threads(1).on_thread_start(|| {
            let _ = rustix::process::nice(LOWEST);
        });
        let runtime = builder.enable_all().build().expect("a runtime can be created");
        let counts = Arc::new(Counts::default());
        for member in 0..members {
            runtime.spawn(work(member, counts.clone()));
        }
        Self { counts, runtime: Some(runtime) }
    }

    /// Keeps this many connections to a loopback port open. They come from this many addresses other than
    /// `127.0.0.1`, or from `127.0.0.1` if the number is 0.
    pub fn stalled(port: u16, host: &str, kind: &Kind, connections: usize, addresses: u8) -> Self {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self::holding(to, kind.bytes(host), connections, move |number| nth(number, addresses))
    }

    /// Keeps this many connections open, all from the same address.
    pub fn from_one_address(
        from: Ipv4Addr,
        to: SocketAddr,
        host: &str,
        kind: &Kind,
        connections: usize,
    ) -> Self {
        Self::holding(to, kind.bytes(host), connections, move |_| from)
    }

    fn holding(to: SocketAddr, bytes: Vec<u8>, connections: usize, from: impl Fn(usize) -> Ipv4Addr) -> Self {
        let bytes: Arc<[u8]> = bytes.into();
        Self::of(connections, |number, counts| {
            let (bytes, from) = (bytes.clone(), from(number));
            async move {
                // The connections do not start at the same instant, because the kernel would then drop most of
                // them.
                sleep(Duration::from_micros(u64::try_from(number).unwrap_or(0) * 400)).await;
                loop {
                    counts.tried.fetch_add(1, Ordering::Relaxed);
                    if let Some(stream) = connect(from, to).await {
                        counts.opened.fetch_add(1, Ordering::Relaxed);
                        hold(stream, &bytes, &counts).await;
                    }
                    sleep(AGAIN).await;
                }
            }
        })
    }

    /// Keeps this many connections open, from addresses as in [`Flood::stalled`]. Each of them sends these bytes and
    /// reads nothing.
    pub fn unread(port: u16, bytes: Vec<u8>, connections: usize, addresses: u8) -> Self {
        let (to, bytes) = (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Arc::<[u8]>::from(bytes));
        Self::of(connections, |number, counts| {
            let (bytes, from) = (bytes.clone(), nth(number, addresses));
            async move {
                sleep(Duration::from_micros(u64::try_from(number).unwrap_or(0) * 400)).await;
                let Some(mut stream) = connect(from, to).await else { return };
                counts.opened.fetch_add(1, Ordering::Relaxed);
                if stream.write_all(&bytes).await.is_ok() {
                    std::future::pending::<()>().await;
                }
            }
        })
    }

    /// Keeps this many connections open, from addresses as in [`Flood::stalled`]. Each of them sends one request
    /// after another. `request` creates the request with this number.
    pub fn requests(
        port: u16,
        connections: usize,
        addresses: u8,
        request: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let (request, next) = (Arc::new(request), Arc::new(AtomicUsize::new(0)));
        Self::of(connections, |member, counts| {
            let (request, next) = (request.clone(), next.clone());
            let address = nth(member, addresses);
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            async move {
                loop {
                    let Some(mut stream) = connect(address, to).await else {
                        sleep(Duration::from_millis(50)).await;
                        continue;
                    };
                    counts.opened.fetch_add(1, Ordering::Relaxed);
                    while let Some(status) =
                        ask(&mut stream, &request(next.fetch_add(1, Ordering::Relaxed))).await
                    {
                        counts.answered(status);
                    }
                }
            }
        })
    }

    /// The number of attempts to open a connection so far.
    pub fn tried(&self) -> usize {
        self.counts.tried.load(Ordering::Relaxed)
    }

    /// The number of connections that have been opened so far.
    pub fn opened(&self) -> usize {
        self.counts.opened.load(Ordering::Relaxed)
    }

    /// The number of responses by status.
    pub fn answers(&self) -> BTreeMap<u16, usize> {
        self.counts.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn nth(member: usize, addresses: u8) -> Ipv4Addr {
    let last = match usize::from(addresses) {
        0 => 1,
        addresses => u8::try_from(2 + member % addresses).unwrap_or(2),
    };
    Ipv4Addr::new(127, 0, 0, last)
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from((from, 0))).ok()?;
    socket.connect(to).await.ok()
}

/// Sends bytes and waits until the other side closes the connection. Counts the status of the first response, if
/// there is one.
async fn hold(mut stream: TcpStream, bytes: &[u8], counts: &Counts) {
    let (mut from, mut to) = stream.split();
    let write = async {
        // The other side determines the speed, and can close the connection before the end.
        to.write_all(bytes).await.ok();
        std::future::pending::<()>().await;
    };
    let read = async {
        let mut buffer = [0; 1024];
        let mut is_first = true;
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let head = String::from_utf8_lossy(&buffer[..count.min(12)]).into_owned();
            if let Some(status) = head.strip_prefix("HTTP/1.1 ").filter(|_| is_first) {
                counts.answered(status.parse().unwrap_or(0));
            }
            is_first = false;
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

/// Sends a request. Returns the status of the response, or `None` if the connection ends before it.
async fn ask(stream: &mut TcpStream, request: &[u8]) -> Option<u16> {
    stream.write_all(request).await.ok()?;
    let (mut received, mut buffer) = (Vec::new(), vec![0; 65536]);
    loop {
        if may_be_whole(&received)
            && let Some((answer, _)) = raw::parsed(&received)
        {
            return Some(answer.status);
        }
        let count = stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        received.extend_from_slice(&buffer[..count]);
    }
}

/// Whether these bytes are worth parsing. If all chunks of a large response were parsed after each piece, the
/// parsing would delay the next request of the flood.
fn may_be_whole(received: &[u8]) -> bool {
    let start = received.get(..1024.min(received.len())).unwrap_or_default().to_ascii_lowercase();
    let is_chunked = start.windows(7).any(|window| window == b"chunked");
    received.len() < 1 << 16 || !is_chunked || received.ends_with(b"\r\n0\r\n\r\n")
}

/// The response times of honest requests.
#[derive(Debug, Default)]
pub struct Times(Vec<Duration>);

/// After this time, no further request is measured, because the requests of a flood are valid for only a minute.
const LONG_ENOUGH: Duration = Duration::from_secs(8);

impl Times {
    /// Measures at most `count` requests, one after another. Stops early on a slow machine (after `LONG_ENOUGH`).
    pub async fn of(count: usize, request: impl AsyncFnMut()) -> Self {
        Self::with_pauses(Duration::ZERO, count, request).await
    }

    /// Like [`of`](Self::of), with a pause before each request. Without pauses, hundreds of short requests would
    /// all fall into the same moment of a flood.
    pub async fn with_pauses(pause: Duration, count: usize, mut request: impl AsyncFnMut()) -> Self {
        let mut all = Vec::with_capacity(count);
        let first = Instant::now();
        while all.len() < count && first.elapsed() < LONG_ENOUGH {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let start = Instant::now();
            request().await;
            all.push(start.elapsed());
        }
        all.sort();
        Self(all)
    }

    /// The time within which this percentage of the requests was served.
    pub fn quantile(&self, of_hundred: usize) -> Duration {
        self.0
            .get((self.0.len() * of_hundred / 100).min(self.0.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }
}

impl Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |of_hundred| self.quantile(of_hundred).as_secs_f64() * 1000.0;
        write!(f, "p50 {:.1} ms, p99 {:.1} ms", ms(50), ms(99))
    }
}
