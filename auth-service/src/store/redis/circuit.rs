//! A circuit breaker. After several commands without a response, further ones fail immediately, until a probe in
//! the background finds that Redis responds again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::Notify;

/// The number of consecutive commands that must fail to open the circuit. If one node of a cluster fails,
/// responses from the other nodes keep it closed.
const FAILURES: u32 = 5;
/// How often Redis is probed while the circuit is open.
const RETRY: Duration = Duration::from_millis(250);

/// The state of the circuit breaker. It is closed while Redis responds.
pub(super) struct Circuit {
    failures: AtomicU32,
    opened: Notify,
    open: Gauge,
}

impl Circuit {
    pub(super) fn new() -> Self {
        let open = metrics::gauge!("mcp_gate_store_circuit_open");
        open.set(0.0);
        Self { failures: AtomicU32::new(0), opened: Notify::new(), open }
    }

    /// Whether commands are refused without being sent to Redis.
    pub(super) fn is_open(&self) -> bool {
        self.failures.load(Ordering::SeqCst) >= FAILURES
    }

    /// Records that Redis responded, with a result or an error.
    pub(super) fn succeeded(&self) {
        let before = self.failures.load(Ordering::Relaxed);
        if before != 0 && self.failures.swap(0, Ordering::SeqCst) >= FAILURES {
            self.open.set(0.0);
            tracing::info!("Redis responds again");
        }
    }

    /// Records that Redis did not respond.
    pub(super) fn failed(&self) {
        let more = |failures: u32| Some(failures.saturating_add(1));
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more) == Ok(FAILURES - 1) {
            self.open.set(1.0);
            tracing::error!(
                "Redis does not respond: until it does, every request that needs it is refused immediately"
            );
            self.opened.notify_one();
        }
    }

    /// Waits until the circuit is open and the next probe is due. A request must not send the probe, because
    /// the probe would be lost if the request is cancelled.
    pub(super) async fn next_try(&self) {
        if !self.is_open() {
            self.opened.notified().await;
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_opens_after_failures_in_a_row_and_closes_when_there_is_an_answer() {
        let circuit = Circuit::new();
        for _ in 0..FAILURES - 1 {
            circuit.failed();
        }
        circuit.succeeded();
        assert!(
            tokio::time::timeout(RETRY * 2, circuit.next_try()).await.is_err(),
            "there is no attempt to make"
        );
        for _ in 0..FAILURES {
            assert!(!circuit.is_open());
            circuit.failed();
        }
        for _ in 0..2 {
            circuit.next_try().await;
            circuit.failed();
            assert!(circuit.is_open());
        }
        circuit.succeeded();
        assert!(!circuit.is_open());
    }
}
