//! Writes log lines on a separate thread, so that nothing else is blocked if the reader of standard error stalls
//! (a log driver whose disk is full, or a pipe without a reader). Lines wait in a queue. When it is full, further
//! lines are dropped and counted.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use contract::log_lines::LogLines;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Maximum size of the queue in bytes. When it is reached, further lines are dropped.
const MAX_WAITING: usize = 1 << 20;
/// Additional size in bytes that only audit lines can use, so that a flood of other lines cannot displace them.
const MAX_WAITING_AUDIT: usize = 1 << 20;
/// Bytes that a line needs in the queue in addition to its text.
const OVERHEAD: usize = 64;

/// The queue of lines waiting to be written by the thread. Clones share the queue.
#[derive(Clone, Default)]
pub struct LogWriter(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Waiting>,
    bytes: usize,
    /// Whether the thread is writing a line that it has removed from the queue.
    is_writing: bool,
    lost: Lost,
    /// The part of `lost` that has already been reported in the log.
    told: Lost,
    /// Whether the last line could not be written.
    fails: bool,
    /// The error of the last write that failed.
    last_error: Option<String>,
}

/// A line in the queue.
#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    is_audit: bool,
}

/// Numbers of lines lost since the start because the log was not read or could not be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Number of lines, audit lines included.
    pub lines: u64,
    /// Number of these lines that were audit lines.
    pub audit: u64,
    /// Number of these lines that could not be written. The others were dropped because the log was not read.
    pub unwritten: u64,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, audit, .. } = self;
        write!(f, "{lines} lines, {audit} of them audit lines")
    }
}

impl Lost {
    fn count(&mut self, is_audit: bool) {
        self.lines += 1;
        metrics::counter!("mcp_gate_log_lines_left_out_total").increment(1);
        if is_audit {
            self.audit += 1;
            metrics::counter!("mcp_gate_audit_lines_lost_total").increment(1);
        }
    }
}

