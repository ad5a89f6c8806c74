//! Memory that all callers share, and that a single caller cannot use up.

mod memory;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use memory::{COUNTED_BODY, Memory};

use crate::protocol::Text;

/// One principal can use 1/`SHARE` of the memory.
const SHARE: usize = 4;

/// Memory that a kept string needs in addition to its length, in bytes.
const OVERHEAD: usize = 128;

/// The error that replaces a response for which there is no memory.
pub const TOO_MANY_ANSWERS: &str =
    "Too many large answers are waiting to be read by their clients. Read yours, or try again in a moment.";

/// The error for a message for which there is no memory.
pub const TOO_MANY_MESSAGES: &str = "Too many large messages, either yours or those of all users, are waiting for an MCP server that does not read its input. End such a session, or try again in a moment.";

/// The user part of an owner, which consists of a user and a client. Memory is divided among users, because a
/// user can have any number of clients.
pub fn user(owner: &str) -> &str {
    owner.split_once('\n').map_or(owner, |(subject, _)| subject)
}

/// The name of a child that serves several principals and therefore counts as a principal itself.
pub fn of_child(number: u64) -> String {
    format!("\0{number}")
}

/// An amount of memory, in bytes, that principals share.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    /// Messages with fewer bytes than this are not counted.
    least: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// The number of bytes that each principal has reserved.
    owners: HashMap<Arc<str>, usize>,
}

impl Budget {
    /// Creates a budget of `total` bytes. Only messages of at least `least` bytes are counted.
    pub fn new(total: usize, least: usize) -> Arc<Self> {
        Arc::new(Self { total, least, state: Mutex::default(), freed: Notify::new() })
    }

    /// Creates an empty reservation for a principal.
    pub fn reservation(self: &Arc<Self>, owner: &str) -> Reservation {
        Reservation { budget: Arc::clone(self), owner: Arc::from(user(owner)), taken: 0 }
    }

    /// Creates an empty reservation for a child that serves several principals. Until a line is complete, it is
    /// unknown to which principal it belongs, so the child counts as a principal.
    pub fn reservation_of_child(self: &Arc<Self>, number: u64) -> Reservation {
        self.reservation(&of_child(number))
    }

    /// Counts the text of a message towards a principal's share until all parts of it are dropped. Returns `None`
    /// if there is no space.
    pub fn count(self: &Arc<Self>, owner: &str, text: Text) -> Option<Text> {
        if text.len() < self.least { Some(text) } else { self.reservation(owner).hold(text) }
    }

    /// Reserves memory for a message of this length before the message is created, and waits for space up to
    /// `patience`. For a message that is not counted, the reservation is empty. Returns `None` if there is no
    /// space.
    pub async fn reserve(
        self: &Arc<Self>,
        owner: &str,
        length: usize,
        patience: Duration,
    ) -> Option<Reservation> {
        let mut reservation = self.reservation(owner);
        (length < self.least || reservation.grow_within(length, patience).await).then_some(reservation)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that is reserved for a principal. Dropping it returns the memory.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    owner: Arc<str>,
    taken: usize,
}

impl Reservation {
    /// A reservation without a limit, for messages that belong to no caller.
    pub fn unlimited() -> Self {
        Budget::new(usize::MAX, usize::MAX).reservation("")
    }

    /// Creates an empty reservation for the same principal.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self { budget: Arc::clone(&self.budget), owner: Arc::clone(&self.owner), taken: 0 }
    }

    /// Keeps a string of any length in a separate reservation for the same principal. Returns `None` if there is
    /// no space.
    pub fn keep(&self, text: impl Into<ByteString>) -> Option<Kept> {
        let (text, mut reservation) = (text.into(), self.sibling());
        reservation.grow(text.len() + OVERHEAD).then(|| Kept(Arc::new(Inner { text, _room: reservation })))
    }

