//! Measures calls per second and latency through the wrapper, and compares them with three baselines from the
//! same run: the same child without a bridge, a bare actix handler that returns the same bytes, and the
//! smallest bridge between HTTP and that child. `tests/bench` runs this program with everything that it needs.
//!
//! ```text
//! bench run --wrapper PATH [--seconds N] [--child NAME=COMMAND]… [--peer NAME=URL]…
//! bench eras --wrapper PATH [--seconds N] [--small]
//! bench echo          the compiled echo child
//! bench bare PORT     the bare handler
//! bench bridge PORT WORKERS COMMAND…   the smallest bridge
//! bench load NAME=URL [--seconds N] [--in-flight N] [--size BYTES]
//! bench soak --wrapper PATH [--seconds N]
//! bench streams --wrapper PATH [--count N]
//! ```

mod bridge;
mod client;
mod eras;
mod first_byte;
mod floors;
mod load;
mod report;
mod soak;

use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the compiled echo child.
    Echo {
        /// Support only the stateless revision.
        #[arg(long)]
        stateless: bool,
    },
    /// Run the bare handler, which only returns the response.
    Bare { port: u16 },
    /// Run the smallest bridge, which copies lines between HTTP and the child.
    Bridge {
        port: u16,
        workers: usize,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Measure the wrapper and all programs that it is compared with.
    Run(Run),
    /// Measure stateless requests, and translation between the eras.
    Eras {
        #[arg(long)]
        wrapper: String,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Measure only results of 100 bytes.
        #[arg(long)]
        small: bool,
    },
    /// Open, use, abandon and kill sessions for this number of seconds.
    Soak {
        #[arg(long)]
        wrapper: String,
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Send load to a program that is already running, so that you can profile it.
    Load {
        /// The name and URL of a peer, as for `run`.
        peer: String,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        #[arg(long, default_value_t = 16)]
        in_flight: usize,
        /// Size of a result, in bytes.
        #[arg(long, default_value_t = 100)]
        size: usize,
    },
    /// Open idle streams, and measure the memory of the wrapper.
    Streams {
        #[arg(long)]
        wrapper: String,
        #[arg(long, default_value_t = 10_000)]
        count: usize,
    },
}

#[derive(clap::Args)]
struct Run {
    /// Path of the wrapper's binary.
    #[arg(long)]
    wrapper: String,
    /// Duration of each measurement, in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// A real child: a name, and a command that is split at spaces. It needs a tool `echo` with an argument
    /// `size`.
    #[arg(long = "child")]
    children: Vec<String>,
    /// A peer that already serves the compiled echo child: a name and a URL.
    #[arg(long = "peer")]
    peers: Vec<String>,
    /// Measure only results of 100 bytes.
    #[arg(long)]
    small: bool,
    /// Numbers of calls in flight, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    in_flight: Vec<usize>,
}

fn main() -> anyhow::Result<()> {
    match Options::parse().command {
        Command::Echo { stateless } => floors::echo(stateless),
        Command::Eras { wrapper, seconds, small } => {
            let sizes: &[usize] = if small { &[100] } else { &[100, 1_000_000] };
            block_on(eras::compare(&wrapper, seconds, sizes))
        }
        Command::Bare { port } => floors::bare(port),
        Command::Bridge { port, workers, command } => bridge::serve(port, workers, &command),
        Command::Run(run) => block_on(compare(&run)),
        Command::Load { peer, seconds, in_flight, size } => block_on(async {
            let mut report = report::Report::new(Duration::from_secs(seconds));
            report::Report::heading(size, in_flight);
            report.http(&target(&peer)?, size, in_flight, None).await;
            Ok(())
        }),
        Command::Soak { wrapper, seconds } => block_on(soak::sessions(&wrapper, seconds)),
        Command::Streams { wrapper, count } => block_on(soak::streams(&wrapper, count)),
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

/// A program to measure: its name and address.
struct Target {
    name: String,
    host: String,
    path: String,
    /// The process whose processor time is reported.
    process: Option<u32>,
}

async fn compare(run: &Run) -> anyhow::Result<()> {
    let own = std::env::current_exe()?.display().to_string();
    let echo = vec![own.clone(), "echo".to_owned()];
    let mut report = report::Report::new(Duration::from_secs(run.seconds));

    let _bare = client::Process::start(&[own, "bare".to_owned(), "18590".to_owned()])?;
    client::wait_for("127.0.0.1:18590").await?;
    let bare = Target {
        name: "bare handler".to_owned(),
        host: "127.0.0.1:18590".to_owned(),
        path: "/mcp".to_owned(),
        process: None,
    };

    let mut children = vec![("compiled echo".to_owned(), echo)];
    for child in &run.children {
        let (name, command) = child.split_once('=').context("--child must be NAME=COMMAND")?;
        children.push((name.to_owned(), command.split_whitespace().map(str::to_owned).collect()));
    }
    let mut wrappers = Vec::new();
    for (index, (name, command)) in children.iter().enumerate() {
        let port = 18600 + 2 * u16::try_from(index)?;
        let process = start_wrapper(&run.wrapper, port, command).await?;
        let target = Target {
            name: format!("wrapper, {name}"),
            host: format!("127.0.0.1:{port}"),
            path: "/mcp".to_owned(),
            process: Some(process.id()),
        };
        wrappers.push((name.clone(), command.clone(), target, process));
    }
    let mut peers = Vec::new();
    for peer in &run.peers {
        peers.push(target(peer)?);
    }
    let sizes: &[usize] = if run.small { &[100] } else { &[100, 1_000_000] };
    for size in sizes {
        for &in_flight in &run.in_flight {
            report::Report::heading(*size, in_flight);
            report.http(&bare, *size, in_flight, None).await;
            for (name, command, target, _) in &wrappers {
                // This server returns the text that it receives, so only small results are comparable.
                if *size > 1000 && name == "everything" {
                    continue;
                }
                let direct = report.direct(name, command, *size, in_flight).await?;
                let bridge = report.bridge(name, command, *size, in_flight, direct).await?;
                report.http(target, *size, in_flight, Some((direct, bridge))).await;
            }
            for peer in &peers {
                report.http(peer, *size, in_flight, None).await;
            }
        }
    }
    for (name, _, _, process) in &wrappers {
        println!(
            "resident memory of the wrapper after all measurements, {name}: {} MiB",
            process.resident_mib()
        );
    }
    first_byte::compare(&run.wrapper, &children).await
}

fn target(peer: &str) -> anyhow::Result<Target> {
    let (name, url) = peer.split_once('=').context("a peer must be NAME=URL")?;
    let rest = url.strip_prefix("http://").context("a peer's URL must start with http://")?;
    let (host, path) = rest.split_once('/').context("a peer's URL must have a path")?;
    Ok(Target { name: name.to_owned(), host: host.to_owned(), path: format!("/{path}"), process: None })
}

async fn start_wrapper(binary: &str, port: u16, command: &[String]) -> anyhow::Result<client::Process> {
    let mut line = vec![
        binary.to_owned(),
        format!("--listen=127.0.0.1:{port}"),
        format!("--ops-listen=127.0.0.1:{}", port + 1),
        "--log=warn".to_owned(),
        "--prewarm=1".to_owned(),
        "--".to_owned(),
    ];
    line.extend(command.iter().cloned());
    let process = client::Process::start(&line)?;
    client::wait_for(&format!("127.0.0.1:{port}")).await?;
    Ok(process)
}
