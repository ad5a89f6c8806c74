//! Threads for processing large messages, so that the threads that serve all users are not blocked by a large
//! message from one user. They process one message per user at a time, and alternate between users.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::budget::user;

/// Minimum size of a large message, in bytes. Smaller messages take at most about a millisecond, which does not justify
/// switching threads. The slowest are those with very many small members or messages, which take ten times as long as
/// the same amount of text.
pub const LARGE: usize = 32 << 10;
/// Number of threads. With two threads, a message from one user does not have to wait for another user's message.
const THREADS: usize = 2;

type Task = Box<dyn FnOnce() + Send>;

/// The threads, and their queued work. Dropping it stops the threads.
#[derive(Debug)]
pub struct Offload {
    queue: Arc<Queue>,
    /// The number of the next task of callers without an identity.
    next: AtomicU64,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}

#[derive(Default)]
struct State {
    /// The waiting tasks, by user. A user has an entry while one of the user's tasks is waiting or running. The
    /// memory of each message is counted, so the number of tasks is limited.
    tasks: HashMap<Arc<str>, VecDeque<Task>>,
    /// The order in which users are served next. None of their tasks is running now.
    turns: VecDeque<Arc<str>>,
    is_closed: bool,
}

impl Offload {
    /// Starts the worker threads.
    pub fn start() -> std::io::Result<Arc<Self>> {
        let queue = Arc::<Queue>::default();
        for _ in 0..THREADS {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name("large-texts".to_owned()).spawn(move || queue.work())?;
        }
        Ok(Arc::new(Self { queue, next: AtomicU64::new(0) }))
    }

    /// Runs `work` on one of the threads. Users take turns. Returns `None` if it panicked. If the returned
    /// future is dropped before the work starts, the work is not done.
    pub async fn run<T: Send + 'static>(
        &self,
        owner: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let task = move || {
            if !sender.is_closed() {
                // The caller might have been dropped in the meantime.
                let _ = sender.send(work());
            }
        };
        let user = match user(owner) {
            // Callers without an identity do not wait for each other.
            nobody if nobody.trim().is_empty() => {
                format!("\0\0{}", self.next.fetch_add(1, Ordering::Relaxed)).into()
            }
            user => Arc::from(user),
        };
        self.queue.put(user, Box::new(task));
        receiver.await.ok()
    }
}

impl Offload {
    /// Runs `work` on a message of this length: directly, or like [`Offload::run`] if the message is large.
    pub async fn run_if_large<T: Send + 'static>(
        &self,
        owner: &str,
        length: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if length < LARGE { Some(work()) } else { self.run(owner, work).await }
    }
}

impl Drop for Offload {
    fn drop(&mut self) {
        self.queue.state().is_closed = true;
        self.queue.wake.notify_all();
    }
}

impl Queue {
    fn put(&self, user: Arc<str>, task: Task) {
        let mut state = self.state();
        match state.tasks.entry(Arc::clone(&user)) {
            Entry::Occupied(mut waiting) => return waiting.get_mut().push_back(task),
            Entry::Vacant(place) => {
                place.insert(VecDeque::from([task]));
            }
        }
        state.turns.push_back(user);
        drop(state);
        self.wake.notify_one();
    }

    /// Runs tasks until the queue is closed.
    fn work(&self) {
        while let Some((user, task)) = self.take() {
            // The thread must continue even if the task panics. The caller of the task detects that there is no
            // result.
            let _ = catch_unwind(AssertUnwindSafe(task));
            self.done(user);
        }
    }

    /// Waits for the next task.
    fn take(&self) -> Option<(Arc<str>, Task)> {
        let mut state = self.state();
        loop {
            if state.is_closed {
                return None;
            }
            let user = state.turns.pop_front();
            let task = user.as_ref().and_then(|user| state.tasks.get_mut(user)).and_then(VecDeque::pop_front);
            if let (Some(user), Some(task)) = (user, task) {
                return Some((user, task));
            }
            if state.turns.is_empty() {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Records that a task of this user is done. Other users are served before the user's next task.
    fn done(&self, user: Arc<str>) {
        let mut state = self.state();
        if state.tasks.get(&user).is_none_or(VecDeque::is_empty) {
            state.tasks.remove(&user);
            return;
        }
        state.turns.push_back(user);
        drop(state);
        self.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Offload {
    /// Keeps all threads busy until the returned value is dropped.
    pub(crate) async fn occupy(self: &Arc<Self>) -> impl Drop + use<> {
        struct Gates(Vec<std::sync::mpsc::Sender<()>>);
        impl Drop for Gates {
            fn drop(&mut self) {
                self.0.iter().for_each(|gate| gate.send(()).unwrap());
            }
        }
        let mut gates = Gates(Vec::new());
        for number in 0..THREADS {
            let (open, gate) = std::sync::mpsc::channel();
            let (working, works) = oneshot::channel();
            let offload = Arc::clone(self);
            let wait = move || {
                working.send(()).unwrap();
                gate.recv().unwrap();
            };
            tokio::spawn(async move { offload.run(&format!("user {number}"), wait).await });
            works.await.unwrap();
            gates.0.push(open);
        }
        gates
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a109_a_user_has_one_text_at_a_time_worked_on_and_others_do_not_wait_for_all_of_them() {
        let offload = Offload::start().unwrap();
        let (order, seen) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        // Ana's first message occupies one thread until all other messages are done.
        let (working, work) = oneshot::channel();
        let run = |who: &'static str, name: &'static str| {
            let (offload, order) = (Arc::clone(&offload), order.clone());
            tokio::spawn(async move { offload.run(who, move || order.send(name).unwrap()).await })
        };
        let first = {
            let (offload, order) = (Arc::clone(&offload), order.clone());
            tokio::spawn(async move {
                let keep = move || {
                    working.send(()).unwrap();
                    gate.recv().unwrap();
                    order.send("ana 1").unwrap();
                };
                offload.run("ana\none", keep).await
            })
        };
        work.await.unwrap();
        let second = run("ana\nanother", "ana 2");
        tokio::task::yield_now().await;
        run("bob\none", "bob 1").await.unwrap().unwrap();
        run("", "nobody").await.unwrap().unwrap();
        open.send(()).unwrap();
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        let seen: Vec<&str> = seen.try_iter().collect();
        assert_eq!(seen, ["bob 1", "nobody", "ana 1", "ana 2"]);
        let left = offload.queue.state();
        assert!(left.turns.is_empty(), "{:?}", left.turns);
    }

    #[tokio::test]
    async fn a_panic_or_a_caller_that_has_gone_stops_nobody() {
        let offload = Offload::start().unwrap();
        for _ in 0..2 * THREADS {
            assert_eq!(offload.run("ana", || panic!("as it should")).await, None::<()>);
        }
        let (sender, receiver) = oneshot::channel::<()>();
        let mut gone = Box::pin(offload.run("ana", move || sender.send(())));
        // The future is polled once and then dropped.
        let _ = futures_util::poll!(gone.as_mut());
        drop(gone);
        assert_eq!(offload.run("ana", || 7).await, Some(7));
        let _ = receiver.await;
    }
}
