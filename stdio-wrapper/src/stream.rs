//! A stream of messages to a client: the responses to a POST, or the GET stream. One list with a maximum size
//! is both the queue for a connected client and the log for a client that reconnects.

mod consumer;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::budget::Reservation;
use crate::protocol::{EventId, StreamId, Text};

pub use consumer::Consumer;

/// Maximum number of clients that are connected to one stream at the same time.
const MAX_CONSUMERS: usize = 4;
/// Number of bytes that an event needs in addition to its text.
const OVERHEAD: usize = 64;
/// Number of bytes of small events that a stream can keep uncounted, because most streams contain one short
/// response.
const FREE: usize = 4 << 10;
/// Unit in which memory for small events is reserved, in bytes.
const STEP: usize = 16 << 10;

/// A stream of messages to a client.
#[derive(Debug)]
pub struct Stream {
    /// The number of the stream in its session.
    pub id: StreamId,
    /// The maximum number of bytes that are kept.
    limit: usize,
    /// The principal's memory for the kept messages.
    account: Reservation,
    state: Mutex<State>,
    /// Notified when there is something new for a consumer.
    changed: Notify,
    /// Notified when there is space for the producer.
    drained: Notify,
}

#[derive(Debug)]
struct State {
    events: VecDeque<Event>,
    /// The sequence number of the next event. 0 is the priming event.
    next: u64,
    /// The sequence number of the first event that the consumer has not read.
    cursor: u64,
    /// The sizes of all events and of the unread events, in bytes.
    kept: usize,
    untaken: usize,
    /// The total size of the events that are too small to be counted individually, and the memory that is
    /// reserved for them.
    small: usize,
    reservation: Reservation,
    /// The number of responses that are still missing. `None` if the stream does not end with its responses.
    open_answers: Option<usize>,
    /// The connected clients, oldest first. The newest one receives the messages, and the others wait until it
    /// disconnects.
    consumers: Vec<Place>,
    /// The number of the next consumer.
    next_consumer: u64,
    is_closed: bool,
}

/// A client that is connected to the stream.
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

    /// The number of bytes that are not counted together with the text.
    fn small(&self, account: &Reservation) -> usize {
        if account.counts(self.data.len()) { OVERHEAD } else { self.cost() }
    }
}

/// The format of the response to a POST.
#[derive(Debug)]
pub enum First {
    /// The format is not decided yet.
    Wait,
    /// JSON, because all responses have arrived, and no other messages.
    Answers(Vec<Text>),
    /// An event stream, because another message preceded the responses.
    Events,
}

/// The next item of an event stream.
#[derive(Debug)]
pub enum Next {
    /// A message and its event ID.
    Event(EventId, Text),
    /// No item is available yet.
    Wait,
    /// The stream has ended.
    End,
}

impl Stream {
    /// Creates a stream for a POST. It ends after this number of responses.
    pub fn for_post(id: StreamId, answers: usize, limit: usize, reservation: Reservation) -> Arc<Self> {
        Arc::new(Self::new(id, Some(answers), limit, reservation))
    }

    /// Creates a stream that ends only when it is closed.
    pub fn endless(id: StreamId, limit: usize, reservation: Reservation) -> Arc<Self> {
        Arc::new(Self::new(id, None, limit, reservation))
    }

    fn new(id: StreamId, open_answers: Option<usize>, limit: usize, reservation: Reservation) -> Self {
        let account = reservation.sibling();
        let state = State {
            events: VecDeque::new(),
            next: 1,
            cursor: 1,
            kept: 0,
            untaken: 0,
            small: 0,
            reservation,
            open_answers,
            consumers: Vec::new(),
            next_consumer: 0,
            is_closed: false,
        };
        Self { id, limit, account, state: Mutex::new(state), changed: Notify::new(), drained: Notify::new() }
    }

    /// Adds a message that is not a response. A client that does not read is disconnected. Returns false if
    /// there is no memory for the message.
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

    /// Adds a message. A message that is large enough to be counted must already be counted.
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

    /// Whether a message can be added without waiting for the client.
    pub fn has_room(&self) -> bool {
        let mut state = self.state();
        if state.is_connected() && !state.is_paid() {
            state.settle(self.limit, &self.account);
        }
        !state.is_connected() || (state.untaken <= self.limit && state.is_paid())
    }

    /// The sequence number of the newest message, or 0 if there was none.
    pub fn newest(&self) -> u64 {
        self.state().next - 1
    }

    /// Whether the client has not read the message with this sequence number yet.
    pub fn is_unread(&self, sequence: u64) -> bool {
        self.state().cursor <= sequence
    }

    /// Waits until the client has read something.
    pub async fn drained(&self) {
        self.drained.notified().await;
    }

    /// The user whose memory limit the messages count towards.
    pub fn owner(&self) -> &str {
        self.account.owner()
    }

    /// Wakes the task that waits for a change.
    pub fn wake(&self) {
        self.changed.notify_one();
    }

