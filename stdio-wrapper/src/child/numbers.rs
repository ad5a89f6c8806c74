//! The numbers under which requests are sent to a child.

use std::hash::{BuildHasher as _, RandomState};

/// The number of the first request of a child; those that follow count on from it. Log lines of a child show the ids of other
/// programs, and these are small, so ours begin where nobody expects them. They fit into 31 bits, since not every child
/// keeps larger ones.
pub fn first_number() -> u64 {
    (1 << 29) + RandomState::new().hash_one(0) % (1 << 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_at_random_and_fit_into_31_bits() {
        let first: std::collections::HashSet<u64> = (0..100).map(|_| first_number()).collect();
        assert!(first.len() > 90);
        assert!(first.iter().all(|first| *first > 1 << 28 && *first < 1 << 30));
    }
}
