//! Divides the time for an examination of the processes of all children.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Maximum time for one examination of all children.
pub(super) const BUDGET: Budget =
    Budget { processor: Duration::from_millis(20), total: Duration::from_millis(100) };

/// Limits on the time for an examination.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Maximum processor time of this thread. Unlike the elapsed time, it hardly depends on how busy the machine is, so
    /// it shows whether a child has too much to examine.
    pub(super) processor: Duration,
    /// Maximum elapsed time.
    pub(super) total: Duration,
}

/// How much of a child has been examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    All,
    /// Too much time had passed before everything was examined.
    Late,
    /// The child has too much to examine, or does not let others look at some of it.
    TooMuch,
}

/// Gives each child an equal part of the processor time. What a child does not need is left for the children after it.
#[derive(Debug)]
pub(super) struct Turns {
    latest: Instant,
    end: Duration,
    /// The processor time that each child has at least, so that an ordinary server is not examined only in part because
    /// there are many servers.
    ordinary: Duration,
    left: u32,
}

impl Turns {
    pub(super) fn new(budget: Budget, ordinary: Duration, children: usize) -> Self {
        let (latest, end) = (Instant::now() + budget.total, processor_time() + budget.processor);
        Self { latest, end, ordinary, left: u32::try_from(children).unwrap_or(u32::MAX) }
    }

    /// The time for the next child.
    pub(super) fn next(&mut self) -> Turn {
        let now = processor_time();
        let until = now + (self.end.saturating_sub(now) / self.left.max(1)).max(self.ordinary);
        self.left = self.left.saturating_sub(1);
        Turn { latest: self.latest, until, extent: Extent::All }
    }
}

/// The time for one child.
#[derive(Debug)]
pub(super) struct Turn {
    /// The time after which nothing is examined.
    latest: Instant,
    /// The processor time of this thread after which nothing of this child is examined.
    until: Duration,
    extent: Extent,
}

impl Turn {
    pub(super) fn extent(&self) -> Extent {
        self.extent
    }

    /// Records that the child does not let others look at something.
    pub(super) fn is_withheld(&mut self) {
        self.extent = Extent::TooMuch;
    }

    /// Whether the time is over, so that something is not examined.
    pub(super) fn is_over(&mut self) -> bool {
        let (is_too_much, is_late) = (processor_time() >= self.until, Instant::now() >= self.latest);
        if is_too_much {
            self.extent = Extent::TooMuch;
        } else if is_late && self.extent == Extent::All {
            self.extent = Extent::Late;
        }
        is_too_much || is_late
    }
}

/// The processor time that this thread has used.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