    /// Waits for a change, such as a new message or the end of the stream.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Ends the stream. Its remaining messages can still be read.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.wake_all();
        drop(state);
        self.changed.notify_one();
        self.drained.notify_one();
    }

    /// Disconnects the client, which can reconnect and request the rest. If another client is waiting, it
    /// receives the messages from now on.
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

    /// Whether all responses have arrived.
    pub fn is_complete(&self) -> bool {
        let state = self.state();
        state.is_closed || state.open_answers == Some(0)
    }

    /// The number of bytes that are kept.
    pub fn kept(&self) -> usize {
        self.state().kept
    }

    /// Decides on the format of the response to a POST.
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
        // Waiting would block the child until all requests of the batch have responses. Therefore the messages
        // so far are sent as events.
        if state.untaken > self.limit { First::Events } else { First::Wait }
    }

    /// Connects a client, which receives everything that has not been read yet, and disconnects the previous
    /// clients.
    pub fn connect(self: &Arc<Self>) -> Consumer {
        self.state().consumers.drain(..).for_each(|place| place.wake.notify_one());
        self.join()
    }

    /// Connects another client, which receives the messages from now on. The previous clients stay connected,
    /// and the newest of them continues when this one has disconnected. A message must be sent on only one of
    /// several streams (2025-11-25, "Multiple Connections"), and a client that has disconnected can appear
    /// connected until TCP detects it.
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

    /// Connects a client that has seen everything up to the event `after`. Returns `None` if the events after
    /// it are no longer kept, or if that event never existed.
    pub fn resume(self: &Arc<Self>, after: u64) -> Option<Consumer> {
        let mut state = self.state();
        let oldest = state.events.front().map_or(state.next, |event| event.sequence);
        // The client chooses `after`, so it can be the maximum value.
        let next = after.checked_add(1).filter(|next| (oldest..=state.next).contains(next))?;
        state.cursor = next;
        state.untaken = state.events.iter().filter(|event| event.sequence > after).map(Event::cost).sum();
        let is_endless = state.open_answers.is_none();
        drop(state);
        // A stream that ends with its responses has only one reader, which is now this client. On other
        // streams, clients that disconnected each other would keep reconnecting alternately.
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

    /// Wakes the client that receives the messages.
    fn wake(&self) {
        if let Some(place) = self.consumers.last() {
            place.wake.notify_one();
        }
    }

    fn wake_all(&self) {
        self.consumers.iter().for_each(|place| place.wake.notify_one());
    }

    /// Counts the kept events, and drops the oldest ones if there are too many.
    fn settle(&mut self, limit: usize, account: &Reservation) {
        self.pay();
        self.trim(limit, account);
    }

    /// Reserves memory for the small events if it is available, and returns memory that is no longer needed.
    fn pay(&mut self) {
        let wanted = self.small.saturating_sub(FREE).next_multiple_of(STEP);
        let paid = self.reservation.taken();
        if wanted > paid {
            // If there is no memory, the oldest events are dropped, or the child must wait.
            self.reservation.grow(wanted - paid);
        } else if wanted == 0 || paid - wanted > STEP {
            self.reservation.shrink(paid - wanted);
        }
    }

    /// Whether memory has been reserved for all kept events.
    fn is_paid(&self) -> bool {
        self.small <= FREE + self.reservation.taken()
    }

    /// Drops the oldest events: those that have been read and, if no client is connected, also others.
    fn trim(&mut self, limit: usize, account: &Reservation) {
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
        let stream = Stream::for_post(7, 1, 10_000, Reservation::unlimited());
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
        let stream = Stream::for_post(7, 1, 1000, Reservation::unlimited());
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
        let stream = Stream::endless(0, 1000, Reservation::unlimited());
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
        assert_eq!(text(first.next()), "end", "the oldest event is removed");
        stream.close();
        assert!(others.iter().all(|client| text(client.next()) == "end"));
    }

    #[test]
    fn memory_is_bounded_with_and_without_a_client() {
        let stream = Stream::endless(0, 1000, Reservation::unlimited());
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
        // Ana can use four steps, regardless of the number of her clients.
        let streams = ["one", "two", "three"]
            .map(|client| Stream::endless(0, 1 << 20, budget.reservation(&format!("ana\n{client}"))));
        let clients = streams.each_ref().map(Stream::connect);
        for stream in &streams {
            fill(stream);
        }
        let kept: usize = streams.iter().map(|stream| stream.kept()).sum();
        assert!((4 * STEP..=4 * STEP + 3 * (FREE + 2000)).contains(&kept), "{kept}");
        assert!(!streams[2].has_room());
        let bob = Stream::endless(0, 1 << 20, budget.reservation("bob\none"));
        let reader = bob.connect();
        fill(&bob);
        assert!(bob.kept() >= 4 * STEP, "bob still has his quota");
        // A client that has disconnected keeps fewer events, and a client that continues to read is not affected.
        let [first, _, third] = clients;
        drop(first);
        assert!(streams[0].kept() <= 4 * STEP + FREE);
        while !matches!(third.next(), Next::Wait) {}
        assert!(streams[2].has_room());
        drop((third, streams));
        let ana = Stream::endless(0, 1 << 20, budget.reservation("ana\none"));
        let _client = ana.connect();
        fill(&ana);
        assert!(ana.kept() >= 4 * STEP, "the memory was released");
        drop((reader, bob));
    }

    #[test]
    fn a_post_is_json_only_if_nothing_but_answers_came() {
        let stream = Stream::for_post(1, 2, 1000, Reservation::unlimited());
        push(&stream, "a", true);
        assert!(matches!(stream.first(), First::Wait));
        push(&stream, "b", true);
        assert!(matches!(stream.first(), First::Answers(answers) if answers.len() == 2));
        let stream = Stream::for_post(1, 1, 1000, Reservation::unlimited());
        push(&stream, "note", false);
        assert!(matches!(stream.first(), First::Events));
    }
}
