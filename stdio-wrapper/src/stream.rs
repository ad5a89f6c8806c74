//! One stream of messages to a client: a POST's answers or the GET stream. It is the queue to a connected client and the
//! log that a reconnecting one is served from, in one bounded list.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::protocol::{EventId, StreamId, Text};

/// What each kept event costs besides its text.
const OVERHEAD: usize = 64;

/// A stream of messages.
#[derive(Debug)]
pub struct Stream {
    /// Its number in the session.
    pub id: StreamId,
    /// Bytes that may be kept.
    limit: usize,
    state: Mutex<State>,
    /// Something for the consumer.
    changed: Notify,
    /// Room for the producer.
    drained: Notify,
}

#[derive(Debug)]
struct State {
    events: VecDeque<Event>,
    /// Sequence number of the next event; 0 is the priming event.
    next: u64,
    /// The first event that the consumer has not taken.
    cursor: u64,
    /// Bytes of all events, and of those that the consumer has not taken.
    kept: usize,
    untaken: usize,
    /// Answers that are still to come; `None`: the stream does not end with its answers.
    open_answers: Option<usize>,
    /// Counts consumers, so that an older one notices that it was replaced. Even: nobody is connected.
    consumer: u64,
    is_closed: bool,
}

#[derive(Debug)]
struct Event {
    sequence: u64,
    data: Text,
    is_answer: bool,
}

impl Event {
    fn cost(&self) -> usize {
        self.data.len() + OVERHEAD
    }
}

/// What a POST is answered with.
#[derive(Debug)]
pub enum First {
    /// Nothing yet.
    Wait,
    /// All answers and nothing else: JSON.
    Answers(Vec<Text>),
    /// Something that is not an answer came first: events.
    Events,
}

/// What comes next on an event stream.
#[derive(Debug)]
pub enum Next {
    /// A message.
    Event(EventId, Text),
    /// Nothing yet.
    Wait,
    /// Nothing more.
    End,
}

impl Stream {
    /// A POST's stream, which ends after so many answers.
    pub fn for_post(id: StreamId, answers: usize, limit: usize) -> Arc<Self> {
        Arc::new(Self::new(id, Some(answers), limit))
    }

    /// A stream without an end of its own.
    pub fn endless(id: StreamId, limit: usize) -> Arc<Self> {
        Arc::new(Self::new(id, None, limit))
    }

    fn new(id: StreamId, open_answers: Option<usize>, limit: usize) -> Self {
        let state = State {
            events: VecDeque::new(),
            next: 1,
            cursor: 1,
            kept: 0,
            untaken: 0,
            open_answers,
            consumer: 0,
            is_closed: false,
        };
        Self { id, limit, state: Mutex::new(state), changed: Notify::new(), drained: Notify::new() }
    }

    /// Adds a message.
    pub fn push(&self, data: Text, is_answer: bool) {
        let mut state = self.state();
        if state.is_closed {
            return;
        }
        let event = Event { sequence: state.next, data, is_answer };
        state.next += 1;
        state.kept += event.cost();
        state.untaken += event.cost();
        state.events.push_back(event);
        if is_answer && let Some(open) = &mut state.open_answers {
            *open = open.saturating_sub(1);
        }
        state.trim(self.limit);
        drop(state);
        self.changed.notify_one();
    }

    /// Whether a message may be added without waiting for the client.
    pub fn has_room(&self) -> bool {
        let state = self.state();
        !state.is_connected() || state.untaken <= self.limit
    }

    /// Waits until the client has taken something.
    pub async fn drained(&self) {
        self.drained.notified().await;
    }

