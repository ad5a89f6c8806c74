//! Measures whether the thread that handles a child is busy.

use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor, RuntimeMetrics};
use tokio::time::Instant;

/// Time between two measurements of how busy a thread is.
const WINDOW: Duration = Duration::from_millis(5);
/// A thread is under pressure if it works for at least this percentage of its time. On two processors shared by
/// the clients, the wrapper and the child, the measured value was below 50 % with a slow Node child, and 75 %
/// or more with a child that responds immediately.
const MUCH: u128 = 65;

/// Measures whether one thread is busy.
#[derive(Debug)]
pub(super) struct Pressure {
    /// `None` if the runtime has several threads.
    thread: Option<RuntimeMetrics>,
    since: Instant,
    /// The time for which the thread had worked at the start of the window.
    busy: Duration,
    is_high: bool,
}

impl Pressure {
    /// Watches the calling thread.
    pub(super) fn of_this_thread() -> Self {
        let runtime = Handle::current();
        let is_alone = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        let thread = is_alone.then(|| runtime.metrics());
        Self { thread, since: Instant::now(), busy: Duration::ZERO, is_high: false }
    }

    /// Whether the thread worked for most of the last window.
    pub(super) fn is_high(&mut self) -> bool {
        let (now, Some(thread)) = (Instant::now(), &self.thread) else { return false };
        let window = now.duration_since(self.since);
        if window >= WINDOW {
            let busy = thread.worker_total_busy_duration(0);
            self.judge(window, busy);
            self.since = now;
        }
        self.is_high
    }

    fn judge(&mut self, window: Duration, busy: Duration) {
        let worked = busy.saturating_sub(self.busy);
        self.is_high = worked.as_nanos() * 100 >= window.as_nanos() * MUCH;
        self.busy = busy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_under_pressure_while_it_works_most_of_the_time() {
        let ms = Duration::from_millis;
        let mut pressure =
            Pressure { thread: None, since: Instant::now(), busy: Duration::ZERO, is_high: false };
        for (window, busy, is_high) in
            [(5, 1, false), (5, 6, true), (10, 12, false), (10, 18, false), (10, 25, true), (1000, 25, false)]
        {
            pressure.judge(ms(window), ms(busy));
            assert_eq!(pressure.is_high, is_high, "{window} {busy}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_a_thread_does_is_seen() {
        let mut pressure = Pressure::of_this_thread();
        assert!(!pressure.is_high());
        // This takes two windows, because the first one might have started before the thread's work was counted.
        let until = Instant::now() + 4 * WINDOW;
        while Instant::now() < until {
            let turn = Instant::now() + Duration::from_millis(1);
            while Instant::now() < turn {}
            tokio::task::yield_now().await;
        }
        let worked = pressure.thread.as_ref().unwrap().worker_total_busy_duration(0);
        assert!(worked >= 2 * WINDOW, "{worked:?}");
        assert!(pressure.is_high());
        tokio::time::sleep(4 * WINDOW).await;
        assert!(!pressure.is_high());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn of_a_shared_runtime_nothing_is_known() {
        assert!(Pressure::of_this_thread().thread.is_none());
    }
}
