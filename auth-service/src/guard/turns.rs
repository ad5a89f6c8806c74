//! Decides which request is processed next when there are more requests than the service can process at the same
//! time.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::queues::{Key, Position, Queues};

/// Maximum number of waiting requests from strangers. If there are more, the newest request from the address with
/// the most requests is refused.
pub const MAX_STRANGERS: usize = 512;
/// One of this many turns goes to a stranger while known users are waiting.
const ONE_FOR_STRANGERS_IN: u32 = 4;

/// The class of the sender of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The sender is in a network from which an account was recently used.
    Known,
    /// The sender is in any other network.
    Stranger,
}

/// Gives turns to requests. Addresses alternate, so that an address with one request does not wait for all
/// requests from an address that has sent many. Known users come first.
pub struct Turns {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// How many more requests can be processed now.
    free: usize,
    known: Line,
    strangers: Line,
    /// Number of turns that known users have had since the last turn of a stranger.
    since_stranger: u32,
}

/// The waiting requests from known users, or those from strangers.
#[derive(Debug, Default)]
struct Line {
    queues: Queues<oneshot::Sender<Turn>>,
    /// The addresses that have waiting requests, in the order of their next turns.
    order: VecDeque<Key>,
}

/// The turn of one request. Dropping it gives the turn to the next request.
#[derive(Debug)]
pub struct Turn {
    state: Option<Arc<Mutex<State>>>,
}

/// Too many requests are waiting, and this address has the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests are waiting; try again in a moment")]
pub struct Crowded;

impl Turns {
    /// Allows this number of requests to be processed at the same time.
    pub fn new(at_once: usize) -> Self {
        let (known, strangers) = (Line::default(), Line::default());
        Self { state: Arc::new(Mutex::new(State { free: at_once, known, strangers, since_stranger: 0 })) }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// Fails if too many requests from strangers are waiting, and this address has the most.
    pub async fn take(&self, address: Option<IpAddr>, sender: Sender) -> Result<Turn, Crowded> {
        let (notice, turn) = oneshot::channel();
        let place = {
            let mut state = lock(&self.state);
            if state.free > 0 {
                state.free -= 1;
                return Ok(Turn { state: Some(Arc::clone(&self.state)) });
            }
            let position = state.line(sender).add(address, notice);
            if state.strangers.queues.count() > MAX_STRANGERS {
                state.strangers.refuse_newest_of_fullest();
            }
            Place { position, sender, state: &self.state }
        };
        let turn = turn.await;
        drop(place);
        turn.map_err(|_| Crowded)
    }

    /// The number of waiting requests.
    pub fn waiting(&self) -> usize {
        let state = lock(&self.state);
        state.known.queues.count() + state.strangers.queues.count()
    }
}

impl State {
    fn line(&mut self, sender: Sender) -> &mut Line {
        match sender {
            Sender::Known => &mut self.known,
            Sender::Stranger => &mut self.strangers,
        }
    }

    /// Removes and returns the request whose turn is next.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        if self.since_stranger + 1 >= ONE_FOR_STRANGERS_IN
            && let Some(next) = self.strangers.next()
        {
            self.since_stranger = 0;
            return Some(next);
        }
        if let Some(next) = self.known.next() {
            self.since_stranger = self.since_stranger.saturating_add(1);
            return Some(next);
        }
        self.since_stranger = 0;
        self.strangers.next()
    }
}

impl Line {
    fn add(&mut self, address: Option<IpAddr>, notice: oneshot::Sender<Turn>) -> Position {
        let position = self.queues.add(address, notice);
        if self.queues.count_of(position.key) == 1 {
            self.order.push_back(position.key);
        }
        position
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        loop {
            let key = self.order.pop_front()?;
            // The requests from an address might have been cancelled since it was added to the order.
            if let Some((_, notice)) = self.queues.take_oldest(key) {
                if self.queues.count_of(key) > 0 {
                    self.order.push_back(key);
                }
                return Some(notice);
            }
        }
    }

    fn remove(&mut self, position: Position) {
        self.queues.remove(position);
        self.forget_if_empty(position.key);
    }

    /// Refuses the newest request from the address with the most requests, by dropping its notice. If each address
    /// has only one request, the newest of all is refused, and not the one that has waited longest.
    fn refuse_newest_of_fullest(&mut self) {
        if let Some(fullest) = self.queues.fullest_and_newest() {
            self.queues.take_newest(fullest);
            self.forget_if_empty(fullest);
        }
    }

    /// Removes an address without requests from the order. Otherwise, the address would be in the order twice
    /// after its next request.
    fn forget_if_empty(&mut self, key: Key) {
        if self.queues.count_of(key) == 0 {
            self.order.retain(|other| *other != key);
        }
    }
}

