//! A load of several callers, each of which waits for the response before it sends the next call.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::client::Connection;

/// The result of a measurement.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    calls: u32,
}

impl Outcome {
    /// The average per call, if `sum` is the sum for all calls.
    pub(crate) fn a_call(&self, sum: Duration) -> Duration {
        sum.checked_div(self.calls).unwrap_or_default()
    }
}

fn outcome(mut times: Vec<Duration>, elapsed: Duration) -> Outcome {
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let per_second = times.len() as f64 / elapsed.as_secs_f64();
    let calls = u32::try_from(times.len()).unwrap_or(u32::MAX);
    Outcome { per_second, p50: at(50), p99: at(99), calls }
}

/// The kind of client that sends the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// The client has a session (revisions up to 2025-11-25).
    Session,
    /// The client is stateless (2026-07-28).
    Stateless,
    /// The client is stateless, and the server can ask it questions.
    Asked,
}

impl Style {
    /// The header lines that this kind of client adds.
    fn fields(self) -> &'static str {
        match self {
            Self::Session => "",
            Self::Stateless | Self::Asked => {
                "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: echo\r\n"
            }
        }
    }

    /// A call to the echo tool.
    fn call(self, id: usize, size: usize) -> String {
        let call = call(id, size);
        let able = match self {
            Self::Session => return call,
            Self::Stateless => "{}",
            Self::Asked => r#"{"elicitation":{}}"#,
        };
        let meta = format!(
            r#""params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{able}}},"#
        );
        call.replacen(r#""params":{"#, &meta, 1)
    }
}

/// A call to the echo tool. This project's echo children get the size of the result. Other servers get the text
/// itself if it is small.
pub(crate) fn call(id: usize, size: usize) -> String {
    let message = if size <= 1000 { "x".repeat(size) } else { String::new() };
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"size":{size},"message":"{message}"}}}}}}"#
    )
}

/// Sends the load over HTTP, in one session if the client has sessions.
pub(crate) async fn http(
    host: &str,
    path: &str,
    style: Style,
    size: usize,
    in_flight: usize,
    time: Duration,
) -> anyhow::Result<Outcome> {
    let mut opener = Connection::open(host, path, None).await?;
    if style == Style::Session {
        opener.initialize().await?;
    }
    let mut warm = Connection::open(host, path, opener.session()).await?.with_fields(style.fields());
    for _ in 0..20 {
        warm.post(&style.call(1, size)).await?;
        // The length does not show whether the response is an error.
        anyhow::ensure!(!warm.has_error(), "the response is an error");
    }
    let start = Instant::now();
    let mut callers = Vec::new();
    for caller in 0..in_flight {
        let mut connection =
            Connection::open(host, path, opener.session()).await?.with_fields(style.fields());
        callers.push(tokio::spawn(async move {
            let mut times = Vec::new();
            // The callers use different ids, because some of the other bridges hang if the ids are equal.
            let body = style.call(caller + 1, size);
            while start.elapsed() < time {
                let before = Instant::now();
                let length = connection.post(&body).await?;
                anyhow::ensure!(length > size, "the response has only {length} bytes");
                times.push(before.elapsed());
            }
            Ok(times)
        }));
    }
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await??);
    }
    Ok(outcome(times, start.elapsed()))
}

/// Sends the load directly to the child's pipes.
pub(crate) async fn direct(
    command: &[String],
    style: Style,
    size: usize,
    in_flight: usize,
    time: Duration,
) -> anyhow::Result<Outcome> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let mut process = tokio::process::Command::new(program);
    process
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = process.spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let output = child.stdout.take().context("no output")?;
    // The pipe has the size that the wrapper uses.
    let _ = rustix::pipe::fcntl_setpipe_size(&output, 1 << 20);
    let mut output = BufReader::with_capacity(256 << 10, output);
    let mut line = Vec::new();
    if style == Style::Session {
        let greeting = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
        input.write_all(format!("{greeting}\n").as_bytes()).await?;
        output.read_until(b'\n', &mut line).await?;
        input.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n").await?;
    }
    for _ in 0..20 {
        input.write_all(format!("{}\n", style.call(1, size)).as_bytes()).await?;
        output.read_until(b'\n', &mut line).await?;
    }
    let start = Instant::now();
    let mut sent = std::collections::VecDeque::new();
    let mut times = Vec::new();
    for id in 0..in_flight {
        input.write_all(format!("{}\n", style.call(id + 1, size)).as_bytes()).await?;
        sent.push_back(Instant::now());
    }
    while !sent.is_empty() {
        line.clear();
        output.read_until(b'\n', &mut line).await?;
        let before = sent.pop_front().context("there is one answer too many")?;
        times.push(before.elapsed());
        if start.elapsed() < time {
            input.write_all(format!("{}\n", style.call(1, size)).as_bytes()).await?;
            sent.push_back(Instant::now());
        }
    }
    Ok(outcome(times, start.elapsed()))
}
