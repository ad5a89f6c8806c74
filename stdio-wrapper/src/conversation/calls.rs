//! The requests that wait for the answers of one child.
//!
//! The wrapper replaces the id and the progress token of every request by a number of its own. Therefore
//! clients that use id 1 for everything, or several clients of one child, can never get each other's answers
//! (attack 105).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::child::{LineLog, Numbers};
use crate::protocol::{Kind, Message, Patch, Span, peek_name};
use crate::stream::Stream;

/// Progress extends the deadline of a request, up to this multiple of its timeout.
const MAX_EXTENSIONS: u32 = 12;
/// Maximum number of characters of a method or of a tool's name that are kept for the log. Clients choose both.
const MAX_LOGGED_NAME: usize = 100;

/// A request that is about to be sent to the child.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) message: &'a Message<'a>,
    pub(crate) id: Span,
    pub(crate) token: Option<Span>,
    /// The stream of the request, if the request still waits for its response.
    pub(crate) stream: &'a Arc<Stream>,
    /// Maximum time without a sign of progress.
    pub(crate) timeout: Duration,
}

impl<'a> Call<'a> {
    /// Replaces the id and the progress token by the number of the request, as JSON text.
    pub(super) fn patches<'p>(&self, digits: &'p str) -> Vec<Patch<'p>> {
        let spans = [Some(self.id.clone()), self.token.clone()];
        spans.into_iter().flatten().map(|span| Patch { span, with: digits.as_bytes() }).collect()
    }

    /// The caller's id, as JSON text.
    pub(crate) fn id_text(&self) -> &'a str {
        self.message.at(&self.id)
    }
}

/// The requests to one child that wait for their answers. `T` is the data that an era keeps about a caller.
#[derive(Debug)]
pub(crate) struct Calls<T> {
    numbers: Numbers,
    /// The keys are the positions of the requests in the order in which they were sent.
    pending: BTreeMap<u64, Pending<T>>,
}

/// A request waiting for its response.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    /// The request id that the child received.
    pub(crate) number: u64,
    pub(crate) stream: Arc<Stream>,
    /// The caller's id, as JSON text.
    pub(crate) id: Box<[u8]>,
    /// The caller's progress token, as JSON text.
    pub(crate) token: Option<Box<[u8]>>,
    pub(crate) started: Instant,
    deadline: Instant,
    pub(crate) timeout: Duration,
    /// The method, for the log.
    method: Box<str>,
    /// The name of the tool that is called, for the log.
    tool: Option<Box<str>>,
    pub(crate) caller: T,
}

/// The number of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) number: u64,
    /// Whether the child has no other request in progress.
    pub(crate) is_alone: bool,
}

impl<T> Calls<T> {
    /// Makes an empty set.
    pub(crate) fn new(numbers: Numbers) -> Self {
        Self { numbers, pending: BTreeMap::new() }
    }

    /// Adds a request. Returns `None` if there are no random bytes for its number.
    pub(crate) fn add(&mut self, call: &Call<'_>, caller: T, now: Instant) -> Option<Given> {
        let (place, number) = self.numbers.give()?;
        let text = |span: &Span| call.message.at(span).as_bytes().into();
        let (method, tool) = names(call.message);
        let pending = Pending {
            number,
            stream: Arc::clone(call.stream),
            id: text(&call.id),
            token: call.token.as_ref().map(text),
            started: now,
            deadline: now + call.timeout,
            timeout: call.timeout,
            method,
            tool,
            caller,
        };
        self.pending.insert(place, pending);
        Some(Given { number, is_alone: self.pending.len() == 1 })
    }

    /// The position of a request in the order in which requests were sent. It is known until some time after the
    /// response.
    pub(crate) fn place(&self, number: u64) -> Option<u64> {
        self.numbers.place(number)
    }

    /// The position that the next request will have in this order.
    pub(crate) fn next_place(&self) -> u64 {
        self.numbers.next_place()
    }

    /// Removes and returns a waiting request.
    pub(crate) fn remove(&mut self, number: u64) -> Option<Pending<T>> {
        let pending = self.pending.remove(&self.numbers.place(number)?)?;
        self.numbers.release(number);
        Some(pending)
    }

    /// The waiting request with this number, if there is one.
    pub(crate) fn get(&self, number: u64) -> Option<&Pending<T>> {
        self.pending.get(&self.numbers.place(number)?)
    }

