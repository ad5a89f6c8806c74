//! How requests end without an answer: after a timeout, or when their child ends.

use tokio::time::Instant;

use super::Link;
use crate::modern::pending::{Pending, Waits};

impl Link {
    /// Fails the requests that have waited for too long, and cancels them in the child.
    pub(in crate::modern) fn expire(&self, now: Instant) {
        self.log.tell(now);
        let is_late =
            |pending: &Pending| pending.caller.waits == Waits::Answer && pending.is_late(now, |_| false);
        let late = self.calls().numbers_of(is_late);
        for number in late {
            let Some(pending) = self.take(number) else { continue };
            self.metrics.requests_timed_out_total.add();
            self.metrics.requests_failed_total.add();
            // Only requests of clients have an owner. The wrapper's own requests have other time limits.
            if !pending.caller.owner.is_empty() {
                pending.log_lateness(&self.log, now);
            }
            self.cancel(number, "timed out");
            pending.fail(&pending.lateness("REQUEST_TIMEOUT"));
        }
    }

    /// Ends every subscription with a completed result, and fails all other requests.
    pub(in crate::modern) fn end_all(&self, message: &str) {
        self.end_subscriptions();
        let numbers = self.calls().numbers_of(|_| true);
        for number in numbers {
            self.fail(number, message);
        }
    }

    /// Ends every subscription with a completed result.
    pub(in crate::modern) fn end_subscriptions(&self) {
        let numbers = self.calls().numbers_of(|pending| pending.caller.waits == Waits::Subscription);
        for pending in numbers.into_iter().filter_map(|number| self.take(number)) {
            pending.stream.push(pending.completion().into(), true);
        }
    }

    pub(in crate::modern) fn fail(&self, number: u64, message: &str) {
        if let Some(pending) = self.take(number) {
            self.metrics.requests_failed_total.add();
            pending.fail(message);
        }
    }
}
