//! Divides the time for an examination of the processes of all children.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Maximum time for the open files of all children, and the same for their mappings. A child that cannot be examined
/// within its part of the time is suspected of hiding memory, so a server with many workers, each of which has thousands
/// of open files or mappings, must not need more. Memory is short meanwhile, so it must not be much longer either.
pub(super) const BUDGET: Budget =
    Budget { processor: Duration::from_millis(200), total: Duration::from_millis(300) };

/// The processor time that each child has at least, so that a server is not examined only in part because there are
/// many others.
const LEAST: Duration = Duration::from_millis(20);

/// The clock is read once for this number of files or mappings.
const CHECK: u32 = 16;

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
    /// The number of children whose turn is still to come.
    left: u32,
}

impl Turns {
    pub(super) fn new(budget: Budget, children: usize) -> Self {
        let (latest, end) = (Instant::now() + budget.total, processor_time() + budget.processor);
        Self { latest, end, left: u32::try_from(children).unwrap_or(u32::MAX) }
    }

    /// The time for the next child.
    pub(super) fn next(&mut self) -> Turn {
        let now = processor_time();
        let until = now + (self.end.saturating_sub(now) / self.left.max(1)).max(LEAST);
        self.left = self.left.saturating_sub(1);
        Turn { latest: self.latest, until, asked: 0, is_over: false, extent: Extent::All }
    }
}

/// The time for one child.
#[derive(Debug)]
pub(super) struct Turn {
    /// The time after which nothing is examined.
    latest: Instant,
    /// The processor time of this thread after which nothing of this child is examined.
    until: Duration,
    asked: u32,
    is_over: bool,
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

    /// Whether the time is over, so that something is not examined. The clock is read only now and then, because that
    /// takes as long as an examination of a mapping.
    pub(super) fn is_over(&mut self) -> bool {
        if !self.is_over && self.asked.is_multiple_of(CHECK) {
            let is_too_much = processor_time() >= self.until;
            self.is_over = is_too_much || Instant::now() >= self.latest;
            if is_too_much {
                self.extent = Extent::TooMuch;
            } else if self.is_over && self.extent == Extent::All {
                self.extent = Extent::Late;
            }
        }
        self.asked = self.asked.wrapping_add(1);
        self.is_over
    }
}

/// The processor time that this thread has used.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
