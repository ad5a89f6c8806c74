//! When a connection to Redis has to be made anew although it works, and why one cannot be made.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fred::error::{Error, ErrorKind};

/// How long a connection that was made anew is kept, whatever it answers.
const EVERY: Duration = Duration::from_secs(1);

/// What is known about the connection.
#[derive(Default)]
pub(super) struct Renewal {
    renewed: Mutex<Option<Instant>>,
    refused: Mutex<Option<String>>,
}

impl Renewal {
    /// Whether what Redis answered means that it is not the master any more, and it is time to look for the one that is. Of
    /// many who ask at once, one is told so.
    pub(super) fn is_due(&self, error: &Error) -> bool {
        // Older servers tell an error within a script after a text of their own.
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

    /// A connection could not be made, or broke.
    pub(super) fn note_error(&self, error: &Error) {
        let told = (*error.kind() == ErrorKind::Auth
            || ["WRONGPASS", "NOAUTH"].iter().any(|code| error.details().contains(code)))
        .then(|| error.details().to_owned());
        if told.is_some() {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = told;
        }
    }

    /// There is a connection.
    pub(super) fn note_connected(&self) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// What Redis said when it refused our user or password.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
