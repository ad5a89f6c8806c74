//! Children that wait for their first client, and whether they can be pinged.

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
    /// Whether it was sent a ping.
    is_pinged: bool,
}

/// Whether the children of this command support a ping. A server might end after an unknown first message.
/// Therefore one spare is used to test this, and no client gets that spare before it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Pings {
    #[default]
    Untried,
    /// The spare with this number is used for the test.
    Trying(u64),
    Work,
    Harm,
}

/// What the first ping has shown about all spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Work,
    Harm,
}

/// Why a spare is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// For a session, whose first message will be `initialize`.
    Greeting,
    /// For stateless requests. The first message must come from the wrapper, because it tells a server that
    /// supports both eras which of them is used.
    Untouched,
}

impl Spares {
    /// The number of spares.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is one to take.
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

    /// Removes and returns all spares, at the end. No spare is pinged from now on.
    pub(super) fn take_all(&mut self) -> Vec<Child> {
        self.pings = Pings::Harm;
        std::mem::take(&mut self.list).into_iter().map(|spare| spare.child).collect()
    }

    /// Whether the next one will be pinged.
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

    /// Removes the spares that have ended. Returns whether any of them ended for another reason than the
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

    /// Records the outcome of a ping. Returns what it shows, if that was not known before.
    pub(super) fn pinged(&mut self, number: u64, pinged: Pinged) -> Option<Shown> {
        let is_trial = self.pings == Pings::Trying(number);
        match pinged {
            Pinged::Answered if is_trial => {
                self.pings = Pings::Work;
                Some(Shown::Work)
            }
            Pinged::Answered | Pinged::Taken => None,
            // Other spares can end for reasons of their own.
            Pinged::Ended if !is_trial => None,
            Pinged::Ended | Pinged::Refused => {
                // Dropping the child ends it.
                self.list.retain(|spare| spare.child.number != number);
                let before = std::mem::replace(&mut self.pings, Pings::Harm);
                (before != Pings::Harm).then_some(Shown::Harm)
            }
        }
    }
}
