//! Opens, uses, abandons and kills many sessions, and keeps many idle streams open. All their resources must be
//! freed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::{Connection, Process, wait_for};

/// Number of sessions in a wave.
const WAVE: usize = 1000;
/// Number of waves before the first measurement, because an allocator keeps memory that was once in use.
const WARM_UP: u32 = 2;
/// Number of sessions that are opened at the same time.
const AT_ONCE: usize = 50;

/// Runs waves of sessions until the time is over.
pub(crate) async fn sessions(wrapper: &str, seconds: u64) -> anyhow::Result<()> {
    let options =
        ["--session-idle=2s", "--max-sessions=2000", "--keep-alive=1s", "--stop-grace=1s", "--log=error"];
    let process = start(wrapper, 18700, &options).await?;
    for _ in 0..WARM_UP {
        wave(&process).await?;
        settle(&process).await?;
    }
    let first = usage(&process);
    println!("after {WARM_UP} waves of {WAVE}: {first}");
    let start = Instant::now();
    let mut waves = WARM_UP;
    while start.elapsed() < Duration::from_secs(seconds) {
        wave(&process).await?;
        settle(&process).await?;
        waves += 1;
        println!("after wave {waves} ({:.0?}): {}", start.elapsed(), usage(&process));
    }
    let last = usage(&process);
    ensure!(last.files <= first.files + 5, "file descriptors grew from {} to {}", first.files, last.files);
    ensure!(last.children == 0, "{} processes are left", last.children);
    ensure!(last.kib <= first.kib + 10 * 1024, "memory grew from {} to {} KiB", first.kib, last.kib);
    println!(
        "{} sessions in {waves} waves: no process, file descriptor or memory is left",
        WAVE * waves as usize
    );
    Ok(())
}

async fn wave(process: &Process) -> anyhow::Result<()> {
    let mut running = JoinSet::new();
    for index in 0..WAVE {
        if running.len() >= AT_ONCE {
            running.join_next().await.context("nothing runs")???;
        }
        running.spawn(one_session(index));
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    ensure!(process.resident_kib() > 0, "the wrapper has exited");
    Ok(())
}

/// Opens a session, and ends it in one of five ways.
async fn one_session(index: usize) -> anyhow::Result<()> {
    let mut connection = Connection::open("127.0.0.1:18700", "/mcp", None).await?;
    let answer = connection.initialize().await?;
    for size in [10, 1000, 50_000] {
        connection.call(size).await?;
    }
    match index % 5 {
        0 => connection.delete().await,
        // The session is abandoned, and the reaper must end it.
        1 => Ok(()),
        2 => kill(&answer),
        3 => {
            // The connection of a GET stream breaks.
            let stream = connection.listen().await?;
            drop(stream);
            Ok(())
        }
        _ => {
            // The client disconnects during a call.
            connection.send_call(900_000).await
        }
    }
}

/// Kills the child of a session. The response from the echo child contains its process id.
fn kill(initialized: &str) -> anyhow::Result<()> {
    let pid = initialized.split_once("\"version\":\"").and_then(|(_, rest)| rest.split('"').next());
    let pid = pid
        .and_then(|pid| pid.parse().ok())
        .and_then(rustix::process::Pid::from_raw)
        .context("no process id")?;
    Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
}

/// Waits until no session and no child is left.
async fn settle(process: &Process) -> anyhow::Result<()> {
    for _ in 0..600 {
        if usage(process).children == 0 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("a minute later: {}", usage(process))
}

struct Usage {
    kib: u64,
    files: usize,
    children: usize,
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} KiB resident, {} file descriptors, {} processes", self.kib, self.files, self.children)
    }
}

fn usage(process: &Process) -> Usage {
    let directory = format!("/proc/{}", process.id());
    let tasks = std::fs::read_dir(format!("{directory}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    Usage {
        kib: process.resident_kib(),
        files: std::fs::read_dir(format!("{directory}/fd")).map_or(0, Iterator::count),
        children: children.map(|list| list.split_whitespace().count()).sum(),
    }
}

/// Opens this number of sessions on one shared child, each with an idle GET stream.
pub(crate) async fn streams(wrapper: &str, count: usize) -> anyhow::Result<()> {
    let process = start(wrapper, 18710, &["--shared", "--max-sessions=50000", "--log=error"]).await?;
    open_streams(100).await?.clear();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = process.resident_kib();
    let start = Instant::now();
    let streams = open_streams(count).await?;
    println!("{count} streams opened in {:.1?}", start.elapsed());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let after = process.resident_kib();
    ensure!(streams.iter().all(is_open), "a stream was closed");
    let each = (after.saturating_sub(before)) * 1024 / u64::try_from(count)?;
    println!(
        "{count} idle streams of as many sessions: {before} KiB before, {after} KiB with them, {each} bytes each"
    );
    Ok(())
}

async fn open_streams(count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    let mut running = JoinSet::new();
    for index in 0..count {
        running.spawn(async {
            let mut connection = Connection::open("127.0.0.1:18710", "/mcp", None).await?;
            connection.initialize().await?;
            connection.listen().await
        });
        if running.len() >= AT_ONCE || index + 1 == count {
            streams.push(running.join_next().await.context("nothing runs")???);
        }
    }
    while let Some(stream) = running.join_next().await {
        streams.push(stream??);
    }
    Ok(streams)
}

/// Whether the stream is open. Reading from a closed stream returns 0 bytes.
fn is_open(stream: &TcpStream) -> bool {
    let mut piece = [0; 4096];
    !matches!(stream.try_read(&mut piece), Ok(0))
}

async fn start(wrapper: &str, port: u16, options: &[&str]) -> anyhow::Result<Process> {
    let mut line = vec![
        wrapper.to_owned(),
        format!("--listen=127.0.0.1:{port}"),
        format!("--ops-listen=127.0.0.1:{}", port + 1),
    ];
    line.extend(options.iter().map(|option| (*option).to_owned()));
    line.extend(["--".to_owned(), std::env::current_exe()?.display().to_string(), "echo".to_owned()]);
    let process = Process::start(&line)?;
    wait_for(&format!("127.0.0.1:{port}")).await?;
    Ok(process)
}

impl Connection {
    async fn call(&mut self, size: usize) -> anyhow::Result<()> {
        let length = self.post(&crate::load::call(1, size)).await?;
        ensure!(length > size, "a response of {length} bytes");
        Ok(())
    }

    async fn send_call(&mut self, size: usize) -> anyhow::Result<()> {
        let body = crate::load::call(1, size);
        let head = self
            .head("POST", &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
        Ok(self.socket().write_all(format!("{head}{body}").as_bytes()).await?)
    }

    async fn delete(&mut self) -> anyhow::Result<()> {
        let head = self.head("DELETE", "");
        self.socket().write_all(head.as_bytes()).await?;
        self.read_answer().await.map(|_| ())
    }

    /// Opens the GET stream on this connection and waits for its priming event.
    async fn listen(mut self) -> anyhow::Result<TcpStream> {
        let head = self.head("GET", "");
        self.socket().write_all(head.as_bytes()).await?;
        let mut seen = Vec::new();
        while memchr::memmem::find(&seen, b"data: \n\n").is_none() {
            ensure!(
                self.socket().read_buf(&mut seen).await? > 0,
                "no stream: {}",
                String::from_utf8_lossy(&seen)
            );
        }
        Ok(self.into_socket())
    }
}
