//! An HTTP server that replaces the wrapper. Its response describes the request that it received.
//!
//! A request can select another response with the header `X-Please`: `events` for five events at intervals of a
//! third of a second, or `download` for [`DOWNLOAD`] bytes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The length of a download, in bytes.
pub const DOWNLOAD: usize = 8 * 1024 * 1024;

/// The heads of the received requests, oldest first.
type Heads = Arc<Mutex<Vec<String>>>;

/// A running server, which is stopped when this value is dropped.
#[derive(Debug)]
pub struct Upstream {
    /// The loopback port of the server.
    pub port: u16,
    heads: Heads,
    task: JoinHandle<()>,
}

impl Upstream {
    /// Starts the server on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let port = listener.local_addr().expect("a bound address").port();
        let heads = Heads::default();
        let arrived = heads.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Connection { stream, received: Vec::new() }, arrived.clone()));
            }
        });
        Self { port, heads, task }
    }

    /// The heads of the requests that were received since the last call.
    pub fn take_heads(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    async fn more(&mut self) -> Option<()> {
        let mut buffer = vec![0; 64 * 1024];
        let count = self.stream.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        self.received.extend_from_slice(&buffer[..count]);
        Some(())
    }

    /// Reads up to and including a delimiter.
    async fn until(&mut self, delimiter: &[u8]) -> Option<Vec<u8>> {
        loop {
            let window = self.received.windows(delimiter.len()).position(|bytes| bytes == delimiter);
            if let Some(at) = window {
                return Some(self.received.drain(..at + delimiter.len()).collect());
            }
            self.more().await?;
        }
    }

    async fn exactly(&mut self, mut count: usize) -> Option<()> {
        loop {
            let taken = count.min(self.received.len());
            self.received.drain(..taken);
            count -= taken;
            if count == 0 {
                return Some(());
            }
            self.more().await?;
        }
    }

    /// Reads a body to its end. Returns its length.
    async fn body(&mut self, length: usize, chunked: bool) -> Option<usize> {
        if !chunked {
            self.exactly(length).await?;
            return Some(length);
        }
        let mut total = 0;
        loop {
            let line = self.until(b"\r\n").await?;
            let digits = String::from_utf8_lossy(&line).split(';').next()?.trim().to_owned();
            let size = usize::from_str_radix(&digits, 16).ok()?;
            if size == 0 {
                while self.until(b"\r\n").await?.len() > 2 {}
                return Some(total);
            }
            self.exactly(size + 2).await?;
            total += size;
        }
    }
}

/// Handles the requests on one connection. Headers are recorded as received, neither merged nor renamed.
async fn serve(mut connection: Connection, heads: Heads) -> Option<()> {
    loop {
        let head = connection.until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head).trim_end().to_owned();
        heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let headers: Vec<(&str, &str)> =
            lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect();
        let value =
            |name: &str| headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|pair| pair.1);
        let length = value("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let chunked = value("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        if value("expect").is_some() {
            connection.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        }
        let body_bytes = connection.body(length, chunked).await?;
        let stream = &mut connection.stream;
        match value("x-please") {
            Some("events") => events(stream).await?,
            Some("download") => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {DOWNLOAD}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(&vec![b'd'; DOWNLOAD]).await.ok()?;
            }
            _ => {
                let body = json!({ "line": line, "headers": headers, "body_bytes": body_bytes }).to_string();
                let length = body.len();
                let response = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                stream.write_all(response.as_bytes()).await.ok()?;
            }
        }
        if value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            return None;
        }
    }
}

async fn events(stream: &mut TcpStream) -> Option<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.ok()?;
    for number in 0..5 {
        let event = format!("data: {number}\n\n");
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        stream.write_all(chunk.as_bytes()).await.ok()?;
        tokio::time::sleep(Duration::from_millis(333)).await;
    }
    stream.write_all(b"0\r\n\r\n").await.ok()
}
