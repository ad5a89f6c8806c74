//! What the log says about the lines of one child, at a bounded rate: a flood of lines must not become a flood of log
//! lines.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::stderr::{Pass, RateLimit};

/// Lines about one child that are logged per second, of those that it or its clients can cause without end.
const RATE: u32 = 5;
/// Bytes of a line that are shown.
const SHOWN: usize = 200;

/// The log of one child's lines.
#[derive(Debug)]
pub struct LineLog {
    child: u64,
    limit: Mutex<RateLimit>,
}

impl LineLog {
    /// Of the child with this number.
    pub fn new(child: u64) -> Self {
        Self { child, limit: Mutex::new(RateLimit::new(RATE, Instant::now())) }
    }

    /// Warns of a line: what became of it, and why.
    pub fn line(&self, line: &[u8], why: &str, what: &str) {
        if let Pass::Yes { suppressed } = self.take() {
            let left_out = told(suppressed);
            let shown = String::from_utf8_lossy(line.get(..line.len().min(SHOWN)).unwrap_or_default());
            tracing::warn!(child = self.child, line = %shown, why, left_out, "{what}");
        }
    }

    /// Warns of a line that was too long.
    pub fn oversized(&self, length: usize) {
        if let Pass::Yes { suppressed } = self.take() {
            let left_out = told(suppressed);
            let child = self.child;
            tracing::warn!(
                child,
                length,
                left_out,
                "a message of the child is over MAX_LINE and was dropped"
            );
        }
    }

    /// Warns of a client that holds up the child.
    pub fn client_does_not_read(&self, stream: u64) {
        if let Pass::Yes { suppressed } = self.take() {
            let left_out = told(suppressed);
            let child = self.child;
            tracing::warn!(
                child,
                stream,
                left_out,
                "a client does not read its stream, so it is disconnected"
            );
        }
    }

    /// Says how many lines were not logged, once the second in which there were too many is over.
    pub fn tell(&self, now: Instant) {
        let left_out = self.limit().left_out(now);
        if left_out > 0 {
            let child = self.child;
            tracing::warn!(child, left_out, "further lines about the child were left out of the log");
        }
    }

    fn take(&self) -> Pass {
        self.limit().take(Instant::now())
    }

    fn limit(&self) -> MutexGuard<'_, RateLimit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A count as a field of a log line, which is only there if there is something to tell.
fn told(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}

impl Drop for LineLog {
    fn drop(&mut self) {
        self.tell(Instant::now() + super::stderr::WINDOW);
    }
}
