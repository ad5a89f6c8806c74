//! Decides when a working connection to Redis must be replaced, and remembers why a connection cannot be made.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fred::error::{Error, ErrorKind};

/// Minimum time between two renewals. A new connection is kept for this long, even if its server also refuses
/// writes.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Renewal {
    renewed: Mutex<Option<Instant>>,
    refused: Mutex<Option<String>>,
}

impl Renewal {
    /// Whether an error means that the server is no longer the master, so that the connection should be replaced.
    /// If several callers run at the same time, the result is true for only one of them.
    pub(super) fn is_due(&self, error: &Error) -> bool {
        // Older servers put their own text before the message of an error that occurs within a script.
        if !error.details().contains("READONLY") {
            return false;
        }
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = renewed.is_none_or(|last| last.elapsed() >= EVERY);
        if is_due {
            *renewed = Some(Instant::now());
        }
        is_due
    }

    /// Records that a connection could not be made, or broke.
    pub(super) fn note_error(&self, error: &Error) {
        let told = (*error.kind() == ErrorKind::Auth
            || ["WRONGPASS", "NOAUTH"].iter().any(|code| error.details().contains(code)))
        .then(|| error.details().to_owned());
        if told.is_some() {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = told;
        }
    }

    pub(super) fn note_connected(&self) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The error of Redis when it refused the user or password.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
