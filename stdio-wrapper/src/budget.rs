//! Memory that all callers share and of which no single one may take everything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::protocol::Text;

/// Part of the memory that one principal may have at the same time.
const SHARE: usize = 4;

/// What is answered in place of an answer for which there is no room.
pub const TOO_MANY_ANSWERS: &str =
    "Too many large answers wait to be read by their clients. Read yours, or try again in a moment.";

/// What is answered in place of sending a message for which there is no room.
pub const TOO_MANY_MESSAGES: &str = "Too many large messages, of yours or of everybody, wait for an MCP server that does not read its input. End such a session, or try again in a moment.";

/// The memory of everything that waits between clients and children.
#[derive(Debug, Clone)]
pub struct Memory {
    /// For answers that wait for their readers.
    pub answers: Arc<Budget>,
    /// For messages that wait until their child reads them.
    pub messages: Arc<Budget>,
}

/// An amount of memory, in bytes.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// What each principal has of it.
    owners: HashMap<Arc<str>, usize>,
}

impl Budget {
    /// So many bytes.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, state: Mutex::default(), freed: Notify::new() })
    }

    /// Room for a principal, nothing yet.
    pub fn room(self: &Arc<Self>, owner: &str) -> Room {
        Room { budget: Arc::clone(self), owner: Arc::from(owner), taken: 0 }
    }

    /// Counts a large text as the principal's, for as long as anybody has a piece of it. `None`: there is no room.
    pub fn count(self: &Arc<Self>, owner: &str, text: Text) -> Option<Text> {
        if !text.is_large() {
            return Some(text);
        }
        let mut room = self.room(owner);
        room.grow(text.len()).then(|| text.holding(room))
    }

    /// The same, but waits for room if it must.
    pub async fn count_within(self: &Arc<Self>, owner: &str, text: Text, patience: Duration) -> Option<Text> {
        if !text.is_large() {
            return Some(text);
        }
        let mut room = self.room(owner);
        room.grow_within(text.len(), patience).await.then(|| text.holding(room))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a principal has of the memory. It is given back when this is dropped.
#[derive(Debug)]
pub struct Room {
    budget: Arc<Budget>,
    owner: Arc<str>,
    taken: usize,
}

impl Room {
    /// Takes so many bytes more, if there are any.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let mut state = self.budget.state();
        let own = state.owners.get(&self.owner).copied().unwrap_or_default();
        // Callers who are not told apart are all one, and have no share.
        let is_share = self.owner.trim().is_empty() || own + bytes <= self.budget.total / SHARE;
        if !is_share || state.taken + bytes > self.budget.total {
            return false;
        }
        state.taken += bytes;
        *state.owners.entry(Arc::clone(&self.owner)).or_default() += bytes;
        self.taken += bytes;
        true
    }

    /// Takes so many bytes more, and waits for them if it must.
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
        let mut state = self.budget.state();
        state.taken -= self.taken;
        if let Some(own) = state.owners.get_mut(&self.owner) {
            *own -= self.taken;
            if *own == 0 {
                state.owners.remove(&self.owner);
            }
        }
        drop(state);
        self.budget.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_has_a_share_and_gives_it_back() {
        let budget = Budget::new(400);
        let (mut ana, mut bob) = (budget.room("ana"), budget.room("bob"));
        assert!(ana.grow(60) && !ana.grow(60), "a quarter");
        assert!(!budget.room("ana").grow(60), "of all that is theirs");
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
        let budget = Budget::new(400);
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
