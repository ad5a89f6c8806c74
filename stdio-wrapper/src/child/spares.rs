//! Children that wait for their first client, and what is known of pinging them.

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

/// What a ping does to children of this command. A server may end at a first message that it does not know, so one spare
/// tries it out, and no client gets that one before it has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Pings {
    #[default]
    Untried,
    /// The child with this number tries it out.
    Trying(u64),
    Work,
    Harm,
}

/// What a ping has shown of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Work,
    Harm,
}

/// Why a spare is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// For a session: its first message will be `initialize`.
    Greeting,
    /// The first message must be ours: it tells a server that knows both eras which one it is in.
    Untouched,
}

impl Spares {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is one to take.
    pub(super) fn has(&self, wanted: Wanted) -> bool {
        self.find(wanted).is_some()
    }

    /// Takes one out.
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

    /// Takes all out, for good: their ends are no answers.
    pub(super) fn take_all(&mut self) -> Vec<Child> {
        self.pings = Pings::Harm;
        std::mem::take(&mut self.list).into_iter().map(|spare| spare.child).collect()
    }

    /// Whether the next one will be pinged.
    pub(super) fn will_ping(&self) -> bool {
        matches!(self.pings, Pings::Untried | Pings::Work)
    }

    /// Whether the child that was just started and will be added is to be pinged.
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

    /// Adds one.
    pub(super) fn add(&mut self, child: Child, is_pinged: bool) {
        self.list.push_back(Spare { child, is_pinged });
    }

    /// Forgets those that have ended; tells whether there were any whose end was no answer to a ping.
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

    /// Notes what came of a ping; tells what that shows, if it was not known.
    pub(super) fn pinged(&mut self, number: u64, pinged: Pinged) -> Option<Shown> {
        let is_trial = self.pings == Pings::Trying(number);
        match pinged {
            Pinged::Answered if is_trial => {
                self.pings = Pings::Work;
                Some(Shown::Work)
            }
            Pinged::Answered | Pinged::Taken => None,
            // Children of a command that takes pings may end for reasons of their own.
            Pinged::Ended if !is_trial => None,
            Pinged::Ended | Pinged::Refused => {
                // Dropping it ends it.
                self.list.retain(|spare| spare.child.number != number);
                let before = std::mem::replace(&mut self.pings, Pings::Harm);
                (before != Pings::Harm).then_some(Shown::Harm)
            }
        }
    }
}
