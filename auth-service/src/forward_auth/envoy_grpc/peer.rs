//! The peer of a connection to the gRPC listener: its address, whether it has sent the edge secret, and whether it
//! reads the responses to its calls.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

/// The state that all calls on one connection share. It is an extension of each request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The address from which the connection comes.
    pub address: Option<IpAddr>,
    connection: Arc<ConnectionState>,
}

/// The state of one connection.
#[derive(Debug)]
pub struct ConnectionState {
    has_secret: AtomicBool,
    is_closed: AtomicBool,
    closing: AtomicWaker,
    answers: Mutex<Unsent>,
}

/// The responses that the peer has not received yet. HTTP/2 flow control lets a peer delay them.
#[derive(Debug)]
struct Unsent {
    number: usize,
    /// The time at which the last response was sent or, if none has been sent, at which the first one was ready.
    since: Instant,
}

/// A response that has not been sent completely. Dropping this value records that it has been sent.
#[derive(Debug)]
pub(super) struct UnsentAnswer(Arc<ConnectionState>);

impl Peer {
    /// The peer of a new connection.
    pub fn new(address: Option<IpAddr>) -> Self {
        let connection = ConnectionState {
            has_secret: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            closing: AtomicWaker::new(),
            answers: Mutex::new(Unsent { number: 0, since: Instant::now() }),
        };
        Self { address, connection: Arc::new(connection) }
    }

    /// The state of the peer's connection.
    pub fn connection(&self) -> &Arc<ConnectionState> {
        &self.connection
    }

    /// Records that the peer is an edge proxy.
    pub(super) fn has_shown_the_secret(&self) {
        self.connection.has_secret.store(true, Ordering::Relaxed);
    }

    /// Counts a response that is about to be sent.
    pub(super) fn answer(&self) -> UnsentAnswer {
        let mut answers = self.connection.answers();
        if answers.number == 0 {
            answers.since = Instant::now();
        }
        answers.number += 1;
        UnsentAnswer(Arc::clone(&self.connection))
    }
}

impl Drop for UnsentAnswer {
    fn drop(&mut self) {
        let mut answers = self.0.answers();
        answers.number = answers.number.saturating_sub(1);
        answers.since = Instant::now();
    }
}

impl ConnectionState {
    /// Whether any call on this connection has contained the edge secret.
    pub fn is_of_edge(&self) -> bool {
        self.has_secret.load(Ordering::Relaxed)
    }

    /// Whether there are unsent responses, none of which the peer has received for at least `patience`.
    pub fn is_stalled(&self, patience: Duration) -> bool {
        let answers = self.answers();
        answers.number > 0 && answers.since.elapsed() >= patience
    }

    /// Marks the connection as closed, and wakes the task that serves it, so that [`Self::poll_closed`]
    /// completes.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.closing.wake();
    }

    /// Completes when the connection must be closed.
    pub fn poll_closed(&self, context: &mut Context<'_>) -> Poll<()> {
        self.closing.register(context.waker());
        if self.is_closed.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn answers(&self) -> MutexGuard<'_, Unsent> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_stalled_while_answers_wait_and_none_is_taken() {
        let peer = Peer::new(None);
        let (moment, state) = (Duration::from_millis(30), Arc::clone(peer.connection()));
        std::thread::sleep(moment);
        assert!(!state.is_stalled(moment), "nothing waits");
        let (first, second) = (peer.answer(), peer.answer());
        assert!(!state.is_stalled(Duration::from_secs(60)), "both are new");
        std::thread::sleep(moment);
        assert!(state.is_stalled(moment));
        drop(first);
        assert!(!state.is_stalled(Duration::from_secs(60)), "one was sent");
        std::thread::sleep(moment);
        assert!(state.is_stalled(moment), "the other was not sent");
        drop(second);
        assert!(!state.is_stalled(Duration::ZERO));
    }
}