impl LogWriter {
    /// Starts the thread, which writes to `out` for the rest of the process.
    ///
    /// # Errors
    /// Fails if the operating system refuses a thread.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let writer = Self::default();
        let writing = writer.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || writing.write_all(out))?;
        Ok(writer)
    }

    /// Queues a line, or drops it if the queue is full. It never waits for the reader.
    pub fn put(&self, line: &[u8], is_audit: bool) {
        let room = MAX_WAITING + if is_audit { MAX_WAITING_AUDIT } else { 0 };
        let mut queue = self.queue();
        let fits = queue.bytes + line.len() + OVERHEAD <= room;
        if fits {
            queue.bytes += line.len() + OVERHEAD;
            queue.lines.push_back(Waiting { text: line.to_vec(), is_audit });
        } else {
            queue.lost.count(is_audit);
        }
        drop(queue);
        self.0.changed.notify_all();
    }

    /// Waits until all lines are written, but no longer than `within`.
    pub fn flush(&self, within: Duration) {
        let unwritten = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        drop(self.0.changed.wait_timeout_while(self.queue(), within, unwritten));
    }

    /// The numbers of lines lost since the start.
    pub fn lost(&self) -> Lost {
        self.queue().lost
    }

    /// Whether lines are being dropped now.
    pub fn is_full(&self) -> bool {
        // Otherwise, a line of usual length still fits.
        self.queue().bytes + 4096 > MAX_WAITING
    }

    /// The status of the log, worded for operators: whether lines are written, how many were lost, and why.
    pub fn status(&self) -> String {
        let is_full = self.is_full();
        let Queue { lost, fails, ref last_error, .. } = *self.queue();
        let error = last_error.as_deref().unwrap_or_default();
        let cause = match (lost.lines - lost.unwritten, lost.unwritten) {
            (0, 0) => String::new(),
            (0, _) => format!(", because they could not be written ({error})"),
            (_, 0) => ", because standard error was not read".to_owned(),
            (unread, unwritten) => format!(
                ", {unread} because standard error was not read and {unwritten} because they could not be written ({error})"
            ),
        };
        match lost.lines {
            _ if is_full => format!("standard error is not read; lost since the start: {lost}{cause}"),
            0 => "ok".to_owned(),
            _ if fails => {
                format!("standard error cannot be written; lost since the start: {lost}{cause}")
            }
            _ => format!("ok now; lost since the start: {lost}{cause}"),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, out: impl Write) {
        let mut out = LogLines::new(out);
        loop {
            let line = self.next();
            let written = out.write_all(&line.text);
            let untold = self.finish(&line, &written);
            if let Some(Lost { lines, audit, .. }) = untold {
                tracing::warn!(
                    lines,
                    audit_lines = audit,
                    "log lines were lost, because the log was not read or could not be written"
                );
            }
        }
    }

    fn next(&self) -> Waiting {
        let mut queue = self
            .0
            .changed
            .wait_while(self.queue(), |queue| queue.lines.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        queue.is_writing = true;
        queue.lines.pop_front().unwrap_or_default()
    }

    /// Frees the space of a line, and counts it if it is lost. Returns the losses since the last report, if
    /// another report is due.
    fn finish(&self, line: &Waiting, written: &io::Result<()>) -> Option<Lost> {
        let mut queue = self.queue();
        queue.is_writing = false;
        queue.bytes = queue.bytes.saturating_sub(line.text.len() + OVERHEAD);
        if let Err(error) = written {
            queue.lost.count(line.is_audit);
            queue.lost.unwritten += 1;
            queue.last_error = Some(error.to_string());
        }
        queue.fails = written.is_err();
        // While the queue is long, the reader has not caught up, and more lines might be dropped.
        let untold = if written.is_ok() && queue.lost != queue.told && queue.bytes < MAX_WAITING / 2 {
            let (lost, told) = (queue.lost, queue.told);
            queue.told = lost;
            Some(Lost {
                lines: lost.lines - told.lines,
                audit: lost.audit - told.audit,
                unwritten: lost.unwritten - told.unwritten,
            })
        } else {
            None
        };
        drop(queue);
        self.0.changed.notify_all();
        untold
    }
}

/// Receives the text of one log line.
pub struct Line<'a> {
    writer: &'a LogWriter,
    is_audit: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.put(bytes, self.is_audit);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { writer: self, is_audit: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { writer: self, is_audit: metadata.target() == "audit" }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::net::UnixStream;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a095_a_reader_that_stalls_delays_nobody_and_what_it_misses_is_counted() {
        // The other end stays open but is not read.
        let (ours, reader) = UnixStream::pair().unwrap();
        let writer = LogWriter::start(ours).unwrap();
        let line = [b'x'; 1024];
        for _ in 0..4096 {
            writer.put(&line, false);
        }
        let lost = writer.lost();
        assert!(lost.lines > 1000 && lost.lines < 4096 && lost.audit == 0, "{lost}");
        // The kernel buffers some lines, so the thread can write them before the queue fills up.
        while !writer.is_full() {
            writer.put(&line, false);
        }
        let lost = writer.lost();
        let told = writer.status();
        assert!(
            told.starts_with("standard error is not read")
                && told.ends_with("because standard error was not read"),
            "{told}"
        );
        // Audit lines have additional space, which is also limited.
        writer.put(&line, true);
        assert_eq!(writer.lost(), lost);
        for _ in 0..4096 {
            writer.put(&line, true);
        }
        assert!(writer.lost().audit > 1000);
        assert!(writer.queue().bytes <= MAX_WAITING + MAX_WAITING_AUDIT);
        writer.flush(Duration::from_millis(1));
        drop(reader);
        // Lines that cannot be written do not block a flush forever.
        writer.flush(PATIENCE);
        assert_eq!(writer.queue().bytes, 0);
    }

    /// A disk that is full until the flag changes.
    struct Disk(Arc<Mutex<bool>>, Vec<u8>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if *self.0.lock().unwrap() {
                return Err(ErrorKind::StorageFull.into());
            }
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_told_when_one_is_written() {
        let is_full = Arc::new(Mutex::new(true));
        let writer = LogWriter::start(Disk(Arc::clone(&is_full), Vec::new())).unwrap();
        writer.put(b"one\n", false);
        writer.put(b"two\n", true);
        writer.flush(PATIENCE);
        assert_eq!(writer.lost(), Lost { lines: 2, audit: 1, unwritten: 2 });
        let cause = "lost since the start: 2 lines, 1 of them audit lines, because they could not be written (no storage space)";
        assert_eq!(writer.status(), format!("standard error cannot be written; {cause}"));
        assert_eq!(writer.queue().told, Lost::default());
        *is_full.lock().unwrap() = false;
        writer.put(b"three\n", false);
        writer.flush(PATIENCE);
        assert_eq!(writer.queue().told, Lost { lines: 2, audit: 1, unwritten: 2 });
        assert_eq!(writer.status(), format!("ok now; {cause}"));
    }

    #[test]
    fn what_is_flushed_is_written() {
        let (ours, mut reader) = UnixStream::pair().unwrap();
        let writer = LogWriter::start(ours).unwrap();
        writer.put(b"one\n", false);
        writer.put(b"two\n", true);
        writer.flush(PATIENCE);
        assert!(writer.queue().lines.is_empty());
        let mut read = [0; 8];
        io::Read::read_exact(&mut reader, &mut read).unwrap();
        assert_eq!((&read, writer.lost()), (b"one\ntwo\n", Lost::default()));
    }
}
