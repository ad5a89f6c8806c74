//! One stream of messages to a client: a POST's answers or the GET stream. It is the queue to a connected client and the
//! log that a reconnecting one is served from, in one bounded list.

mod consumer;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::budget::Room;
use crate::protocol::{EventId, StreamId, Text};

pub use consumer::Consumer;

/// Clients that may be connected to one stream at the same time.
const MAX_CONSUMERS: usize = 4;
/// What each kept event costs besides its text.
const OVERHEAD: usize = 64;
/// Bytes of small events that a stream keeps without their being counted: most streams have one short answer.
const FREE: usize = 4 << 10;
/// Bytes that are counted at a time.
const STEP: usize = 16 << 10;

/// A stream of messages.
#[derive(Debug)]
pub struct Stream {
    /// Its number in the session.
    pub id: StreamId,
    /// Bytes that may be kept.
    limit: usize,
    /// The principal's memory.
    account: Room,
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
    /// Bytes of the events whose texts are too small to be counted by themselves, and what was counted for them.
    small: usize,
    room: Room,
    /// Answers that are still to come; `None`: the stream does not end with its answers.
    open_answers: Option<usize>,
    /// Connected clients, oldest first. The newest gets the messages; the others wait for it to go.
    consumers: Vec<Place>,
    /// Number of the next consumer.
    next_consumer: u64,
    is_closed: bool,
}

/// One connected client.
#[derive(Debug)]
struct Place {
    number: u64,
    wake: Arc<Notify>,
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

    /// The part of the cost that is not counted with the text.
    fn small(&self, account: &Room) -> usize {
        if account.counts(self.data.len()) { OVERHEAD } else { self.cost() }
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
    pub fn for_post(id: StreamId, answers: usize, limit: usize, room: Room) -> Arc<Self> {
        Arc::new(Self::new(id, Some(answers), limit, room))
    }

    /// A stream without an end of its own.
    pub fn endless(id: StreamId, limit: usize, room: Room) -> Arc<Self> {
        Arc::new(Self::new(id, None, limit, room))
    }

    fn new(id: StreamId, open_answers: Option<usize>, limit: usize, room: Room) -> Self {
        let account = room.sibling();
        let state = State {
            events: VecDeque::new(),
            next: 1,
            cursor: 1,
            kept: 0,
            untaken: 0,
            small: 0,
            room,
            open_answers,
            consumers: Vec::new(),
            next_consumer: 0,
            is_closed: false,
        };
        Self { id, limit, account, state: Mutex::new(state), changed: Notify::new(), drained: Notify::new() }
    }

    /// Adds a message that is no answer. A client that does not read is disconnected. False: there is no memory for it.
    pub fn tell(&self, data: Text) -> bool {
        if !self.has_room() {
            self.cut();
        }
        let data = self.account.count(data);
        let is_taken = data.is_some();
        if let Some(data) = data {
            self.push(data, false);
        }
        is_taken
    }

    /// Adds a message that was counted, if it is one that counts by itself.
    pub fn push(&self, data: Text, is_answer: bool) {
        let mut state = self.state();
        if state.is_closed {
            return;
        }
        let event = Event { sequence: state.next, data, is_answer };
        state.next += 1;
        state.kept += event.cost();
        state.untaken += event.cost();
        state.small += event.small(&self.account);
        state.events.push_back(event);
        if is_answer && let Some(open) = &mut state.open_answers {
            *open = open.saturating_sub(1);
        }
        state.settle(self.limit, &self.account);
        state.wake();
        drop(state);
        self.changed.notify_one();
    }

    /// Whether a message may be added without waiting for the client.
    pub fn has_room(&self) -> bool {
        let mut state = self.state();
        if state.is_connected() && !state.is_paid() {
            state.settle(self.limit, &self.account);
        }
        !state.is_connected() || (state.untaken <= self.limit && state.is_paid())
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
        let mut state = self.state();
        state.is_closed = true;
        state.wake_all();
        drop(state);
        self.changed.notify_one();
        self.drained.notify_one();
    }

    /// Takes the connected client off; it may come back and ask for the rest. Another one that waits takes its place.
    pub fn cut(&self) {
        let mut state = self.state();
        if let Some(place) = state.consumers.pop() {
            place.wake.notify_one();
        }
        state.wake();
        state.settle(self.limit, &self.account);
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
            state.small = 0;
            state.pay();
            return First::Answers(events.into_iter().map(|event| event.data).collect());
        }
        // Gathering the rest of a batch would hold up the child: what is there goes out.
        if state.untaken > self.limit { First::Events } else { First::Wait }
    }

    /// Connects a client, which gets what no client has taken yet, and replaces those before.
    pub fn connect(self: &Arc<Self>) -> Consumer {
        self.state().consumers.drain(..).for_each(|place| place.wake.notify_one());
        self.join()
    }

