//! Writes log lines about the output from one child. Their rate is limited, so that a child cannot fill the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::rate_limit::{Pass, RateLimit};

/// Maximum number of log lines per second about the output of one child.
const RATE: u32 = 5;
/// Maximum number of bytes of a line that are logged.
const SHOWN: usize = 200;

/// Logs the unusable lines from a child, and limits their number.
#[derive(Debug)]
pub struct LineLog {
    child: u64,
    limit: Mutex<RateLimit>,
    /// The limit of warnings about late answers. Other output must not suppress them, because the client was told to ask
    /// the operator.
    late: Mutex<RateLimit>,
    /// Number of lines and messages that could not be used.
    useless: AtomicU64,
}

impl LineLog {
    /// Creates a log for the child with this number.
    pub fn new(child: u64) -> Self {
        let limit = || Mutex::new(RateLimit::new(RATE, Instant::now()));
        Self { child, limit: limit(), late: limit(), useless: AtomicU64::new(0) }
    }

    /// Counts a line or a message that could not be used.
    pub fn count_useless(&self) {
        self.useless.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of lines and messages so far that could not be used.
    pub fn useless(&self) -> u64 {
        self.useless.load(Ordering::Relaxed)
    }

    /// Logs a warning that says what happened to a line, and why.
    pub fn line(&self, line: &[u8], why: &str, what: &str) {
        if let Pass::Yes { suppressed } = self.take() {
            let left_out = nonzero(suppressed);
            let shown = String::from_utf8_lossy(line.get(..line.len().min(SHOWN)).unwrap_or_default());
            // The line is logged as a field, which is escaped, because a child can repeat text from untrusted
            // sources.
            tracing::warn!(child = self.child, line = &*shown, why, left_out, "{what}");
        }
    }

    /// Logs a warning about a line that was too long.
    pub fn oversized(&self, length: usize) {
        if let Pass::Yes { suppressed } = self.take() {
            let left_out = nonzero(suppressed);
            let child = self.child;
            tracing::warn!(
                child,
                length,
                left_out,
                "a message of the child is over MAX_LINE and was dropped"
            );
        }
    }

    /// Logs a warning about a client that delays the child.
    pub fn client_does_not_read(&self, stream: u64) {
        if let Pass::Yes { suppressed } = self.take() {
            let left_out = nonzero(suppressed);
            let child = self.child;
            tracing::warn!(
                child,
                stream,
                left_out,
                "a client does not read its stream, so it is disconnected"
            );
        }
    }

    /// Logs a warning about a request that the child has not answered in time. `waited` is the time since the request
    /// was added.
    pub fn late(&self, method: &str, tool: Option<&str>, waited: Duration) {
        if let Pass::Yes { suppressed } = locked(&self.late).take(Instant::now()) {
            let left_out = nonzero(suppressed);
            let child = self.child;
            // Method and tool are fields, which are escaped, because clients choose them.
            tracing::warn!(
                child,
                method,
                tool,
                waited_seconds = rounded_to_milliseconds(waited),
                left_out,
                "the child did not answer a request in time, so the client gets an error; if such requests need more \
                 time, raise REQUEST_TIMEOUT"
            );
        }
    }

    /// Logs how many lines were dropped, once the second with too many lines is over.
    pub fn tell(&self, now: Instant) {
        let left_out = locked(&self.limit).left_out(now) + locked(&self.late).left_out(now);
        if left_out > 0 {
            let child = self.child;
            tracing::warn!(child, left_out, "further lines about the child were left out of the log");
        }
    }

    fn take(&self) -> Pass {
        locked(&self.limit).take(Instant::now())
    }
}

fn locked(limit: &Mutex<RateLimit>) -> MutexGuard<'_, RateLimit> {
    limit.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A time in seconds, rounded down to milliseconds.
fn rounded_to_milliseconds(time: Duration) -> f64 {
    f64::from(u32::try_from(time.as_millis()).unwrap_or(u32::MAX)) / 1000.0
}

/// The value of a count field, which is omitted from the log if the count is 0.
fn nonzero(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}

impl Drop for LineLog {
    fn drop(&mut self) {
        self.tell(Instant::now() + super::rate_limit::WINDOW);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_flood_of_unusable_lines_does_not_suppress_the_warning_about_a_late_answer() {
        let path = Arc::new(tempfile::NamedTempFile::new().unwrap());
        let file = Arc::clone(&path);
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || std::fs::File::options().append(true).open(file.path()).unwrap())
            .finish();
        tracing::subscriber::with_default(log, || {
            let log = LineLog::new(7);
            for _ in 0..1000 {
                log.line(b"no message", "it is not JSON", "a line of the child was dropped");
            }
            log.late("tools/call", Some("echo"), Duration::from_nanos(4_094_588_756));
        });
        let text = std::fs::read_to_string(path.path()).unwrap();
        let lines = |part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert!(lines("a line of the child was dropped") <= 2 * RATE as usize, "{text}");
        assert_eq!(lines("did not answer a request in time"), 1, "{text}");
        assert!(text.contains("waited_seconds=4.094\n"), "{text}");
    }
}
