//! How much memory a child can have added since its last measurement.

use crate::capacity::Usage;
use crate::child::parts::Part;
use crate::child::procfs::Sizes;

/// A child at the time of its last measurement. The default stands for a child that has not been measured yet.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) part: Part,
    /// The page faults of the child by then.
    pub(super) faults: u64,
    /// The anonymous memory that the control group reported, in bytes.
    pub(super) container: u64,
}

/// The anonymous memory that a child can have added to the container, in bytes.
#[derive(Debug)]
pub(super) struct Growth {
    /// What the child has certainly allocated.
    pub(super) allocated: u64,
    /// What it can have written beyond that, according to its page faults.
    pub(super) written: u64,
    /// The part of `allocated` that can have caused page faults. Huge pages cause few of them, so the child can have
    /// written this much as well.
    pub(super) explained: u64,
    /// What the kernel reports beyond `allocated`, for new processes.
    pub(super) reported: u64,
}

impl Growth {
    /// The kernel reports the memory that each process allocates. A write to a shared page does not change what it
    /// reports, but causes a page fault, because the kernel then copies the page. Page faults alone would not be enough,
    /// because a huge page causes only one. A new process seems to have allocated everything that it shares, but no
    /// process has more memory because of a fork. Therefore new processes certainly have only what the largest of them
    /// has more than any older one. `anonymous` is the memory of the container: no child can have added more than it.
    pub(super) fn between(before: &Measured, now: &Usage, sizes: &Sizes, anonymous: u64) -> Self {
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(u64::MAX);
        let written = now.faults.saturating_sub(before.faults).saturating_mul(page);
        let mut largest_before = before.part.sizes.values().copied().max().unwrap_or_default();
        let (mut grown, mut largest_new) = (0, 0);
        for (process, size) in sizes {
            if let Some(before) = before.part.sizes.get(process) {
                grown += size.saturating_sub(*before);
                largest_before = largest_before.max(*size);
            } else {
                largest_new = largest_new.max(*size);
            }
        }
        let added = anonymous.saturating_sub(before.container);
        let allocated = (grown + largest_new.saturating_sub(largest_before)).min(added);
        let sum = |sizes: &Sizes| sizes.values().sum::<u64>();
        let reported = sum(sizes).saturating_sub(sum(&before.part.sizes));
        let explained = written.min(allocated);
        let written = written - explained;
        Self { allocated, written, explained, reported: reported.saturating_sub(allocated) }
    }
}
