//! Reads the standard error of a child, and logs its lines. The rate and the length of the logged lines are
//! limited. All output is read, so that the child never blocks on a full pipe (attack 107).

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::Instant;

use super::exit::Exit;
use super::output::rest_of;
use super::owner::{Owner, user_of};
use super::rate_limit::{Pass, RateLimit};
use crate::metrics::Metrics;

/// Maximum length of a line in the log, in bytes. Longer lines are truncated.
const MAX_LINE: usize = 4096;

/// Maximum number of lines of a child's banner that are logged. Many servers print twenty or more at each
/// start.
const MAX_BANNER: usize = 3;
/// Number of lines that are kept until the child has sent its first response. If it fails before that, these
/// lines explain why.
const MAX_HELD: usize = 40;

/// Reads until the child closes its standard error, or has exited and its remaining output has been read.
/// Another process might still hold the pipe and write to it endlessly, so only the bytes that are in the pipe
/// at the exit are read. `answered` becomes true with the child's first response.
pub(super) async fn drain(
    mut stderr: pipe::Receiver,
    mut log: Log,
    mut answered: watch::Receiver<bool>,
    mut exit: watch::Receiver<Option<Exit>>,
) {
    let mut line = Vec::new();
    let mut is_cut = false;
    let mut piece = [0_u8; 4096];
    // The number of bytes that are still read. Set when the child has exited.
    let mut rest: Option<usize> = None;
    loop {
        if rest.is_none() && exit.borrow().is_some() {
            rest = Some(rest_of(&stderr));
        }
        if rest == Some(0) {
            break;
        }
        let read = tokio::select! {
            // Text that is available now was written before the response.
            biased;
            read = stderr.read(&mut piece) => read,
            true = first_answer(&mut answered), if !log.has_answered => {
                log.has_answered = true;
                log.held = VecDeque::new();
                continue;
            }
            () = has_ended(&mut exit), if rest.is_none() => continue,
        };
        let count = match read {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        rest = rest.map(|rest| rest.saturating_sub(count));
        // Without this, the loop would not yield as long as the child writes.
        tokio::task::yield_now().await;
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
    // If the wrapper has stopped the child, its last lines are not needed.
    let is_failure = |exit: &Option<Exit>| exit.as_ref().is_some_and(|exit| !exit.is_wanted);
    if exit.wait_for(Option::is_some).await.is_ok_and(|exit| is_failure(&exit)) {
        log.explain();
    }
}

/// Waits until the child has exited.
async fn has_ended(exit: &mut watch::Receiver<Option<Exit>>) {
    // A closed channel also means that the child has exited.
    let _ = exit.wait_for(Option::is_some).await;
}

/// Waits for the first response. Returns false if there will be none.
async fn first_answer(answered: &mut watch::Receiver<bool>) -> bool {
    answered.wait_for(|answered| *answered).await.is_ok()
}

/// Logs the lines from one child.
#[derive(Debug)]
pub(super) struct Log {
    child: u64,
    owner: Owner,
    limit: RateLimit,
    metrics: Arc<Metrics>,
    /// Whether the child has sent its first response.
    has_answered: bool,
    /// The number of lines before the first response.
    early: usize,
    held: VecDeque<(String, bool)>,
}

impl Log {
    pub(super) fn new(child: u64, owner: Owner, rate: u32, metrics: Arc<Metrics>) -> Self {
        let limit = RateLimit::new(rate, Instant::now());
        Self { child, owner, limit, metrics, has_answered: false, early: 0, held: VecDeque::new() }
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
        // Lines without letters or digits only decorate a banner.
        let says_something = text.contains(char::is_alphanumeric);
        self.early += usize::from(says_something);
        if says_something && self.early <= MAX_BANNER {
            return self.show(text, is_cut);
        }
        let (child, user) = (self.child, user_of(&self.owner));
        tracing::debug!(child, user, stderr = text, cut = is_cut, "child wrote to stderr");
        if self.held.len() == MAX_HELD {
            self.held.pop_front();
        }
        self.held.push_back((text.to_owned(), is_cut));
    }

    /// Called when the child has failed. Logs the kept lines, if the child had not sent any response.
    fn explain(mut self) {
        for (text, is_cut) in std::mem::take(&mut self.held) {
            self.show(&text, is_cut);
        }
    }

    fn show(&mut self, text: &str, cut: bool) {
        let (child, user) = (self.child, user_of(&self.owner));
        match self.limit.take(Instant::now()) {
            Pass::Yes { suppressed: 0 } => {
                tracing::info!(child, user, stderr = text, cut, "child wrote to stderr");
            }
            Pass::Yes { suppressed } => {
                tracing::info!(child, user, stderr = text, cut, suppressed, "child wrote to stderr");
            }
            Pass::No => self.metrics.child_stderr_suppressed_total.add(),
        }
    }
}
