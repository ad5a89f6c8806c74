//! A child's standard error: always drained, logged line by line, at a bounded rate and length (attack 107).

use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio::time::{Duration, Instant};

use crate::metrics::Metrics;

/// Longer lines are cut in the log.
const MAX_LINE: usize = 4096;

/// Reads until the child closes it.
pub(super) async fn drain(mut stderr: ChildStderr, child: u64, rate: u32, metrics: Arc<Metrics>) {
    let mut log = RateLimit::new(rate, Instant::now());
    let mut line = Vec::new();
    let mut is_cut = false;
    let mut piece = [0_u8; 4096];
    loop {
        let count = match stderr.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        for part in piece.get(..count).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            let (text, is_end) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = MAX_LINE - line.len();
            line.extend_from_slice(text.get(..room).unwrap_or(text));
            is_cut |= text.len() > room;
            if is_end {
                emit(&mut log, child, &line, is_cut, &metrics);
                line.clear();
                is_cut = false;
            }
        }
    }
    if !line.is_empty() {
        emit(&mut log, child, &line, is_cut, &metrics);
    }
}

fn emit(log: &mut RateLimit, child: u64, line: &[u8], is_cut: bool, metrics: &Metrics) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if text.is_empty() {
        return;
    }
    match log.take(Instant::now()) {
        Pass::Yes { suppressed: 0 } => {
            tracing::info!(child, stderr = text, cut = is_cut, "child wrote to stderr");
        }
        Pass::Yes { suppressed } => {
            tracing::info!(child, stderr = text, cut = is_cut, suppressed, "child wrote to stderr");
        }
        Pass::No => metrics.child_stderr_suppressed_total.add(),
    }
}

/// Whether a line may be logged.
#[derive(Debug, PartialEq, Eq)]
pub enum Pass {
    /// It may; so many before it were not.
    Yes {
        /// How many.
        suppressed: u64,
    },
    /// It may not.
    No,
}

/// At most `rate` a second, counted in windows of one second.
#[derive(Debug)]
pub struct RateLimit {
    rate: u32,
    window: Instant,
    used: u32,
    suppressed: u64,
}

impl RateLimit {
    /// A limit that starts now.
    pub fn new(rate: u32, now: Instant) -> Self {
        Self { rate, window: now, used: 0, suppressed: 0 }
    }

    /// Asks for one.
    pub fn take(&mut self, now: Instant) -> Pass {
        if now.duration_since(self.window) >= Duration::from_secs(1) {
            self.window = now;
            self.used = 0;
        }
        if self.used >= self.rate {
            self.suppressed += 1;
            return Pass::No;
        }
        self.used += 1;
        Pass::Yes { suppressed: std::mem::take(&mut self.suppressed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_rate_are_counted_and_reported_later() {
        let start = Instant::now();
        let mut log = RateLimit::new(2, start);
        assert_eq!(log.take(start), Pass::Yes { suppressed: 0 });
        assert_eq!(log.take(start), Pass::Yes { suppressed: 0 });
        assert_eq!(log.take(start), Pass::No);
        assert_eq!(log.take(start), Pass::No);
        assert_eq!(log.take(start + Duration::from_secs(1)), Pass::Yes { suppressed: 2 });
    }
}
