//! How requests end without a response: after a timeout, or when their child exits.

use tokio::time::Instant;

use super::Link;
use crate::modern::pending::Waits;
use crate::protocol::cancelled;

/// Progress extends the deadline of a request, up to this multiple of its timeout.
const MAX_EXTENSIONS: u32 = 12;

impl Link {
    /// Fails the requests that have waited for too long, and cancels them in the child.
    pub(in crate::modern) fn expire(&self, now: Instant) {
        self.log.tell(now);
        let late: Vec<u64> = self
            .pending()
            .iter()
            .filter(|(_, pending)| pending.waits == Waits::Answer)
            .filter(|(_, pending)| {
                now >= pending.deadline || now >= pending.started + pending.timeout * MAX_EXTENSIONS
            })
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            let Some(pending) = self.take(number) else { continue };
            self.metrics.requests_timed_out_total.add();
            self.metrics.requests_failed_total.add();
            self.say(&cancelled(number, "timed out"));
            let message =
                format!("The MCP server did not answer within {} s.", pending.timeout.as_secs_f32());
            pending.fail(&message);
        }
    }

    /// Records that the child has exited, and fails all waiting requests. Only the first reason is kept.
    pub(in crate::modern) fn died(&self, reason: String) {
        let _ = self.dead.set(reason);
        self.end_all(&self.death());
    }

    /// Ends every subscription with a completed result, and fails all other requests.
    pub(in crate::modern) fn end_all(&self, message: &str) {
        self.end_subscriptions();
        let numbers: Vec<u64> = self.pending().keys().copied().collect();
        for number in numbers {
            self.fail(number, message);
        }
    }

    /// Ends every subscription with a completed result.
    pub(in crate::modern) fn end_subscriptions(&self) {
        let numbers: Vec<u64> = {
            let all = self.pending();
            let listens = all.iter().filter(|(_, pending)| pending.waits == Waits::Subscription);
            listens.map(|(number, _)| *number).collect()
        };
        for number in numbers {
            if let Some(pending) = self.take(number) {
                pending.stream.push(pending.completion().into(), true);
            }
        }
    }

    pub(in crate::modern) fn fail(&self, number: u64, message: &str) {
        if let Some(pending) = self.take(number) {
            self.metrics.requests_failed_total.add();
            pending.fail(message);
        }
    }

    pub(in crate::modern) fn death(&self) -> String {
        self.dead.get().cloned().unwrap_or_else(|| "The MCP server closed its input.".to_owned())
    }
}