    /// Makes whoever waits look again.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Waits for something new.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Ends the stream; what is there can still be read.
    pub fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_one();
        self.drained.notify_one();
    }

    /// Takes the connected client off; it may come back and ask for the rest.
    pub fn cut(&self) {
        let mut state = self.state();
        state.consumer = (state.consumer + 1) & !1;
        state.trim(self.limit);
        drop(state);
        self.changed.notify_one();
        self.drained.notify_one();
    }

    /// Whether a client is connected.
    pub fn is_connected(&self) -> bool {
        self.state().is_connected()
    }

    /// Whether every answer is there.
    pub fn is_complete(&self) -> bool {
        let state = self.state();
        state.is_closed || state.open_answers == Some(0)
    }

    /// Bytes kept.
    pub fn kept(&self) -> usize {
        self.state().kept
    }

    /// Decides how a POST is answered.
    pub fn first(&self) -> First {
        let mut state = self.state();
        if state.events.iter().any(|event| !event.is_answer) {
            return First::Events;
        }
        if state.open_answers == Some(0) || state.is_closed {
            let events = std::mem::take(&mut state.events);
            return First::Answers(events.into_iter().map(|event| event.data).collect());
        }
        // Gathering the rest of a batch would hold up the child: what is there goes out.
        if state.untaken > self.limit { First::Events } else { First::Wait }
    }

    /// Connects a client, which gets what no client has taken yet, and replaces the one before.
    pub fn connect(self: &Arc<Self>) -> Consumer {
        let mut state = self.state();
        state.consumer = (state.consumer + 1) | 1;
        let number = state.consumer;
        drop(state);
        // Wakes the consumer that was replaced, if there is one.
        self.changed.notify_waiters();
        Consumer { stream: Arc::clone(self), number }
    }

    /// Connects a client that has seen everything up to an event. `None` if what follows is not kept any more, or the
    /// event never was.
    pub fn resume(self: &Arc<Self>, after: u64) -> Option<Consumer> {
        let mut state = self.state();
        let oldest = state.events.front().map_or(state.next, |event| event.sequence);
        if after + 1 < oldest || after >= state.next {
            return None;
        }
        state.cursor = after + 1;
        state.untaken = state.events.iter().filter(|event| event.sequence > after).map(Event::cost).sum();
        drop(state);
        Some(self.connect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_connected(&self) -> bool {
        self.consumer & 1 == 1
    }

    /// Forgets the oldest events: those that were taken, and when nobody is connected the others too.
    fn trim(&mut self, limit: usize) {
        while self.kept > limit
            && let Some(front) = self.events.front()
            && (front.sequence < self.cursor || (!self.is_connected() && self.events.len() > 1))
            && let Some(front) = self.events.pop_front()
        {
            self.kept -= front.cost();
            if front.sequence >= self.cursor {
                self.untaken -= front.cost();
                self.cursor = front.sequence + 1;
            }
        }
    }
}

/// A connected client. Dropping it disconnects.
#[derive(Debug)]
pub struct Consumer {
    stream: Arc<Stream>,
    number: u64,
}

impl Consumer {
    /// The stream.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// The id of the event before the first one that will come.
    pub fn position(&self) -> EventId {
        EventId { stream: self.stream.id, sequence: self.stream.state().cursor - 1 }
    }

    /// Takes the next message.
    pub fn next(&self) -> Next {
        let mut state = self.stream.state();
        if state.consumer != self.number {
            return Next::End;
        }
        let oldest = state.events.front().map_or(state.next, |event| event.sequence);
        let index = usize::try_from(state.cursor.max(oldest) - oldest).unwrap_or(usize::MAX);
        let Some(event) = state.events.get(index) else {
            return if state.is_closed || state.open_answers == Some(0) { Next::End } else { Next::Wait };
        };
        let (sequence, data, cost) = (event.sequence, event.data.clone(), event.cost());
        state.cursor = sequence + 1;
        state.untaken = state.untaken.saturating_sub(cost);
        state.trim(self.stream.limit);
        drop(state);
        self.stream.drained.notify_one();
        Next::Event(EventId { stream: self.stream.id, sequence }, data)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let mut state = self.stream.state();
        if state.consumer == self.number {
            state.consumer += 1;
            state.trim(self.stream.limit);
        }
        drop(state);
        self.stream.drained.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn push(stream: &Stream, data: &'static str, is_answer: bool) {
        stream.push(Bytes::from(data).into(), is_answer);
    }

    fn text(next: Next) -> String {
        match next {
            Next::Event(id, data) => format!("{id} {}", String::from_utf8_lossy(&data.into_bytes())),
            Next::Wait => "wait".to_owned(),
            Next::End => "end".to_owned(),
        }
    }

    #[test]
    fn a_client_that_comes_back_gets_what_it_missed_and_only_that() {
        let stream = Stream::for_post(7, 1, 10_000);
        let first = stream.connect();
        for data in ["a", "b"] {
            push(&stream, data, false);
        }
        assert_eq!(text(first.next()), "7-1 a");
        drop(first);
        push(&stream, "answer", true);
        let second = stream.resume(1).unwrap();
        assert_eq!(text(second.next()), "7-2 b");
        assert_eq!(text(second.next()), "7-3 answer");
        assert_eq!(text(second.next()), "end");
        assert!(stream.resume(4).is_none());
    }

    #[test]
    fn a_second_client_replaces_the_first() {
        let stream = Stream::endless(0, 1000);
        let first = stream.connect();
        let second = stream.resume(0).unwrap();
        push(&stream, "x", false);
        assert_eq!(text(first.next()), "end");
        drop(first);
        assert!(stream.is_connected());
        assert_eq!(text(second.next()), "0-1 x");
    }

    #[test]
    fn memory_is_bounded_with_and_without_a_client() {
        let stream = Stream::endless(0, 1000);
        for _ in 0..100 {
            push(&stream, "0123456789", false);
        }
        assert!(stream.kept() <= 1000);
        assert!(stream.resume(1).is_none());
        let client = stream.connect();
        while !matches!(client.next(), Next::Wait) {}
        for _ in 0..100 {
            if stream.has_room() {
                push(&stream, "0123456789", false);
            }
        }
        assert!(!stream.has_room());
        assert!(stream.kept() <= 1100);
        client.next();
        assert!(stream.has_room());
    }

    #[test]
    fn a_post_is_json_only_if_nothing_but_answers_came() {
        let stream = Stream::for_post(1, 2, 1000);
        push(&stream, "a", true);
        assert!(matches!(stream.first(), First::Wait));
        push(&stream, "b", true);
        assert!(matches!(stream.first(), First::Answers(answers) if answers.len() == 2));
        let stream = Stream::for_post(1, 1, 1000);
        push(&stream, "note", false);
        assert!(matches!(stream.first(), First::Events));
    }
}
