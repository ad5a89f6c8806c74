//! A client that reads a stream.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{Next, Stream};
use crate::protocol::EventId;

/// A connected client. Dropping it disconnects the client.
#[derive(Debug)]
pub struct Consumer {
    pub(super) stream: Arc<Stream>,
    pub(super) number: u64,
    pub(super) wake: Arc<Notify>,
}

impl Consumer {
    /// The stream that this client reads.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Waits for something new for this client.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    /// The id of the event that precedes the next one.
    pub fn position(&self) -> EventId {
        EventId { stream: self.stream.id, sequence: self.stream.state().cursor - 1 }
    }

    /// Returns the next message, and counts it as read.
    pub fn next(&self) -> Next {
        let mut state = self.stream.state();
        if !state.consumers.iter().any(|place| place.number == self.number) {
            return Next::End;
        }
        if state.consumers.last().is_some_and(|place| place.number != self.number) {
            return if state.is_closed { Next::End } else { Next::Wait };
        }
        let oldest = state.events.front().map_or(state.next, |event| event.sequence);
        let index = usize::try_from(state.cursor.max(oldest) - oldest).unwrap_or(usize::MAX);
        let Some(event) = state.events.get(index) else {
            return if state.is_closed || state.open_answers == Some(0) { Next::End } else { Next::Wait };
        };
        let (sequence, data, cost) = (event.sequence, event.data.clone(), event.cost());
        state.cursor = sequence + 1;
        state.untaken = state.untaken.saturating_sub(cost);
        state.settle(self.stream.limit, &self.stream.account);
        drop(state);
        self.stream.drained.notify_one();
        Next::Event(EventId { stream: self.stream.id, sequence }, data)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let mut state = self.stream.state();
        state.consumers.retain(|place| place.number != self.number);
        state.wake();
        state.settle(self.stream.limit, &self.stream.account);
        drop(state);
        self.stream.drained.notify_one();
    }
}
