//! Shares the time of a thread between users while it handles the output of children, or passes on large messages.
//! A child can write millions of lines per second, and a response can contain megabytes that a fast client reads as
//! quickly as they are written. Without a limit, this work would occupy the thread completely (attack 100).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::budget::{of_child, user};

/// The amount of work after which other users are served first. The unit is the work for one byte of a short
/// line: 10 ns for the fastest lines and 300 ns for the slowest.
pub const PIECE: usize = 8 << 10;
/// The work for a line, in addition to the work for its bytes.
pub const PER_LINE: usize = 64;
/// The number of copied bytes that take as long as one unit of work.
const COPIED_PER_UNIT: usize = 8;
/// The number of bytes that are copied in one turn.
pub const COPIED: usize = PIECE * COPIED_PER_UNIT;
/// The work for one user in each [`WINDOW`] that is done without waiting for the work of other users.
const FREE: usize = 64 << 10;
const WINDOW: Duration = Duration::from_millis(100);
/// Number of useless lines per second, such as blank lines, after which the children of a user are not read
/// until the second is over.
const MAX_USELESS: u64 = 1000;
const SECOND: Duration = Duration::from_secs(1);

static ALL: Turns = Turns::new(FREE);
/// The number in the name of the next artificial user, which stands for a caller without an identity.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The turns of all users.
struct Turns {
    /// The users with a running child, or with a large message that is being passed on.
    users: Mutex<BTreeMap<Arc<str>, Arc<User>>>,
    /// Must be acquired to work for a user who has recently caused much work.
    turn: Semaphore,
    /// [`FREE`], except in tests.
    free: usize,
}

/// The work for one user.
struct User {
    /// Ensures that several children and messages of a user together get only one turn at a time.
    turn: Semaphore,
    done: Mutex<Done>,
}

/// The work for a user in the current window and in the current second.
struct Done {
    window: Instant,
    work: usize,
    second: Instant,
    useless: u64,
}

impl Turns {
    const fn new(free: usize) -> Self {
        Self { users: Mutex::new(BTreeMap::new()), turn: Semaphore::const_new(1), free }
    }

    fn users(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<User>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn share(&'static self, name: &str) -> Share {
        let mut users = self.users();
        let name = users.get_key_value(name).map_or_else(|| Arc::from(name), |(name, _)| Arc::clone(name));
        let user = Arc::clone(users.entry(Arc::clone(&name)).or_insert_with(|| Arc::new(User::new())));
        Share { turns: self, name, user, work: 0 }
    }
}

impl User {
    fn new() -> Self {
        let now = Instant::now();
        let done = Mutex::new(Done { window: now, work: 0, second: now, useless: 0 });
        Self { turn: Semaphore::new(1), done }
    }

    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts work. Returns whether this user has caused so little work that it need not wait for other users.
    fn is_free(&self, work: usize, free: usize) -> bool {
        let (mut done, now) = (self.done(), Instant::now());
        if now.duration_since(done.window) >= WINDOW {
            (done.window, done.work) = (now, 0);
        }
        done.work = done.work.saturating_add(work);
        done.work <= free
    }
}

/// The share of one child or message in the turns of its user.
pub struct Share {
    turns: &'static Turns,
    name: Arc<str>,
    user: Arc<User>,
    /// The work since the last turn.
    work: usize,
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Share").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Share {
    /// The share of a child in the turns of the user of `owner`. If callers have no identity, each child counts
    /// as a user, so that no caller waits for all other callers.
    pub fn of(owner: &str, child: u64) -> Self {
        ALL.share(&name(owner, || of_child(child)))
    }

    /// Counts completed work. After each [`PIECE`], yields so that this thread can handle other connections. If
    /// this user has recently caused much work, first waits for a turn among users.
    pub async fn spend(&mut self, work: usize) {
        self.work = self.work.saturating_add(work);
        if self.work < PIECE {
            return;
        }
        if self.user.is_free(std::mem::take(&mut self.work), self.turns.free) {
            return yield_now().await;
        }
        // These semaphores are never closed. If they were, output would be handled without waiting.
        let _own = self.user.turn.acquire().await;
        let _turn = self.turns.turn.acquire().await;
        // This returns after the runtime has polled the operating system for events.
        yield_now().await;
    }

