//! The log on standard error. A separate thread writes it, so that the rest of the program does not block if
//! the reader of standard error stalls (for example, a log driver whose disk is full).

mod floods;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::OnceLock;

use contract::log_lines::LogLines;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Config;
use floods::Floods;

/// Maximum number of lines that are queued. Beyond that, further lines are dropped and counted. The longest
/// lines come from children, with 4 KiB.
const MAX_WAITING: usize = 1024;

/// Counts the dropped lines. The process has only one log, because it has only one standard error.
static LEFT_OUT: OnceLock<ErrorCounter> = OnceLock::new();

/// Why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Standard error is closed.
    #[error("the log cannot be written to standard error: {0}")]
    Closed(#[from] io::Error),
}

/// Starts the log. Dropping the guard writes the queued lines, but waits at most one second for a reader that
/// has stalled.
///
/// # Errors
/// Fails if standard error is closed.
pub fn start(config: &Config) -> Result<WorkerGuard, LogError> {
    // The standard library's handle is not used, because its lock would block all other writers.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let writer =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_WAITING).thread_name("log");
    let (writer, guard) = writer.finish(LogLines::new(out));
    LEFT_OUT.get_or_init(|| writer.error_counter());
    let escapes = if config.log_json { Escapes::Json } else { Escapes::Text };
    let writer = move || Lines { out: writer.clone(), escapes };
    let all = tracing_subscriber::registry().with(config.log.to_env_filter()).with(Floods::default());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    if config.log_json {
        all.with(lines.json()).init();
    } else {
        all.with(lines.with_ansi(false)).init();
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("{}", panic.to_string().replace('\n', " "))));
    Ok(guard)
}

/// How control characters are escaped.
#[derive(Debug, Clone, Copy)]
enum Escapes {
    /// The escapes of a quoted field in a text log.
    Text,
    /// The escapes of a JSON string.
    Json,
}

/// Writes one log line at a time. Any field or message, even in an error, can contain text from children,
/// clients or headers. With control characters, such text could forge further lines, or control the terminal of
/// a person who reads the log (attack 107). Therefore control characters are escaped here, for all sources of
/// log lines.
struct Lines {
    out: NonBlocking,
    escapes: Escapes,
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.out.write_all(&harmless(line, self.escapes))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Escapes control characters and line separators, except the line break at the end of the line.
fn harmless(line: &[u8], escapes: Escapes) -> Cow<'_, [u8]> {
    let (text, end) = line.strip_suffix(b"\n").map_or((line, ""), |text| (text, "\n"));
    let text = String::from_utf8_lossy(text);
    let is_harmful = |letter: char| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}');
    if !text.contains(is_harmful) {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len() + 16);
    for letter in text.chars() {
        match escapes {
            _ if !is_harmful(letter) => out.push(letter),
            Escapes::Text => out.extend(letter.escape_debug()),
            // Writing to a string cannot fail.
            Escapes::Json => _ = write!(out, "\\u{:04x}", u32::from(letter)),
        }
    }
    out.push_str(end);
    Cow::Owned(out.into_bytes())
}

/// The number of lines that have been dropped since the start, because the reader of standard error was too
/// slow, or because a library wrote too many.
pub fn left_out() -> usize {
    LEFT_OUT.get().map_or(0, ErrorCounter::dropped_lines).saturating_add(floods::left_out())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str, escapes: Escapes) -> String {
        String::from_utf8(harmless(line.as_bytes(), escapes).into_owned()).unwrap()
    }

    #[test]
    fn a107_what_would_forge_a_line_or_move_a_cursor_is_escaped() {
        let text = |line| shown(line, Escapes::Text);
        assert_eq!(
            text("A \u{1b}]0;x\u{7} \r1 INFO\nB\u{9b}\u{2028}\u{85}é\n"),
            "A \\u{1b}]0;x\\u{7} \\r1 INFO\\nB\\u{9b}\\u{2028}\\u{85}é\n"
        );
        assert_eq!(text("plain é \\u{1b}\n"), "plain é \\u{1b}\n", "the text is not escaped twice");
        let json = "{\"line\":\"a\u{9b}\u{2028}\\u001b\u{7f}\"}\n";
        assert_eq!(shown(json, Escapes::Json), "{\"line\":\"a\\u009b\\u2028\\u001b\\u007f\"}\n");
    }
}
