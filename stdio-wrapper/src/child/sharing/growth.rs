//! How much memory a child can have added since its last measurement.

use crate::capacity::Usage;

/// The anonymous memory that a child can have added to the container, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    /// What the child has certainly allocated.
    pub(super) allocated: u64,
    /// What it has written at most. If the kernel already counted a page for the child, it reports no growth.
    pub(super) written: u64,
}

impl Growth {
    /// The kernel reports the memory that the child allocates. A write to a shared page does not change what it
    /// reports, but causes a page fault, because the kernel then copies the page. A new process seems to have allocated
    /// everything that it shares, but no process has more memory because of a fork. Therefore, until the next
    /// measurement, a child that has forked counts with its page faults and with the growth of its largest process. Page
    /// faults alone would not be enough, because a huge page causes only one.
    pub(super) fn between(before: &Usage, now: &Usage) -> Self {
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(u64::MAX);
        let written = now.faults.saturating_sub(before.faults).saturating_mul(page);
        let has_forked = now.processes > before.processes;
        let allocated = if has_forked {
            now.largest.saturating_sub(before.largest)
        } else {
            now.anonymous().saturating_sub(before.anonymous())
        };
        Self { allocated, written }
    }
}
