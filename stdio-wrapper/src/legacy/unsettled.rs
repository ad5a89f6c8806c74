//! Tracks messages that a child might still be processing although no request waits for a response to them. An
//! error without an id could refer to any of them.

use std::collections::BTreeSet;

/// Maximum number of tracked requests that were abandoned without a response.
const MAX_ABANDONED: usize = 64;

/// The notifications, responses and abandoned requests that a child has received and might not have handled
/// yet.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// The number of the first request after the last message that needs no response.
    noted: u64,
    /// The highest number of an answered request.
    answered: u64,
    /// Abandoned requests that the child has not answered.
    abandoned: BTreeSet<u64>,
}

impl Unsettled {
    /// Records that a message that needs no response was sent. The next request will have the number `next`.
    pub(super) fn note(&mut self, next: u64) {
        self.noted = next;
    }

    /// Records that the child has answered a request. The child reads its messages in order, so it has also
    /// read everything that was sent earlier.
    pub(super) fn answered(&mut self, number: u64) {
        self.answered = self.answered.max(number);
        self.abandoned.remove(&number);
    }

    /// Records that this request was abandoned.
    pub(super) fn abandoned(&mut self, number: u64) {
        // If a request is not tracked, its completion cannot be noticed, so the set counts as full from then
        // on.
        let is_full = self.abandoned.len() >= MAX_ABANDONED;
        self.abandoned.insert(if is_full { u64::MAX } else { number });
    }

    /// Whether the child is known to have handled every request, apart from those still waiting for a response.
    pub(super) fn has_no_request(&self) -> bool {
        self.abandoned.is_empty()
    }

    /// Whether the child is known to have handled every message, apart from requests still waiting for a response.
    pub(super) fn is_nothing(&self) -> bool {
        self.abandoned.is_empty() && self.answered >= self.noted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_settled_by_the_answer_to_a_later_request_only() {
        let mut unsettled = Unsettled::default();
        assert!(unsettled.is_nothing());
        unsettled.answered(1);
        unsettled.note(2);
        assert!(!unsettled.is_nothing());
        unsettled.answered(1);
        assert!(!unsettled.is_nothing());
        unsettled.answered(2);
        assert!(unsettled.is_nothing());
    }

    #[test]
    fn a_request_that_was_given_up_is_settled_by_its_own_answer_only() {
        let mut unsettled = Unsettled::default();
        unsettled.abandoned(1);
        unsettled.answered(2);
        assert!(!unsettled.is_nothing());
        unsettled.answered(1);
        assert!(unsettled.is_nothing());
        let many = 1..=MAX_ABANDONED as u64 + 1;
        many.clone().for_each(|number| unsettled.abandoned(number));
        many.for_each(|number| unsettled.answered(number));
        assert!(!unsettled.is_nothing(), "one of them was not stored");
    }
}
