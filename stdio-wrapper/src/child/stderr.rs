//! A child's standard error: always drained, logged line by line, at a bounded rate and length (attack 107).

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::process::Exit;
use crate::metrics::Metrics;

/// Longer lines are cut in the log.
const MAX_LINE: usize = 4096;

/// Lines of a child's banner that are shown. Many servers print twenty and more each time they start.
const MAX_BANNER: usize = 3;
/// Lines that are kept in case the child fails before it has answered anything: then they say why.
const MAX_HELD: usize = 40;

/// Reads until the child closes it. `answered` turns true with the child's first answer.
pub(super) async fn drain(
    mut stderr: pipe::Receiver,
    mut log: Log,
    mut answered: watch::Receiver<bool>,
    mut exit: watch::Receiver<Option<Exit>>,
) {
    let mut line = Vec::new();
    let mut is_cut = false;
    let mut piece = [0_u8; 4096];
    loop {
        let read = tokio::select! {
            // What is there already was written before the answer.
            biased;
            read = stderr.read(&mut piece) => read,
            true = first_answer(&mut answered), if !log.has_answered => {
                log.has_answered = true;
                log.held = VecDeque::new();
                continue;
            }
        };
        let count = match read {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        for part in piece.get(..count).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            let (text, is_end) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = MAX_LINE - line.len();
            line.extend_from_slice(text.get(..room).unwrap_or(text));
            is_cut |= text.len() > room;
            if is_end {
                log.line(&line, is_cut);
                line.clear();
                is_cut = false;
            }
        }
    }
    if !line.is_empty() {
        log.line(&line, is_cut);
    }
    // A child that was asked to end has nothing to explain.
    let is_failure = |exit: &Option<Exit>| exit.as_ref().is_some_and(|exit| !exit.is_wanted);
    if exit.wait_for(Option::is_some).await.is_ok_and(|exit| is_failure(&exit)) {
        log.explain();
    }
}

/// Waits for it; false: it will not come.
async fn first_answer(answered: &mut watch::Receiver<bool>) -> bool {
    answered.wait_for(|answered| *answered).await.is_ok()
}

/// Where the lines of one child go.
#[derive(Debug)]
pub(super) struct Log {
    child: u64,
    limit: RateLimit,
    metrics: Arc<Metrics>,
    /// Whether the child has answered something.
    has_answered: bool,
    /// Lines before that.
    early: usize,
    held: VecDeque<(String, bool)>,
}

impl Log {
    pub(super) fn new(child: u64, rate: u32, metrics: Arc<Metrics>) -> Self {
        let limit = RateLimit::new(rate, Instant::now());
        Self { child, limit, metrics, has_answered: false, early: 0, held: VecDeque::new() }
    }

    fn line(&mut self, line: &[u8], is_cut: bool) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        if self.has_answered {
            return self.show(text, is_cut);
        }
        // The frame of a banner says nothing.
        let says_something = text.contains(char::is_alphanumeric);
        self.early += usize::from(says_something);
        if says_something && self.early <= MAX_BANNER {
            return self.show(text, is_cut);
        }
        tracing::debug!(child = self.child, stderr = text, cut = is_cut, "child wrote to stderr");
        if self.held.len() == MAX_HELD {
            self.held.pop_front();
        }
        self.held.push_back((text.to_owned(), is_cut));
    }

    /// The child has failed: if it had not answered anything, what was held back was no banner.
    fn explain(mut self) {
        for (text, is_cut) in std::mem::take(&mut self.held) {
            self.show(&text, is_cut);
        }
    }

    fn show(&mut self, text: &str, cut: bool) {
        let child = self.child;
        match self.limit.take(Instant::now()) {
            Pass::Yes { suppressed: 0 } => {
                tracing::info!(child, stderr = text, cut, "child wrote to stderr");
            }
            Pass::Yes { suppressed } => {
                tracing::info!(child, stderr = text, cut, suppressed, "child wrote to stderr");
            }
            Pass::No => self.metrics.child_stderr_suppressed_total.add(),
        }
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

/// Time in which the lines are counted together.
pub(super) const WINDOW: Duration = Duration::from_secs(1);

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
        if now.duration_since(self.window) >= WINDOW {
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

    /// How many were refused and not reported since, once the window is over in which that was.
    pub fn left_out(&mut self, now: Instant) -> u64 {
        let is_over = now.duration_since(self.window) >= WINDOW;
        if is_over { std::mem::take(&mut self.suppressed) } else { 0 }
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
        assert_eq!(log.left_out(start), 0);
        assert_eq!(log.take(start + Duration::from_secs(1)), Pass::Yes { suppressed: 2 });
        let later = start + Duration::from_secs(1);
        assert_eq!((log.take(later), log.take(later)), (Pass::Yes { suppressed: 0 }, Pass::No));
        let end = start + Duration::from_secs(2);
        assert_eq!((log.left_out(end), log.left_out(end)), (1, 0), "though no line follows");
    }
}
