//! The log on standard error. A thread of its own writes it, so that nobody waits if its reader stalls (a log
//! driver whose disk is full, a pipe that nobody reads).

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::Config;

/// Maximum number of lines that wait to be written. When it is reached, further lines are left out and counted.
/// The longest are lines of a child, with 4 KiB.
const MAX_WAITING: usize = 1024;

/// Counts the lines that were left out. The log is one for the whole process, as standard error is.
static LEFT_OUT: OnceLock<ErrorCounter> = OnceLock::new();

/// Why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The setting cannot be read.
    #[error("LOG is `{filter}`, which is not a log filter: {cause}. Write for example `info`")]
    Filter {
        /// The setting.
        filter: String,
        /// What is wrong with it.
        cause: ParseError,
    },
    /// Standard error is closed.
    #[error("the log cannot be written to standard error: {0}")]
    Closed(#[from] io::Error),
}

/// Starts the log. Dropping the guard writes the lines that wait, but waits no longer than a second for a reader that has
/// stalled.
///
/// # Errors
/// If the setting is not a filter, or standard error is closed.
pub fn start(config: &Config) -> Result<WorkerGuard, LogError> {
    // The HTTP server's own start messages add nothing to those of this program.
    let quiet = if config.log.contains("actix_server") { "" } else { ",actix_server=warn" };
    let filter = EnvFilter::builder()
        .parse(format!("{}{quiet}", config.log))
        .map_err(|cause| LogError::Filter { filter: config.log.clone(), cause })?;
    // Not through the standard library, which has a lock that everybody else who prints would wait for.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let writer =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_WAITING).thread_name("log");
    let (writer, guard) = writer.finish(out);
    LEFT_OUT.get_or_init(|| writer.error_counter());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    if config.log_json {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("{}", panic.to_string().replace('\n', " "))));
    Ok(guard)
}

/// The number of lines that were left out since the start, because nobody read those before them.
pub fn left_out() -> usize {
    LEFT_OUT.get().map_or(0, ErrorCounter::dropped_lines)
}
