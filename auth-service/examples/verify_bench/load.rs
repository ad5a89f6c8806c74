//! Generates the load over keep-alive connections. Each sends its next request as soon as it has received a
//! response.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The results of one measurement.
pub(crate) struct Figures {
    pub(crate) a_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Sends `requests` in turn over this number of connections for this time, on a separate thread. Fails if a
/// response has a status other than 200.
pub(crate) fn drive(
    to: SocketAddr,
    requests: &Arc<Vec<Vec<u8>>>,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Figures> {
    let requests = Arc::clone(requests);
    let thread = std::thread::spawn(move || -> anyhow::Result<(Vec<u64>, Duration)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let start = Instant::now();
            // The load generator never sleeps, because waking it would take the server more time than a response.
            // With slower responses, the generator would sleep more often, which would slow down the server
            // further.
            let awake = tokio::spawn(async move {
                while Instant::now() < start + time {
                    tokio::task::yield_now().await;
                }
            });
            let tasks: Vec<_> = (0..connections)
                .map(|n| tokio::spawn(ask_again_and_again(to, Arc::clone(&requests), n, start + time)))
                .collect();
            let mut all = Vec::new();
            for task in tasks {
                all.append(&mut task.await??);
            }
            let elapsed = start.elapsed();
            awake.await?;
            Ok((all, elapsed))
        })
    });
    let (mut all, elapsed) = thread.join().map_err(|_| anyhow::anyhow!("the load generator panicked"))??;
    ensure!(!all.is_empty(), "nothing was answered");
    all.sort_unstable();
    let at =
        |share: usize| Duration::from_nanos(all.get((all.len() - 1) * share / 100).copied().unwrap_or(0));
    #[expect(clippy::cast_precision_loss, reason = "a figure for humans")]
    let a_second = all.len() as f64 / elapsed.as_secs_f64();
    Ok(Figures { a_second, p50: at(50), p99: at(99) })
}

async fn ask_again_and_again(
    to: SocketAddr,
    requests: Arc<Vec<Vec<u8>>>,
    first: usize,
    until: Instant,
) -> anyhow::Result<Vec<u64>> {
    let mut stream = TcpStream::connect(to).await.with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    let mut took = Vec::new();
    let mut answer = Vec::with_capacity(8192);
    for request in requests.iter().cycle().skip(first) {
        let asked = Instant::now();
        if asked >= until {
            break;
        }
        stream.write_all(request).await?;
        read_answer(&mut stream, &mut answer).await?;
        took.push(u64::try_from(asked.elapsed().as_nanos())?);
    }
    Ok(took)
}

/// Reads one response with a Content-Length.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> anyhow::Result<()> {
    answer.clear();
    let (head, length) = loop {
        ensure!(stream.read_buf(answer).await? > 0, "the connection was closed");
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200"), "not a 200: {}", head.lines().next().unwrap_or_default());
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        break (end + 4, length.unwrap_or(0_usize));
    };
    while answer.len() < head + length {
        ensure!(stream.read_buf(answer).await? > 0, "the connection was closed");
    }
    Ok(())
}

/// The check that an edge proxy sends for a tool call by a client of MCP 2026-07-28.
pub(crate) fn request(method: &str, target: &str, host: &str, bearer: &str) -> Vec<u8> {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: https\r\nAuthorization: Bearer {bearer}\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n\
         Mcp-Name: read_page\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}