/// The queue position of a waiting request. Dropping it removes the request, if it is still waiting.
struct Place<'a> {
    position: Position,
    sender: Sender,
    state: &'a Mutex<State>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(self.state).line(self.sender).remove(self.position);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(mut state) = self.state.take() else { return };
        loop {
            let next = {
                let mut state = lock(&state);
                let next = state.next();
                state.free += usize::from(next.is_none());
                next
            };
            let Some(next) = next else { return };
            let Err(mut unwanted) = next.send(Turn { state: Some(state) }) else { return };
            // The request has just been cancelled, so the turn goes to the next one.
            let Some(back) = unwanted.state.take() else { return };
            state = back;
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::LocalBoxFuture;

    use super::*;

    fn address(n: u16) -> IpAddr {
        let [high, low] = n.to_be_bytes();
        IpAddr::from([198, 51, high, low])
    }

    type Waiter<'a> = LocalBoxFuture<'a, Result<Turn, Crowded>>;

    fn waiter(turns: &Turns, n: u16, sender: Sender) -> Waiter<'_> {
        let mut waiter = turns.take(Some(address(n)), sender).boxed_local();
        assert!((&mut waiter).now_or_never().is_none());
        waiter
    }

    /// Returns the order in which the waiters get their turns. Each turn ends immediately.
    fn order<'a>(turn: Turn, waiters: impl IntoIterator<Item = (char, Waiter<'a>)>) -> String {
        let mut waiters: Vec<_> = waiters.into_iter().collect();
        let mut order = String::new();
        drop(turn);
        while let Some(at) = waiters.iter_mut().position(|(_, waiter)| {
            // The turn ends here, so another waiter gets the next one.
            waiter.now_or_never().is_some()
        }) {
            order.push(waiters.remove(at).0);
        }
        assert!(waiters.is_empty());
        order
    }

    #[test]
    fn a100_addresses_take_turns() {
        let turns = Turns::new(1);
        let turn = turns.take(None, Sender::Stranger).now_or_never().unwrap().unwrap();
        let wait = |name, n| (name, waiter(&turns, n, Sender::Stranger));
        let waiters = [wait('a', 1), wait('b', 1), wait('c', 1), wait('x', 2), wait('y', 2), wait('z', 3)];
        assert_eq!(order(turn, waiters), "axzbyc");
        assert_eq!(turns.waiting(), 0);
    }

    #[test]
    fn a100_known_users_are_first_but_strangers_are_served() {
        let turns = Turns::new(1);
        let turn = turns.take(None, Sender::Stranger).now_or_never().unwrap().unwrap();
        let strangers = ('a'..='c').map(|name| (name, waiter(&turns, 1, Sender::Stranger)));
        let known = ('1'..='9').map(|name| (name, waiter(&turns, 2, Sender::Known)));
        let waiters: Vec<_> = strangers.chain(known).collect();
        assert_eq!(order(turn, waiters), "123a456b789c");
    }

    #[test]
    fn a100_when_too_many_wait_the_address_that_has_most_is_refused() {
        let turns = Turns::new(1);
        let turn = turns.take(None, Sender::Stranger).now_or_never().unwrap().unwrap();
        let mut eve: Vec<_> = (0..50).map(|_| waiter(&turns, 1, Sender::Stranger)).collect();
        let others = u16::try_from(MAX_STRANGERS - 50).unwrap();
        let mut others: Vec<_> = (2..2 + others).map(|n| waiter(&turns, n, Sender::Stranger)).collect();
        let mut newcomer = waiter(&turns, 60_000, Sender::Stranger);
        assert_eq!(turns.waiting(), MAX_STRANGERS);
        let refused: Vec<_> = eve.iter_mut().map(|waiter| waiter.now_or_never().is_some()).collect();
        assert_eq!(refused.iter().filter(|refused| **refused).count(), 1);
        assert_eq!(refused.last(), Some(&true));
        assert!(others.iter_mut().chain([&mut newcomer]).all(|waiter| waiter.now_or_never().is_none()));
        drop((eve, others, newcomer));
        assert_eq!(turns.waiting(), 0);
        drop(turn);
        assert!(turns.take(Some(address(1)), Sender::Known).now_or_never().is_some());
    }

    #[test]
    fn a100_when_each_address_has_one_request_the_last_to_come_is_refused() {
        let turns = Turns::new(1);
        let turn = turns.take(None, Sender::Stranger).now_or_never().unwrap().unwrap();
        let all = u16::try_from(MAX_STRANGERS).unwrap();
        let mut waiters: Vec<_> = (0..all).map(|n| waiter(&turns, n, Sender::Stranger)).collect();
        let mut newcomer = turns.take(Some(address(60_000)), Sender::Stranger).boxed_local();
        assert!((&mut newcomer).now_or_never().unwrap().is_err());
        assert!(waiters.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
        assert_eq!(lock(&turns.state).strangers.order.len(), MAX_STRANGERS);
        drop((waiters, turn));
    }

    #[test]
    fn a100_an_address_that_was_refused_has_one_turn_in_a_round() {
        let mut line = Line::default();
        let notice = || oneshot::channel().0;
        for _ in 0..2 {
            line.add(Some(address(1)), notice());
            line.refuse_newest_of_fullest();
            line.add(Some(address(1)), notice());
        }
        assert_eq!(line.order.len(), 1);
    }

    #[test]
    fn a_request_that_leaves_while_its_turn_comes_takes_none() {
        let turns = Turns::new(1);
        let turn = turns.take(None, Sender::Stranger).now_or_never().unwrap().unwrap();
        let (gone, stays) = (waiter(&turns, 1, Sender::Known), waiter(&turns, 2, Sender::Known));
        drop(turn);
        drop(gone);
        assert!(stays.now_or_never().unwrap().is_ok());
        assert!(turns.take(None, Sender::Stranger).now_or_never().is_some());
        let state = lock(&turns.state);
        assert_eq!((state.free, state.known.order.len(), state.strangers.order.len()), (1, 0, 0));
    }
}