    /// Counts useless lines. If there were too many, returns the time until which the child's output must not
    /// be read.
    pub fn useless(&self, lines: u64, now: Instant) -> Option<Instant> {
        let mut done = self.user.done();
        if now.duration_since(done.second) >= SECOND {
            (done.second, done.useless) = (now, 0);
        }
        done.useless = done.useless.saturating_add(lines);
        (done.useless > MAX_USELESS).then(|| done.second + SECOND)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut users = self.turns.users();
        // One reference belongs to the map, and the other to this share.
        if Arc::strong_count(&self.user) <= 2 {
            users.remove(&self.name);
        }
    }
}

/// The name of the user of `owner`, or the result of `nobody` if the caller has no identity.
fn name(owner: &str, nobody: impl FnOnce() -> String) -> Arc<str> {
    match user(owner) {
        user if user.trim().is_empty() => nobody().into(),
        user => user.into(),
    }
}

/// Counts bytes that are copied for a user, such as those of a response. Small amounts need no turn, so that they
/// are not delayed.
#[derive(Debug)]
pub struct Copies {
    user: Arc<str>,
    /// The number of bytes since the last turn.
    bytes: usize,
    /// `None` until the first turn is needed.
    share: Option<Share>,
}

impl Copies {
    /// Starts a count for the user of `owner`. Callers without an identity do not wait for each other.
    pub fn of(owner: &str) -> Self {
        Self::of_user(name(owner, || format!("\0\0{}", NEXT.fetch_add(1, Ordering::Relaxed))))
    }

    /// Starts a count for messages to a child. If `owner` has no identity, the child itself counts as a user.
    pub fn of_child(owner: &str, child: u64) -> Self {
        Self::of_user(name(owner, || of_child(child)))
    }

    fn of_user(user: Arc<str>) -> Self {
        Self { user, bytes: 0, share: None }
    }

    /// Counts copied bytes. After each [`COPIED`] of them, waits for the next turn.
    pub async fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes < COPIED {
            return;
        }
        let work = std::mem::take(&mut self.bytes) / COPIED_PER_UNIT;
        self.share.get_or_insert_with(|| ALL.share(&self.user)).spend(work).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn a100_a_user_with_many_children_has_no_more_turns_than_another_with_one() {
        let (order, all) = (Rc::new(RefCell::new(Vec::new())), LocalSet::new());
        let turns: &Turns = Box::leak(Box::new(Turns::new(0)));
        let work = |name: &'static str| {
            let (mut share, order) = (turns.share(name), Rc::clone(&order));
            all.spawn_local(async move {
                for _ in 0..100 {
                    share.spend(PIECE).await;
                    order.borrow_mut().push(name);
                }
            })
        };
        for _ in 0..8 {
            work("mallory");
        }
        let bob = work("bob");
        all.run_until(bob).await.unwrap();
        let before_bob_was_done = order.borrow().iter().filter(|name| **name == "mallory").count();
        assert!(before_bob_was_done <= 102, "{before_bob_was_done}");
    }

    #[tokio::test]
    async fn a100_between_two_pieces_of_work_everybody_else_has_a_turn() {
        let (done, all) = (Rc::new(Cell::new(0)), LocalSet::new());
        let turns: &Turns = Box::leak(Box::new(Turns::new(0)));
        for number in 0..8 {
            let (mut share, done) = (turns.share(&format!("user {}", number % 3)), Rc::clone(&done));
            all.spawn_local(async move {
                for _ in 0..1000 {
                    share.spend(PIECE).await;
                    done.set(done.get() + 1);
                }
            });
        }
        all.run_until(async {
            yield_now().await;
            for _ in 0..100 {
                let before = done.get();
                yield_now().await;
                let now = done.get() - before;
                assert!(now <= 2, "{now} pieces were processed before other tasks could run");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a100_lines_that_nobody_can_use_are_counted_for_all_children_of_a_user() {
        let turns: &Turns = Box::leak(Box::new(Turns::new(0)));
        let (one, other, bob) = (turns.share("mallory"), turns.share("mallory"), turns.share("bob"));
        let now = Instant::now() + SECOND;
        assert_eq!(one.useless(MAX_USELESS, now), None);
        let end = other.useless(1, now).unwrap();
        assert_eq!(end, now + SECOND);
        assert_eq!((one.useless(0, now), bob.useless(MAX_USELESS, now)), (Some(end), None));
        assert_eq!(one.useless(1, end), None);
        drop((one, other, bob));
        assert!(turns.users().is_empty(), "users without children are removed");
    }

    #[tokio::test]
    async fn copied_bytes_need_a_turn_only_when_there_are_many() {
        let mut copies = Copies::of("ana of copies");
        for _ in 0..2 {
            assert!(futures_util::poll!(Box::pin(copies.spend(COPIED - 1))).is_ready());
            let mut turn = Box::pin(copies.spend(1));
            assert!(futures_util::poll!(&mut turn).is_pending());
            turn.await;
        }
    }

    #[tokio::test]
    async fn callers_without_an_identity_do_not_wait_for_each_other() {
        let (one, other) = (Share::of("\n", 7_000_001), Share::of("\n", 7_000_002));
        assert!(!Arc::ptr_eq(&one.user, &other.user));
        let (one, other) = (Share::of("ana of turns\nx", 1), Share::of("ana of turns\ny", 2));
        assert!(Arc::ptr_eq(&one.user, &other.user));
    }
}
