//! Limits the log lines of libraries. Strangers can cause some of these lines. For example, the HTTP server logs each
//! connection that it cannot accept, so a flood of connections could fill the disk.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Maximum number of lines that a single statement in a library can write per [`PERIOD`].
const MAX_LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(10);
/// The names of the crates that limit their own lines.
const OWN: [&str; 2] = ["stdio_wrapper", "contract"];

/// Counts the dropped lines. The process has only one log.
static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);

/// The number of lines that have been dropped since the start.
pub(super) fn left_out() -> usize {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// Drops the lines of any statement in a library that writes too many. The map cannot grow without limit, because the
/// libraries have a fixed number of statements.
#[derive(Debug, Default)]
pub(super) struct Floods(Mutex<HashMap<Identifier, Place>>);

/// A statement that writes log lines.
#[derive(Debug)]
struct Place {
    /// When the current period began.
    since: Instant,
    lines: u32,
}

impl Place {
    fn admits(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= PERIOD {
            *self = Self { since: now, lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= MAX_LINES
    }
}

impl<S: Subscriber> Layer<S> for Floods {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let (about, now) = (event.metadata(), Instant::now());
        let source = about.target().split("::").next().unwrap_or_default();
        if OWN.contains(&source) {
            return true;
        }
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(about.callsite()).or_insert(Place { since: now, lines: 0 });
        let is_admitted = place.admits(now);
        if !is_admitted {
            LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a100_a_library_that_writes_without_end_is_held_back_and_the_wrapper_is_not() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let log = tracing_subscriber::registry().with(Floods::default()).with(layer);
        tracing::subscriber::with_default(log, || {
            for n in 0..1000 {
                tracing::error!(target: "actix_server::service", n, "cannot convert");
            }
            tracing::error!(target: "actix_server::accept", "something else");
            for _ in 0..50 {
                tracing::error!("own");
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let of = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!((of("cannot convert"), of("something else"), of("own")), (10, 1, 50), "{text}");
        assert!(left_out() >= 990);
    }

    #[test]
    fn a_library_can_write_again_in_the_next_period() {
        let begin = Instant::now();
        let mut place = Place { since: begin, lines: 0 };
        assert_eq!((0..20).filter(|_| place.admits(begin)).count(), 10);
        assert_eq!((0..20).filter(|_| place.admits(begin + PERIOD)).count(), 10);
    }
}