    /// All waiting requests, oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Pending<T>> {
        self.pending.values()
    }

    /// The numbers of the waiting requests for which this is true, oldest first.
    pub(crate) fn numbers_of(&self, is_meant: impl Fn(&Pending<T>) -> bool) -> Vec<u64> {
        self.iter().filter(|pending| is_meant(pending)).map(|pending| pending.number).collect()
    }

    /// The only waiting request, if there is exactly one.
    pub(crate) fn only(&self) -> Option<&Pending<T>> {
        self.pending.values().next().filter(|_| self.pending.len() == 1)
    }

    /// Finds a waiting request after a sign of progress, and extends its time.
    pub(crate) fn progress(&mut self, number: u64, now: Instant) -> Option<&Pending<T>> {
        let pending = self.pending.get_mut(&self.numbers.place(number)?)?;
        pending.deadline = now + pending.timeout;
        Some(pending)
    }
}

impl<T> Pending<T> {
    /// Whether the request has waited for too long. `is_excused` returns whether the client is the reason.
    pub(crate) fn is_late(&self, now: Instant, is_excused: impl FnOnce(&Self) -> bool) -> bool {
        now >= self.started + self.timeout * MAX_EXTENSIONS || (now >= self.deadline && !is_excused(self))
    }

    /// The error message for a request that has waited for too long. `setting` limits its time.
    pub(crate) fn lateness(&self, setting: &str) -> String {
        format!(
            "The MCP server did not answer within {} s. If it needs more time, its operator can raise {setting}.",
            self.timeout.as_secs_f32()
        )
    }

    /// Logs that the request has waited for longer than `REQUEST_TIMEOUT`. Without this line, the operator would not
    /// learn which calls fail, because only the client gets the error message.
    pub(crate) fn log_lateness(&self, log: &LineLog, now: Instant) {
        log.late(&self.method, self.tool.as_deref(), now.duration_since(self.started));
    }
}

/// The method of a request and, if it calls a tool, the name of the tool, in the form in which they are logged.
fn names(message: &Message<'_>) -> (Box<str>, Option<Box<str>>) {
    let cut = |name: &str| name.chars().take(MAX_LOGGED_NAME).collect::<String>().into_boxed_str();
    let Kind::Request { method, .. } = &message.kind else { return (Box::default(), None) };
    let is_call = method == "tools/call";
    let tool = if is_call { peek_name(message).ok().flatten() } else { None };
    (cut(method), tool.map(|name| cut(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Reservation;
    use crate::child::Width;
    use crate::protocol::{Kind, parse_line};

    fn calls() -> Calls<u8> {
        let state = std::sync::atomic::AtomicU64::new(1);
        let random = Arc::new(move |buffer: &mut [u8]| {
            let next = state.fetch_add(0x9e37_79b9_7f4a_7c15, std::sync::atomic::Ordering::Relaxed);
            buffer.copy_from_slice(&next.to_ne_bytes());
            true
        });
        Calls::new(Numbers::new(random, Width::Long))
    }

    fn add(calls: &mut Calls<u8>, caller: u8, now: Instant) -> Given {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"caller":{caller}}}}}"#);
        let message = parse_line(text.as_bytes()).unwrap();
        let Kind::Request { id, .. } = message.kind.clone() else { unreachable!() };
        let stream = Stream::for_post(1, 1, 1 << 10, Reservation::unlimited());
        let timeout = Duration::from_secs(10);
        let call = Call { message: &message, id, token: None, stream: &stream, timeout };
        calls.add(&call, caller, now).unwrap()
    }

    #[test]
    fn a105_requests_with_one_id_are_told_apart_by_the_numbers_that_replace_it() {
        let (mut calls, now) = (calls(), Instant::now());
        let first = add(&mut calls, 1, now);
        let second = add(&mut calls, 2, now);
        assert!(first.is_alone && !second.is_alone);
        assert_eq!(calls.only().map(|pending| pending.number), None);
        let answered = calls.remove(second.number).unwrap();
        assert_eq!((answered.caller, &*answered.id), (2, b"1".as_slice()));
        assert!(calls.remove(second.number).is_none(), "it was answered");
        assert_eq!(calls.place(second.number), Some(1), "but its number is still known");
        assert_eq!(calls.only().map(|pending| pending.caller), Some(1));
    }

    #[test]
    fn progress_and_excuses_extend_the_time_of_a_request_but_not_for_ever() {
        let (mut calls, start) = (calls(), Instant::now());
        let number = add(&mut calls, 1, start).number;
        let late = |calls: &Calls<u8>, seconds, is_excused| {
            let now = start + Duration::from_secs(seconds);
            calls.get(number).unwrap().is_late(now, |_| is_excused)
        };
        assert!(!late(&calls, 9, false) && late(&calls, 10, false) && !late(&calls, 10, true));
        calls.progress(number, start + Duration::from_secs(9)).unwrap();
        assert!(!late(&calls, 18, false) && late(&calls, 19, false));
        calls.progress(number, start + Duration::from_secs(115)).unwrap();
        assert!(!late(&calls, 119, true) && late(&calls, 120, true));
    }
}
