//! Memory that all callers share, and of which no single one can take everything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::protocol::Text;

/// Divisor for the part of the memory that one principal can have at the same time: a quarter.
const SHARE: usize = 4;

/// Replaces an answer for which there is no space.
pub const TOO_MANY_ANSWERS: &str =
    "Too many large answers wait to be read by their clients. Read yours, or try again in a moment.";

/// The answer to a message for which there is no space.
pub const TOO_MANY_MESSAGES: &str = "Too many large messages, yours or those of all users, wait for an MCP server that does not read its input. End such a session, or try again in a moment.";

/// The memory of everything that waits between clients and children.
#[derive(Debug, Clone)]
pub struct Memory {
    /// For answers that wait until their clients read them.
    pub answers: Arc<Budget>,
    /// For messages that wait until their children read them.
    pub messages: Arc<Budget>,
}

/// The user of an owner, which is a user with one client. Memory is shared among users, because a user can
/// have any number of clients.
pub fn user(owner: &str) -> &str {
    owner.split_once('\n').map_or(owner, |(subject, _)| subject)
}

/// An amount of memory, in bytes, that principals share.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    /// Texts with fewer bytes are not counted.
    least: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// The bytes that each principal has taken.
    owners: HashMap<Arc<str>, usize>,
}

impl Budget {
    /// Makes a budget of `total` bytes. Only texts of at least `least` bytes are counted.
    pub fn new(total: usize, least: usize) -> Arc<Self> {
        Arc::new(Self { total, least, state: Mutex::default(), freed: Notify::new() })
    }

    /// Makes an empty room for a principal.
    pub fn room(self: &Arc<Self>, owner: &str) -> Room {
        Room { budget: Arc::clone(self), owner: Arc::from(user(owner)), taken: 0 }
    }

    /// Counts a text for a principal until no part of it is in use any more. Returns `None` if there is no
    /// space.
    pub fn count(self: &Arc<Self>, owner: &str, text: Text) -> Option<Text> {
        if text.len() < self.least { Some(text) } else { self.room(owner).hold(text) }
    }

    /// Like [`Self::count`], but waits for space up to `patience`.
    pub async fn count_within(self: &Arc<Self>, owner: &str, text: Text, patience: Duration) -> Option<Text> {
        if text.len() < self.least {
            return Some(text);
        }
        let mut room = self.room(owner);
        room.grow_within(text.len(), patience).await.then(|| text.holding(room))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory that a principal has taken. Dropping it gives the memory back.
#[derive(Debug)]
pub struct Room {
    budget: Arc<Budget>,
    owner: Arc<str>,
    taken: usize,
}

impl Room {
    /// A room without a limit, for what belongs to no caller.
    pub fn unlimited() -> Self {
        Budget::new(usize::MAX, usize::MAX).room("")
    }

    /// Makes an empty room for the same principal.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self { budget: Arc::clone(&self.budget), owner: Arc::clone(&self.owner), taken: 0 }
    }

    /// Whether a text of this length is counted.
    pub fn counts(&self, length: usize) -> bool {
        length >= self.budget.least
    }

    /// The number of bytes that are taken.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Counts a text in a room of its own for the same principal. Returns `None` if there is no space.
    pub fn count(&self, text: Text) -> Option<Text> {
        if self.counts(text.len()) { self.sibling().hold(text) } else { Some(text) }
    }

    fn hold(mut self, text: Text) -> Option<Text> {
        self.grow(text.len()).then(|| text.holding(self))
    }

    /// Takes more bytes. Returns false if there is no space for them.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let mut state = self.budget.state();
        let own = state.owners.get(&self.owner).copied().unwrap_or_default();
        // Without identities, all callers are one principal, which can take everything.
        let is_share = self.owner.trim().is_empty() || own.saturating_add(bytes) <= self.budget.total / SHARE;
        if !is_share || state.taken + bytes > self.budget.total {
            return false;
        }
        state.taken += bytes;
        *state.owners.entry(Arc::clone(&self.owner)).or_default() += bytes;
        self.taken += bytes;
        true
    }

    /// Gives bytes back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.taken);
        if bytes == 0 {
            return;
        }
        self.taken -= bytes;
        let mut state = self.budget.state();
        state.taken -= bytes;
        if let Some(own) = state.owners.get_mut(&self.owner) {
            *own -= bytes;
            if *own == 0 {
                state.owners.remove(&self.owner);
            }
        }
        drop(state);
        self.budget.freed.notify_waiters();
    }

    /// Takes more bytes, and waits for them up to `patience`. Returns false if there is still no space.
    async fn grow_within(&mut self, bytes: usize, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let budget = Arc::clone(&self.budget);
        loop {
            let mut freed = std::pin::pin!(budget.freed.notified());
            freed.as_mut().enable();
            if self.grow(bytes) {
                return true;
            }
            if tokio::time::timeout_at(end, freed).await.is_err() {
                return false;
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shrink(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_has_a_share_and_gives_it_back() {
        let budget = Budget::new(400, 1);
        let (mut ana, mut bob) = (budget.room("ana"), budget.room("bob"));
        assert!(ana.grow(60) && !ana.grow(60), "a quarter");
        assert!(!budget.room("ana").grow(60), "of all that is theirs");
        assert!(!budget.room("ana\nanother client").grow(60), "whatever the client");
        assert!(bob.grow(100));
        drop(ana);
        assert!(budget.room("ana").grow(100));
        let mut all = budget.room("\n");
        assert!(all.grow(300) && !all.grow(1), "who is not told apart has no share");
        drop((all, bob));
        assert!(budget.state().owners.is_empty());
    }

    #[tokio::test]
    async fn room_is_waited_for_as_long_as_one_likes() {
        let budget = Budget::new(400, 1);
        let mut first = budget.room("");
        assert!(first.grow(400));
        assert!(!budget.room("").grow_within(1, Duration::from_millis(20)).await);
        let waiting =
            tokio::spawn(async move { budget.room("").grow_within(400, Duration::from_secs(5)).await });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.unwrap());
    }
}
