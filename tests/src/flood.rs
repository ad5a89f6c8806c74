//! Strangers who open connections by the thousand and end nothing that they begin.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How soon somebody whose connection was closed opens another.
const AGAIN: Duration = Duration::from_secs(2);

/// What each connection sends before it goes silent.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A head of so many bytes that does not end.
    Head(usize),
    /// A head that announces more than the body of so many bytes that follows, to this path.
    Body(String, usize),
}

impl Kind {
    fn bytes(&self, host: &str) -> Vec<u8> {
        match self {
            Self::Head(length) => {
                // Lines of a kilobyte, since many servers refuse a longer one sooner than the sum.
                let mut head = format!("GET /mcp HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
                let mut number = 0;
                while head.len() < *length {
                    head.extend_from_slice(format!("X-Line-{number}: {}\r\n", "x".repeat(1000)).as_bytes());
                    number += 1;
                }
                head.truncate(*length);
                head
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
        }
    }
}

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Flood {
    opened: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Flood {
    /// So many connections to a loopback port at a time, all from one address that is not `127.0.0.1`.
    pub fn start(port: u16, host: &str, kind: &Kind, connections: usize) -> Self {
        let bytes: Arc<[u8]> = kind.bytes(host).into();
        let opened = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let (bytes, opened) = (bytes.clone(), opened.clone());
            tasks.spawn(async move {
                // Not all in the same instant: the kernel would drop most of them.
                sleep(Duration::from_micros(u64::try_from(number).unwrap_or(0) * 400)).await;
                loop {
                    if let Some(stream) = connect(port).await {
                        opened.fetch_add(1, Ordering::Relaxed);
                        hold(stream, &bytes).await;
                    }
                    sleep(AGAIN).await;
                }
            });
        }
        Self { opened, _tasks: tasks }
    }

    /// All that were ever opened.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

async fn connect(port: u16) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0))).ok()?;
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.ok()
}

/// Until the other side ends it.
async fn hold(mut stream: TcpStream, bytes: &[u8]) {
    let (mut from, mut to) = stream.split();
    let write = async {
        // As fast as the other side takes it; it may end the connection before.
        to.write_all(bytes).await.ok();
        std::future::pending::<()>().await;
    };
    let read = async {
        let mut buffer = [0; 1024];
        while let Ok(count) = from.read(&mut buffer).await {
            if count == 0 {
                break;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}
