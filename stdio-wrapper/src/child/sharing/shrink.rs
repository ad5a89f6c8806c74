//! Reduces the usage of children whose processes share memory until it fits what the control group reports.

use std::collections::HashMap;

use super::UNSHARED;
use crate::capacity::{Kinds, Usage};

/// Reduces the page tables of children with several processes until all children together have no more than the
/// container. Two processes can use the same ones (`CLONE_VM`, `vfork`), and the kernel reports them for
/// both. After a fork, each process has page tables of its own, so these are not measured. `in_kernel` must not yet
/// contain any other memory.
pub(super) fn fit_page_tables(usage: &mut HashMap<u64, Usage>, own: Usage, kinds: Kinds) {
    shrink(
        usage,
        own,
        kinds.page_tables,
        |usage| usage.in_kernel,
        |usage, fitted| {
            usage.memory = usage.memory - usage.in_kernel + fitted;
            usage.in_kernel = fitted;
        },
    );
}

/// Reduces one kind of memory of children with several processes, in proportion, until all children together have no
/// more than the limit.
pub(super) fn shrink(
    usage: &mut HashMap<u64, Usage>,
    own: Usage,
    limit: u64,
    of: fn(&Usage) -> u64,
    set: impl Fn(&mut Usage, u64),
) {
    let excess = sum(usage, own, of).saturating_sub(limit);
    let mut several: Vec<&mut Usage> =
        usage.values_mut().filter(|usage| usage.processes > UNSHARED).collect();
    let reducible: u64 = several.iter().map(|usage| of(usage)).sum();
    for usage in &mut several {
        let fitted = of(usage) - scaled(of(usage), excess, reducible);
        set(usage, fitted);
    }
}

/// `number * part / whole`, but at most `number`.
pub(super) fn scaled(number: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(number) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX).min(number)
}

pub(super) fn sum(usage: &HashMap<u64, Usage>, own: Usage, of: fn(&Usage) -> u64) -> u64 {
    usage.values().chain([&own]).map(of).sum()
}