    /// Connects one more client, which gets the messages from now on. Those before stay connected, and the newest of them
    /// goes on when this one has gone: a message must go to one of several streams (2025-11-25, "Multiple Connections"),
    /// and a client that is gone may look alive for as long as TCP takes.
    pub fn join(self: &Arc<Self>) -> Consumer {
        let mut state = self.state();
        let wake = Arc::new(Notify::new());
        let number = state.next_consumer;
        state.next_consumer += 1;
        if state.consumers.len() >= MAX_CONSUMERS {
            state.consumers.remove(0).wake.notify_one();
        }
        state.consumers.push(Place { number, wake: Arc::clone(&wake) });
        Consumer { stream: Arc::clone(self), number, wake }
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
        let is_endless = state.open_answers.is_none();
        drop(state);
        // Of a stream that ends with its answers there is one copy, and this client has it now. On the other one, clients
        // that put each other off would come back and do so in turn.
        Some(if is_endless { self.join() } else { self.connect() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_connected(&self) -> bool {
        !self.consumers.is_empty()
    }

    /// Makes the client look that gets the messages.
    fn wake(&self) {
        if let Some(place) = self.consumers.last() {
            place.wake.notify_one();
        }
    }

    fn wake_all(&self) {
        self.consumers.iter().for_each(|place| place.wake.notify_one());
    }

    /// Counts what is kept, and forgets the oldest events if that is too much.
    fn settle(&mut self, limit: usize, account: &Room) {
        self.pay();
        self.trim(limit, account);
    }

    /// Takes memory for the small events, as far as there is some, and gives back what is not needed any more.
    fn pay(&mut self) {
        let wanted = self.small.saturating_sub(FREE).next_multiple_of(STEP);
        let paid = self.room.taken();
        if wanted > paid {
            // What there is no room for is forgotten, or waited for.
            self.room.grow(wanted - paid);
        } else if wanted == 0 || paid - wanted > STEP {
            self.room.shrink(paid - wanted);
        }
    }

    /// Whether there is memory for what is kept.
    fn is_paid(&self) -> bool {
        self.small <= FREE + self.room.taken()
    }

    /// Forgets the oldest events: those that were taken, and when nobody is connected the others too.
    fn trim(&mut self, limit: usize, account: &Room) {
        while (self.kept > limit || !self.is_paid())
            && let Some(front) = self.events.front()
            && (front.sequence < self.cursor || (!self.is_connected() && self.events.len() > 1))
            && let Some(front) = self.events.pop_front()
        {
            self.kept -= front.cost();
            self.small -= front.small(account);
            if front.sequence >= self.cursor {
                self.untaken -= front.cost();
                self.cursor = front.sequence + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::budget::Budget;

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
        let stream = Stream::for_post(7, 1, 10_000, Room::unlimited());
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
    fn a_client_that_resumes_a_call_replaces_the_one_before() {
        let stream = Stream::for_post(7, 1, 1000, Room::unlimited());
        let first = stream.connect();
        let second = stream.resume(0).unwrap();
        push(&stream, "x", false);
        assert_eq!(text(first.next()), "end");
        drop(first);
        assert!(stream.is_connected());
        assert_eq!(text(second.next()), "7-1 x");
    }

    #[test]
    fn a_client_that_joins_gets_the_messages_and_the_one_before_goes_on_after_it() {
        let stream = Stream::endless(0, 1000, Room::unlimited());
        let first = stream.connect();
        push(&stream, "a", false);
        assert_eq!(text(first.next()), "0-1 a");
        let second = stream.join();
        push(&stream, "b", false);
        assert_eq!(text(first.next()), "wait");
        assert_eq!(text(second.next()), "0-2 b");
        drop(second);
        push(&stream, "c", false);
        assert_eq!(text(first.next()), "0-3 c");
        let others: Vec<Consumer> = (0..MAX_CONSUMERS).map(|_| stream.join()).collect();
        assert_eq!(text(first.next()), "end", "the oldest makes room");
        stream.close();
        assert!(others.iter().all(|client| text(client.next()) == "end"));
    }

    #[test]
    fn memory_is_bounded_with_and_without_a_client() {
        let stream = Stream::endless(0, 1000, Room::unlimited());
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
    fn what_small_messages_take_is_counted_and_without_memory_less_is_kept() {
        let budget = Budget::new(4 * 4 * STEP, 1 << 20);
        let fill = |stream: &Stream| {
            (0..200).take_while(|_| stream.has_room()).for_each(|_| {
                stream.push(Bytes::from(vec![0; 1000]).into(), false);
            });
        };
        // Ana has four steps, whatever her clients are called.
        let streams = ["one", "two", "three"]
            .map(|client| Stream::endless(0, 1 << 20, budget.room(&format!("ana\n{client}"))));
        let clients = streams.each_ref().map(Stream::connect);
        for stream in &streams {
            fill(stream);
        }
        let kept: usize = streams.iter().map(|stream| stream.kept()).sum();
        assert!((4 * STEP..=4 * STEP + 3 * (FREE + 2000)).contains(&kept), "{kept}");
        assert!(!streams[2].has_room());
        let bob = Stream::endless(0, 1 << 20, budget.room("bob\none"));
        let reader = bob.connect();
        fill(&bob);
        assert!(bob.kept() >= 4 * STEP, "others have their share");
        // Who has gone keeps less, and who reads goes on.
        let [first, _, third] = clients;
        drop(first);
        assert!(streams[0].kept() <= 4 * STEP + FREE);
        while !matches!(third.next(), Next::Wait) {}
        assert!(streams[2].has_room());
        drop((third, streams));
        let ana = Stream::endless(0, 1 << 20, budget.room("ana\none"));
        let _client = ana.connect();
        fill(&ana);
        assert!(ana.kept() >= 4 * STEP, "it is given back");
        drop((reader, bob));
    }

    #[test]
    fn a_post_is_json_only_if_nothing_but_answers_came() {
        let stream = Stream::for_post(1, 2, 1000, Room::unlimited());
        push(&stream, "a", true);
        assert!(matches!(stream.first(), First::Wait));
        push(&stream, "b", true);
        assert!(matches!(stream.first(), First::Answers(answers) if answers.len() == 2));
        let stream = Stream::for_post(1, 1, 1000, Room::unlimited());
        push(&stream, "note", false);
        assert!(matches!(stream.first(), First::Events));
    }
}