    /// Moves up to this number of bytes into a separate reservation.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let mut other = self.sibling();
        other.taken = bytes.min(self.taken);
        self.taken -= other.taken;
        other
    }

    /// Returns the line, which holds this reservation until it is dropped.
    pub fn holding(self, line: Bytes) -> Bytes {
        if self.taken == 0 { line } else { Text::from(line).holding(self).into_bytes() }
    }

    /// Extends this reservation to the size of the text, and waits for memory up to `patience`. Returns `None`
    /// if there is no space.
    pub async fn count_within(mut self, text: Text, patience: Duration) -> Option<Text> {
        let missing = text.len().saturating_sub(self.taken);
        if !self.counts(text.len()) {
            return Some(text);
        }
        (missing == 0 || self.grow_within(missing, patience).await).then(|| text.holding(self))
    }

    /// Whether a message of this length is counted.
    pub fn counts(&self, length: usize) -> bool {
        length >= self.budget.least
    }

    /// The principal who owns this memory.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The number of bytes in this reservation.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Counts the text of a message in a separate reservation for the same principal. Returns `None` if there is
    /// no space.
    pub fn count(&self, text: Text) -> Option<Text> {
        if self.counts(text.len()) { self.sibling().hold(text) } else { Some(text) }
    }

    fn hold(mut self, text: Text) -> Option<Text> {
        self.grow(text.len()).then(|| text.holding(self))
    }

    /// Reserves more bytes. Returns false if they are not available.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let mut state = self.budget.state();
        let own = state.owners.get(&self.owner).copied().unwrap_or_default();
        // Without identities, all callers are one principal, who can use everything.
        let is_share = self.owner.trim().is_empty() || own.saturating_add(bytes) <= self.budget.total / SHARE;
        if !is_share || state.taken + bytes > self.budget.total {
            return false;
        }
        state.taken += bytes;
        *state.owners.entry(Arc::clone(&self.owner)).or_default() += bytes;
        self.taken += bytes;
        true
    }

    /// Returns bytes to the budget.
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

    /// Reserves more bytes, and waits for them up to `patience`. Returns false if they are still not
    /// available.
    pub async fn grow_within(&mut self, bytes: usize, patience: Duration) -> bool {
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

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(self.taken);
    }
}

/// A string that is kept for a principal. Only [`Reservation::keep`] can create it, so its memory is always
/// counted. Clones share the string.
#[derive(Debug, Clone)]
pub struct Kept(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    text: ByteString,
    _room: Reservation,
}

impl Deref for Kept {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.text
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl Borrow<str> for Kept {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Kept {}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_has_a_share_and_gives_it_back() {
        let budget = Budget::new(400, 1);
        let (mut ana, mut bob) = (budget.reservation("ana"), budget.reservation("bob"));
        assert!(ana.grow(60) && !ana.grow(60), "a quarter");
        assert!(!budget.reservation("ana").grow(60), "one quota for all of ana's memory");
        assert!(
            !budget.reservation("ana\nanother client").grow(60),
            "the quota does not depend on the client"
        );
        assert!(bob.grow(100));
        drop(ana);
        assert!(budget.reservation("ana").grow(100));
        let mut all = budget.reservation("\n");
        assert!(all.grow(300) && !all.grow(1), "without an identity, there is no quota");
        drop((all, bob));
        assert!(budget.state().owners.is_empty());
    }

    #[tokio::test]
    async fn a_text_is_kept_only_in_memory_for_it_and_a_part_of_a_room_can_be_handed_on() {
        let budget = Budget::new(4000, 100);
        let ana = budget.reservation("ana");
        let kept = ana.keep("x".repeat(500)).unwrap();
        let copy = kept.clone();
        assert!(ana.keep("x".repeat(500)).is_none(), "a quarter");
        drop(kept);
        assert!(ana.keep("x".repeat(500)).is_none(), "a copy still uses the memory");
        drop(copy);
        let mut reservation = budget.reservation("ana");
        assert!(reservation.grow(900));
        let part = reservation.split(600);
        assert_eq!((reservation.taken(), part.taken()), (300, 600));
        drop(reservation);
        assert!(part.count_within(Text::from(Bytes::from(vec![0; 1100])), Duration::ZERO).await.is_none());
        assert!(budget.state().owners.is_empty());
    }

    #[tokio::test]
    async fn room_is_waited_for_as_long_as_one_likes() {
        let budget = Budget::new(400, 1);
        let mut first = budget.reservation("");
        assert!(first.grow(400));
        assert!(!budget.reservation("").grow_within(1, Duration::from_millis(20)).await);
        let waiting =
            tokio::spawn(
                async move { budget.reservation("").grow_within(400, Duration::from_secs(5)).await },
            );
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.unwrap());
    }
}
