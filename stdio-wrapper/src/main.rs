//! Reads the settings, and runs the program. Only this file uses the real clock and the real random source.

// `println!` and `eprintln!` panic if the pipe is closed. `contract::printing` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod healthcheck;
mod manual;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use contract::printing::print_error;
use stdio_wrapper::app::{self, World};
use stdio_wrapper::child::{BECOME, COUNT, SUPERVISE, become_child, count_watches, supervise};
use stdio_wrapper::config::{Config, Options};
use stdio_wrapper::log;
#[cfg(feature = "jemalloc")]
use tikv_jemallocator::Jemalloc;

/// jemalloc returns memory to the system after a burst. The allocator of the C library keeps most of the memory
/// after many small responses.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(SUPERVISE) => return supervise(arguments),
        Some(BECOME) => return become_child(arguments),
        Some(COUNT) => return count_watches(arguments),
        _ => {}
    }
    let options = Options::of_command_line();
    let printed = match options.completions {
        Some(shell) => Some(manual::completions(shell)),
        None => options.man.then(manual::page),
    };
    if let Some(printed) = printed {
        return match printed {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                print_error(format_args!("stdio-wrapper: {error}"));
                ExitCode::FAILURE
            }
        };
    }
    if options.healthcheck {
        return match healthcheck::ask(&options.ops_listen) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                print_error(format_args!("stdio-wrapper: {problem}"));
                ExitCode::FAILURE
            }
        };
    }
    let variables = || std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let (misspelt, doubts) = (options.misspelt(variables()), options.perhaps_misspelt(variables()));
    let config = match Config::new(&options, &|name| std::env::var(name).ok()) {
        Ok(config) if misspelt.is_empty() => config,
        config => {
            let problems = misspelt.into_iter().chain(config.err().unwrap_or_default()).chain(doubts);
            print_error("stdio-wrapper cannot start:");
            for problem in problems {
                // Continuation lines must not look like separate problems.
                print_error(format_args!("  - {}", problem.replace('\n', "\n    ")));
            }
            return ExitCode::from(2);
        }
    };
    let _last_lines = match log::start(&config) {
        Ok(guard) => guard,
        Err(error) => {
            print_error(format_args!("stdio-wrapper cannot start:\n  - {error}."));
            return ExitCode::from(2);
        }
    };
    for doubt in doubts.into_iter().chain(config.doubts(&options)) {
        tracing::warn!("{doubt}");
    }
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Writing to standard error directly would block if its reader stalls.
            tracing::error!("stdio-wrapper cannot continue: {error:#}");
            ExitCode::FAILURE
        }
    }
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

/// Fills the buffer with random bytes from the kernel. A library's own generator would delay a new session by
/// tens of milliseconds when it is first used on a thread. Returns false on failure.
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
