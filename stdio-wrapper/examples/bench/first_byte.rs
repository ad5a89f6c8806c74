//! Measures the time until the first response in a new session when a spare child is ready. The baseline is the
//! first response from the same child if it is started equally early, is pinged, and receives the message
//! directly.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::client::{Connection, wait_for};
use crate::start_wrapper;

/// The time that a child has to start before the measurement, because a spare child is started before it is
/// needed.
const BEFORE: Duration = Duration::from_millis(2500);
const TIMES: usize = 5;

/// Prints a line for each child.
pub(crate) async fn compare(wrapper: &str, children: &[(String, Vec<String>)]) -> anyhow::Result<()> {
    println!();
    for (index, (name, command)) in children.iter().enumerate() {
        let direct = direct(command).await?;
        let port = 18650 + 2 * u16::try_from(index)?;
        let process = start_wrapper(wrapper, port, command).await?;
        let host = format!("127.0.0.1:{port}");
        wait_for(&host).await?;
        let fresh = process.resident_mib();
        let mut times = Vec::new();
        for _ in 0..TIMES {
            tokio::time::sleep(BEFORE).await;
            let mut connection = Connection::open(&host, "/mcp", None).await?;
            let before = Instant::now();
            connection.initialize().await?;
            times.push(before.elapsed());
        }
        println!(
            "new session with a warm spare, {name}: {}; the child itself: {}; wrapper resident when fresh: {fresh} MiB",
            middle(times),
            middle(direct)
        );
    }
    Ok(())
}

fn middle(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    format!("median {:.1?}, worst {:.1?}", at(times.len() / 2), at(times.len().saturating_sub(1)))
}

struct Started {
    _process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

async fn direct(command: &[String]) -> anyhow::Result<Vec<Duration>> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let input = process.stdin.take().context("no input")?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        let mut started = Started { _process: process, input, output };
        started.ask(r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#).await?;
        tokio::time::sleep(BEFORE).await;
        let before = Instant::now();
        started.ask(r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#).await?;
        times.push(before.elapsed());
    }
    Ok(times)
}

impl Started {
    async fn ask(&mut self, message: &str) -> anyhow::Result<()> {
        self.input.write_all(format!("{message}\n").as_bytes()).await?;
        self.input.flush().await?;
        let mut line = String::new();
        self.output.read_line(&mut line).await?;
        Ok(())
    }
}
