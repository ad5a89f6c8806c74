//! Settings, then the program. The clock and the random source are the real ones here and nowhere else.

mod healthcheck;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use clap::Parser as _;
use stdio_wrapper::app::{self, World};
use stdio_wrapper::config::{Config, Options};
use tikv_jemallocator::Jemalloc;
use tracing_subscriber::EnvFilter;

/// Gives memory back to the system when a burst is over. The C library's allocator keeps most of what many small answers took.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.healthcheck {
        return match healthcheck::ask(&options.ops_listen) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("stdio-wrapper: {problem}");
                ExitCode::FAILURE
            }
        };
    }
    let config = match Config::new(&options, &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("stdio-wrapper cannot start:");
            for problem in problems {
                eprintln!("  - {problem}");
            }
            return ExitCode::from(2);
        }
    };
    if let Err(error) = start_log(&config) {
        eprintln!(
            "stdio-wrapper cannot start:\n  - LOG is `{}`, which is not a log filter: {error}. Write for example `info`.",
            config.log
        );
        return ExitCode::from(2);
    }
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stdio-wrapper cannot go on:\n  - {error:#}.");
            ExitCode::FAILURE
        }
    }
}

/// Logs go to standard error; standard output stays free.
fn start_log(config: &Config) -> Result<(), tracing_subscriber::filter::ParseError> {
    // The HTTP server's own start messages say nothing that ours do not.
    let quiet = if config.log.contains("actix_server") { "" } else { ",actix_server=warn" };
    let filter = EnvFilter::builder().parse(format!("{}{quiet}", config.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if config.log_json {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
    Ok(())
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(config.workers).enable_all().build()?;
    runtime.block_on(app::run(config, World { clock: Arc::new(unix_time), random: Arc::new(fill_random) }))
}

#[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
fn unix_time() -> u64 {
    std::time::SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// From the kernel: the first use of a library's own generator on each thread would cost a new session tens of
/// milliseconds.
fn fill_random(buffer: &mut [u8]) -> bool {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}
