//! Children that were started before a client needs them, and whether they can be pinged.

use std::collections::VecDeque;

use super::process::Child;
use super::warm_up::Pinged;

/// The spares of one command.
#[derive(Debug, Default)]
pub(super) struct Spares {
    list: VecDeque<Spare>,
    pings: Pings,
}

#[derive(Debug)]
struct Spare {
    child: Child,
    /// Whether a ping has been sent to the child.
    is_pinged: bool,
}

/// Whether the children of this command support a ping. A server might exit after an unknown first message.
/// Therefore the ping is tested with one spare, and no client gets that spare before it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Pings {
    #[default]
    Untried,
    /// The spare with this number is used for the test.
    Trying(u64),
    Work,
    Harm,
}

/// The result of the first ping, which applies to all spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Work,
    Harm,
}

/// The purpose of a spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// For a session, whose first message will be `initialize`.
    Greeting,
    /// For stateless requests. The wrapper must send the first message, because a server that supports both
    /// eras recognizes the era by it.
    Untouched,
}

impl Spares {
    /// The number of spares.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether a suitable spare exists.
    pub(super) fn has(&self, wanted: Wanted) -> bool {
        self.find(wanted).is_some()
    }

    /// Removes and returns a spare.
    pub(super) fn take(&mut self, wanted: Wanted) -> Option<Child> {
        let index = self.find(wanted)?;
        self.list.remove(index).map(|spare| spare.child)
    }

    fn find(&self, wanted: Wanted) -> Option<usize> {
        let tries = self.pings;
        let fits = |spare: &Spare| {
            let is_safe = !matches!(tries, Pings::Trying(number) if number == spare.child.number);
            !spare.child.has_exited() && is_safe && (wanted == Wanted::Greeting || !spare.is_pinged)
        };
        self.list.iter().position(fits)
    }

    /// Removes and returns all spares during shutdown. No spare is pinged from now on.
    pub(super) fn take_all(&mut self) -> Vec<Child> {
        self.pings = Pings::Harm;
        std::mem::take(&mut self.list).into_iter().map(|spare| spare.child).collect()
    }

    /// Whether the next spare will be pinged.
    pub(super) fn will_ping(&self) -> bool {
        matches!(self.pings, Pings::Untried | Pings::Work)
    }

    /// Whether a child that will be added as a spare must be pinged.
    pub(super) fn wants_ping(&mut self, number: u64) -> bool {
        match self.pings {
            Pings::Untried => {
                self.pings = Pings::Trying(number);
                true
            }
            Pings::Work => true,
            Pings::Trying(_) | Pings::Harm => false,
        }
    }

    pub(super) fn add(&mut self, child: Child, is_pinged: bool) {
        self.list.push_back(Spare { child, is_pinged });
    }

    /// Removes the spares that have exited. Returns whether any of them exited for a reason other than the
    /// first ping.
    pub(super) fn forget_ended(&mut self) -> bool {
        let tries = self.pings;
        let mut any = false;
        self.list.retain(|spare| {
            let has_ended = spare.child.has_exited();
            any |= has_ended && tries != Pings::Trying(spare.child.number);
            !has_ended
        });
        any
    }

    /// Records the outcome of a ping. Returns the result of the test, unless it was already known.
    pub(super) fn pinged(&mut self, number: u64, pinged: Pinged) -> Option<Shown> {
        let is_trial = self.pings == Pings::Trying(number);
        match pinged {
            Pinged::Answered if is_trial => {
                self.pings = Pings::Work;
                Some(Shown::Work)
            }
            Pinged::Answered | Pinged::Taken => None,
            // Other spares can exit for unrelated reasons.
            Pinged::Ended if !is_trial => None,
            Pinged::Ended | Pinged::Refused => {
                // Dropping the child stops it.
                self.list.retain(|spare| spare.child.number != number);
                let before = std::mem::replace(&mut self.pings, Pings::Harm);
                (before != Pings::Harm).then_some(Shown::Harm)
            }
        }
    }
}
