//! Decides which child of the stateless revision is stopped for another user, and which error its callers get.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Link, Servers, Slot};
use crate::child::{EndReason, Gone, Held, Keeper, Newcomer, Placeholders, Scarce};

/// The error for calls whose child is stopped because of a scarce resource.
const fn short_of(scarce: Scarce) -> &'static str {
    match scarce {
        Scarce::Memory => SHORT_OF_MEMORY,
        Scarce::Tasks => SHORT_OF_PROCESSES,
        Scarce::Watches => SHORT_OF_WATCHES,
    }
}

const SHORT_OF_MEMORY: &str = "The server of this call was stopped, because the memory of its container is nearly used up and your servers take most of it. Make smaller calls, or try again later.";

const SHORT_OF_PROCESSES: &str = "The server of this call was stopped, because the processes and threads of its container are nearly used up and your servers take most of them. Make fewer calls at the same time, or try again later.";

const SHORT_OF_WATCHES: &str = "The server of this call was stopped, because no more connections can be accepted and your servers take most of what the system needs for them. Do not let them open so many files and connections, or try again later.";

/// The slot whose child has been unused for the longest time, if that is long enough for this newcomer. A slot
/// without a child counts as unused for `without`, or is skipped if `without` is `None`.
pub(super) fn oldest(
    slots: &HashMap<Placeholders, Arc<Slot>>,
    newcomer: Newcomer<'_>,
    without: Option<Duration>,
) -> Option<(Duration, Placeholders)> {
    let now = Instant::now();
    let idle = |slot: &Arc<Slot>| slot.current().map_or(without, |link| link.idle_for(now));
    let all = slots.iter().filter_map(|(key, slot)| Some((idle(slot)?, key)));
    // The count is 1, because a user has at most one stateless child.
    let is_over = |key: &Placeholders, idle: Duration| idle >= newcomer.patience(user_of(key), 1);
    let (idle, key) = all.filter(|(idle, key)| is_over(key, *idle)).max_by_key(|(idle, _)| *idle)?;
    Some((idle, key.clone()))
}

/// The user of the child with these placeholder values.
pub(super) fn user_of(caller: &Placeholders) -> &str {
    caller.subject.as_deref().unwrap_or_default()
}

impl Servers {
    /// Removes and returns the child that has been unused for the longest time.
    fn take_oldest(&self, newcomer: Newcomer<'_>) -> Option<Arc<Link>> {
        let mut slots = self.slots();
        let (_, oldest) = oldest(&slots, newcomer, None)?;
        slots.remove(&oldest)?.current()
    }
}

impl Keeper for Servers {
    fn candidate(&self, newcomer: Newcomer<'_>, reason: EndReason) -> Option<Duration> {
        // If a child did not answer the probe in time, no client waits for it, so it is stopped first.
        if reason == EndReason::Unused && self.late().is_some() {
            return Some(Duration::MAX);
        }
        // A child that serves all users is never stopped, and a user has at most one child.
        let can_give_up = self.settings.is_per_caller && reason == EndReason::Unused;
        if can_give_up { oldest(&self.slots(), newcomer, None).map(|(idle, _)| idle) } else { None }
    }

    fn give_up(&self, newcomer: Newcomer<'_>, reason: EndReason) -> Option<Gone> {
        self.candidate(newcomer, reason)?;
        let late = if reason == EndReason::Unused { self.late().take() } else { None };
        let link = match late {
            Some(link) => link,
            None => self.take_oldest(newcomer)?,
        };
        link.child.stop();
        let exited = link.child.exited();
        Some(Box::pin(async move {
            exited.await;
        }))
    }

    fn held(&self) -> Vec<Held> {
        let can_end = self.settings.is_per_caller;
        let held = |(key, slot): (&Placeholders, &Arc<Slot>)| {
            let user = if can_end { user_of(key).to_owned() } else { String::new() };
            Some(Held { child: slot.current()?.child.number, user, can_end })
        };
        self.slots().iter().filter_map(held).collect()
    }

    fn end_large(&self, child: u64, scarce: Scarce) -> Option<Gone> {
        let link = self.links().into_iter().find(|link| link.child.number == child)?;
        link.child.stop_at_once();
        link.end_all(short_of(scarce));
        let exited = link.child.exited();
        Some(Box::pin(async move {
            exited.await;
        }))
    }
}
