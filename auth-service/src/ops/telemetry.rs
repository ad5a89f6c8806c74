//! Sets up the log and the span of each request.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use tracing::callsite::Identifier;
use tracing::{Event, Span, Subscriber};
use tracing_actix_web::{DefaultRootSpanBuilder, RootSpanBuilder};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, Observability};
use crate::guard::log_rate::LogRate;

use super::log_writer::LogWriter;

/// How long the process waits on shutdown for the last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The writer for the log lines of this process. There is only one, because there is only one standard error.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// Starts logging to standard error, including panics.
///
/// # Errors
/// Fails if standard error is closed, or the operating system refuses a thread.
pub fn start(settings: &Observability) -> io::Result<()> {
    // Colours are only useful in a terminal.
    let colours = io::stderr().is_terminal();
    let all = tracing_subscriber::registry().with(settings.filter.to_env_filter()).with(Floods::default());
    // The standard library's handle is not used, because its lock would block all other writers.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let writer = LogWriter::start(out)?;
    let writer = WRITER.get_or_init(|| writer).clone();
    let lines = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(writer);
    match settings.format {
        LogFormat::Json => all.with(lines.json().flatten_event(true)).init(),
        LogFormat::Text => all.with(lines).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        let what = panic.to_string().replace('\n', " ");
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            tracing::error!(%backtrace, "{what}");
        } else {
            tracing::error!("{what}");
        }
    }));
    Ok(())
}

/// Writes the last line of the process, and waits until all lines are written, but at most one second if the
/// reader has stalled.
pub fn end(last_words: Option<&str>) {
    let Some(writer) = WRITER.get() else { return };
    if let Some(words) = last_words {
        writer.put(format!("{words}\n").as_bytes(), true);
    }
    writer.flush(LAST_LINES);
}

/// The status of the log, worded for operators: whether lines are written, how many were lost, and why.
pub fn log_status() -> String {
    WRITER.get().map_or_else(|| "ok".to_owned(), LogWriter::status)
}

/// Drops lines if a single statement in the program or in a library writes too many. Otherwise, an unavailable
/// store or malformed requests could fill the disk as fast as requests arrive. Audit events that anybody can cause
/// have separate limits ([`super::audit`]), and all other audit events are written.
#[derive(Default)]
struct Floods(Mutex<HashMap<Identifier, LogRate>>);

impl<S: Subscriber> Layer<S> for Floods {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        if event.metadata().target() == "audit" {
            return true;
        }
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(event.metadata().callsite()).or_insert_with(LogRate::of_a_place);
        let admitted = place.admit().is_some();
        if !admitted {
            metrics::counter!("mcp_gate_log_lines_left_out_total").increment(1);
        }
        admitted
    }
}

/// Creates a span for each request with its method, path and status. Queries and headers are not recorded, because
/// they contain codes and tokens.
#[derive(Debug)]
pub struct RequestSpan;

impl RootSpanBuilder for RequestSpan {
    fn on_request_start(request: &ServiceRequest) -> Span {
        tracing::info_span!(
            "request",
            method = %request.method(),
            path = %request.path(),
            status = tracing::field::Empty,
            http.status_code = tracing::field::Empty,
            otel.status_code = tracing::field::Empty,
            exception.message = tracing::field::Empty,
            exception.details = tracing::field::Empty,
        )
    }

    fn on_request_end<B: MessageBody>(span: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        if let Ok(response) = outcome {
            span.record("status", response.status().as_u16());
        }
        DefaultRootSpanBuilder::on_request_end(span, outcome);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the lines that are logged while `run` is running.
    pub(in crate::ops) fn lines_of(run: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(
            tracing_subscriber::registry().with(Floods::default()).with(layer),
            run,
        );
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a095_a_place_that_writes_without_end_is_held_back_and_others_are_not() {
        let lines = lines_of(|| {
            for n in 0..10_000 {
                tracing::error!(n, "flood");
            }
            tracing::error!("something else");
            for _ in 0..500 {
                tracing::info!(target: "audit", "audited");
            }
        });
        let of = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert!((100..200).contains(&of("flood")), "{}", of("flood"));
        assert_eq!((of("something else"), of("audited")), (1, 500));
    }
}
