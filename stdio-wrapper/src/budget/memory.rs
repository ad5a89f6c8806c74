//! The budgets for all data that the wrapper holds on behalf of callers.

use std::collections::HashMap;
use std::sync::Arc;

use super::Budget;

/// Number of responses of the maximum size that fit into the memory for responses.
const MAX_LARGE_ANSWERS: usize = 16;
/// Number of messages of the maximum size that fit into the memory for messages.
const MAX_LARGE_MESSAGES: usize = 16;
/// Number of bodies of the maximum size that can be in memory at the same time, regardless of the number of
/// connections.
const MAX_LARGE_BODIES: usize = 16;
/// Minimum memory for bodies, in bytes.
const LEAST_BODIES: usize = 32 << 20;
/// Minimum size of a response that is counted, in bytes. The number of smaller responses is limited by the
/// connections and running calls, each of which needs more memory than such a response. Messages that are
/// queued in streams are always counted.
const COUNTED_ANSWER: usize = 4 << 10;
/// Minimum size of a message that is counted, in bytes. The number of messages in a child's queue is limited in
/// any case.
const COUNTED_MESSAGE: usize = 1 << 10;
/// Bodies up to this size (in bytes) are not counted, because every connection has buffers of that size.
pub const COUNTED_BODY: usize = 1024;

/// The memory of all data that is queued between clients and children.
#[derive(Debug, Clone)]
pub struct Memory {
    /// For responses that clients have not read yet.
    pub answers: Arc<Budget>,
    /// For messages that children have not read yet.
    pub messages: Arc<Budget>,
    /// For bodies of requests.
    pub bodies: Arc<Budget>,
}

impl Memory {
    /// The memory for lines from children of at most `max_line` bytes, and bodies of at most `max_body` bytes.
    pub fn new(max_line: usize, max_body: usize) -> Self {
        Self {
            answers: Budget::new(MAX_LARGE_ANSWERS * max_line.max(1 << 20), COUNTED_ANSWER),
            messages: Budget::new(MAX_LARGE_MESSAGES * max_body.max(2 << 20), COUNTED_MESSAGE),
            bodies: Budget::new((MAX_LARGE_BODIES * max_body).max(LEAST_BODIES), COUNTED_BODY),
        }
    }

    /// The number of bytes that the wrapper holds for each user.
    pub fn held(&self) -> HashMap<Arc<str>, u64> {
        let mut held: HashMap<Arc<str>, u64> = HashMap::new();
        for budget in [&self.answers, &self.messages, &self.bodies] {
            for (owner, bytes) in &budget.state().owners {
                *held.entry(Arc::clone(owner)).or_default() += *bytes as u64;
            }
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a100_what_the_wrapper_holds_for_a_user_is_the_sum_of_all_kinds() {
        let memory = Memory::new(1 << 20, 1 << 20);
        let kept = [
            (&memory.answers, "ana\none"),
            (&memory.messages, "ana"),
            (&memory.bodies, "ana"),
            (&memory.bodies, "bob"),
        ]
        .map(|(budget, owner)| {
            let mut reservation = budget.reservation(owner);
            assert!(reservation.grow(1000));
            reservation
        });
        let held = memory.held();
        assert_eq!((held.get("ana"), held.get("bob"), held.len()), (Some(&3000), Some(&1000), 2));
        drop(kept);
        assert!(memory.held().is_empty());
    }
}
