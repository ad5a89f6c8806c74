//! Requests from a child to which its client has not responded yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::budget::{Kept, Reservation};
use crate::protocol::{IdKey, same_id};
use crate::stream::Stream;

/// Maximum number of requests from a child that can wait for the client at the same time.
const MAX_QUESTIONS: usize = 1024;
/// The error for a question that cannot be sent to the client.
pub const TOO_MANY_QUESTIONS: &str = "Too many requests to this client are waiting. It must respond to some of them before it can receive more.";
/// Requests for which the child waits for a user or a client before it can continue with a call.
const HOLDS_A_CALL: [&str; 3] = ["elicitation/create", "sampling/createMessage", "roots/list"];

/// A request from the child waiting for the client's response.
#[derive(Debug)]
pub(super) struct Question {
    /// The request id of the child, as JSON text.
    pub(super) id: Kept,
    keys: Keys,
    /// The request id that the client received, as JSON text.
    shown: Kept,
    shown_keys: Keys,
    /// The stream on which the question was sent.
    pub(super) stream: Arc<Stream>,
    asked: Instant,
    holds_a_call: bool,
}

/// Hashes of an id. There can be very many questions, so their ids are not compared one by one.
#[derive(Debug, Clone, Copy)]
struct Keys {
    value: IdKey,
    /// The key of the id without quotation marks.
    bare: IdKey,
}

impl Keys {
    fn of(id: &str) -> Self {
        Self { value: IdKey::of(id), bare: IdKey::of(bare(id)) }
    }
}

impl Question {
    /// Whether the child would accept a message with this id as the response.
    fn has(&self, id: &str, keys: Keys) -> bool {
        self.keys.value == keys.value && same_id(&self.id, id)
    }
}

/// The questions of one session, oldest first.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: Vec<Question>,
    /// When the last question was answered or withdrawn, so that the child could continue.
    settled: Option<Instant>,
    /// The number of the next question. `None` while questions keep the ids of the child.
    next_number: Option<u64>,
}

impl Questions {
    /// Starts giving each question an id that the wrapper chooses.
    pub(super) fn number(&mut self) {
        self.next_number.get_or_insert(1);
    }

    /// Adds a question, and counts it against the principal's memory. Returns its id for the client, or `None`
    /// if too many questions are waiting.
    pub(super) fn put(
        &mut self,
        id: &str,
        method: &str,
        stream: &Arc<Stream>,
        now: Instant,
        reservation: &Reservation,
    ) -> Option<String> {
        let keys = Keys::of(id);
        self.waiting.retain(|question| !question.has(id, keys));
        if self.waiting.len() >= MAX_QUESTIONS {
            return None;
        }
        let id = reservation.keep(id)?;
        let shown = match &mut self.next_number {
            Some(number) => {
                *number += 1;
                reservation.keep(number.to_string())?
            }
            None => id.clone(),
        };
        let name = shown.to_string();
        self.waiting.push(Question {
            id,
            keys,
            shown_keys: Keys::of(&shown),
            shown,
            stream: Arc::clone(stream),
            asked: now,
            holds_a_call: HOLDS_A_CALL.contains(&method),
        });
        Some(name)
    }

    /// Removes and returns the question that has this id for the client. Some clients return a number as a
    /// string or a string as a number. This is accepted if the id is unambiguous.
    pub(super) fn take(&mut self, id: &str, now: Instant) -> Option<Question> {
        let keys = Keys::of(id);
        let is_exact =
            |question: &Question| question.shown_keys.value == keys.value && same_id(&question.shown, id);
        let found = self.waiting.iter().position(is_exact).or_else(|| {
            let is_alike = |question: &Question| {
                question.shown_keys.bare == keys.bare && bare(&question.shown) == bare(id)
            };
            let mut alike = self.waiting.iter().enumerate().filter(|(_, question)| is_alike(question));
            alike.next().filter(|_| alike.next().is_none()).map(|(index, _)| index)
        })?;
        Some(self.remove(found, now))
    }

    /// Whether the child would accept a message with this id as the response to a waiting question.
    pub(super) fn has(&self, id: &str) -> bool {
        let keys = Keys::of(id);
        self.waiting.iter().any(|question| {
            question.has(id, keys) || question.keys.bare == keys.bare && bare(&question.id) == bare(id)
        })
    }

    /// Removes and returns the question if only one is waiting.
    pub(super) fn take_only(&mut self, now: Instant) -> Option<Question> {
        (self.waiting.len() == 1).then(|| self.remove(0, now))
    }

    /// Removes and returns the question that has this id for the child, together with its id for the client, as
    /// JSON text.
    pub(super) fn take_own(&mut self, id: &str, now: Instant) -> Option<(Question, String)> {
        let keys = Keys::of(id);
        let found = self.waiting.iter().position(|question| question.has(id, keys))?;
        let question = self.remove(found, now);
        let shown = question.shown.to_string();
        Some((question, shown))
    }

    /// Whether a request that was sent at `started` is not late yet. The reason can be that the client has had
    /// a question from the child for less than `patience`, or that the last question was settled less than
    /// `timeout` ago. It is unknown to which request a question belongs, so it excuses all requests that were in
    /// progress when it was asked, and no later ones.
    pub(super) fn excuse(
        &self,
        started: Instant,
        timeout: Duration,
        patience: Duration,
        now: Instant,
    ) -> bool {
        let waits = self.waiting.iter().any(|question| {
            question.holds_a_call && question.asked >= started && now < question.asked + patience
        });
        waits || self.settled.is_some_and(|at| at >= started && now < at + timeout)
    }

    fn remove(&mut self, index: usize, now: Instant) -> Question {
        let question = self.waiting.remove(index);
        if question.holds_a_call {
            self.settled = Some(now);
        }
        question
    }
}

/// An id without quotation marks.
fn bare(id: &str) -> &str {
    id.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DECODED;

    #[test]
    fn an_answer_finds_its_question_in_another_spelling_of_the_id_and_never_a_doubtful_one() {
        let mut questions = Questions::default();
        let (stream, now) = (Stream::endless(0, 100, Reservation::unlimited()), Instant::now());
        let mut taken = |asked: &[&str], answered: &str| {
            questions.waiting.clear();
            assert!(
                asked
                    .iter()
                    .all(|id| questions.put(id, "ping", &stream, now, &Reservation::unlimited()).is_some())
            );
            questions.take(answered, now).map(|question| question.id)
        };
        assert_eq!(taken(&["0", "1"], "1").as_deref(), Some("1"));
        assert_eq!(taken(&["0", "1"], "\"0\"").as_deref(), Some("0"));
        assert_eq!(taken(&["\"0\""], "0").as_deref(), Some("\"0\""));
        assert_eq!(taken(&[r#""caf\u00e9""#], "\"café\"").as_deref(), Some(r#""caf\u00e9""#));
        assert_eq!(taken(&["0", "\"0\""], "\"0\"").as_deref(), Some("\"0\""));
        assert_eq!(taken(&["0"], "2"), None);
    }

    #[test]
    fn a109_the_ids_of_questions_take_memory_of_the_principal() {
        let budget = crate::budget::Budget::new(4 << 20, 1);
        let (ana, bob) = (budget.reservation("ana\none"), budget.reservation("bob\none"));
        let (stream, now) = (Stream::endless(0, 100, Reservation::unlimited()), Instant::now());
        // Ana can use a quarter of the memory for all her sessions together.
        let mut all: Vec<Questions> = (0..4).map(|_| Questions::default()).collect();
        let mut put = |of: usize, reservation: &Reservation| {
            (0..MAX_QUESTIONS)
                .take_while(|number| {
                    let id = format!("\"{number:01000}\"");
                    all[of].put(&id, "ping", &stream, now, reservation).is_some()
                })
                .count()
        };
        let counts = [put(0, &ana), put(1, &ana), put(2, &ana)];
        assert!(counts[0] > 900 && counts[1] < 100 && counts[2] == 0, "{counts:?}");
        assert_eq!(put(3, &bob), counts[0], "bob still has his quota");
        all.clear();
        assert!(ana.keep("x".repeat(1 << 19)).is_some(), "the memory was released");
    }

    #[test]
    fn a100_an_id_is_decoded_once_and_not_for_each_question_that_waits() {
        let mut questions = Questions::default();
        let (stream, now) = (Stream::endless(0, 100, Reservation::unlimited()), Instant::now());
        let id = |number: usize| format!(r#""{}{number}""#, r"\u0061".repeat(10));
        let before = DECODED.get();
        for number in 0..2 * MAX_QUESTIONS {
            let is_put =
                questions.put(&id(number), "ping", &stream, now, &Reservation::unlimited()).is_some();
            assert_eq!(is_put, number < MAX_QUESTIONS);
        }
        for number in MAX_QUESTIONS..2 * MAX_QUESTIONS {
            assert!(!questions.has(&id(number)) && questions.take(&id(number), now).is_none());
        }
        assert!(questions.has(&id(7)) && questions.take_own(&id(7), now).is_some());
        let (decoded, ids) = (DECODED.get() - before, 4 * MAX_QUESTIONS);
        assert!(decoded < 4 * ids, "{decoded} times for {ids} ids");
    }

    #[test]
    fn an_answer_belongs_to_one_asking_of_a_question_and_not_to_the_next_under_its_id() {
        let mut questions = Questions::default();
        let (stream, now) = (Stream::endless(0, 100, Reservation::unlimited()), Instant::now());
        questions.number();
        let first =
            questions.put("77", "elicitation/create", &stream, now, &Reservation::unlimited()).unwrap();
        let (_, withdrawn) = questions.take_own("77", now).unwrap();
        assert_eq!(withdrawn, first);
        let second =
            questions.put("77", "elicitation/create", &stream, now, &Reservation::unlimited()).unwrap();
        assert_ne!(first, second);
        assert!(questions.take(&first, now).is_none(), "an answer to a withdrawn question");
        // A question that is asked again without being withdrawn is also a new question.
        let third =
            questions.put("77", "elicitation/create", &stream, now, &Reservation::unlimited()).unwrap();
        assert!(questions.take(&second, now).is_none());
        assert_eq!(questions.take(&third, now).map(|question| question.id).as_deref(), Some("77"));
    }

    #[test]
    fn a_question_excuses_the_calls_that_it_may_belong_to_for_a_while() {
        let (timeout, patience) = (Duration::from_secs(2), Duration::from_secs(10));
        let mut questions = Questions::default();
        let (stream, started) = (Stream::endless(0, 100, Reservation::unlimited()), Instant::now());
        let at = |seconds| started + Duration::from_secs(seconds);
        questions.put("0", "ping", &stream, at(1), &Reservation::unlimited()).unwrap();
        assert!(
            !questions.excuse(started, timeout, patience, at(1)),
            "a ping must not extend the time limit"
        );
        questions.put("1", "elicitation/create", &stream, at(1), &Reservation::unlimited()).unwrap();
        assert!(questions.excuse(started, timeout, patience, at(6)));
        assert!(
            !questions.excuse(at(6), timeout, patience, at(6)),
            "a later call cannot have asked the question"
        );
        // After the client's answer, the child has the full time limit again.
        questions.take("1", at(6)).unwrap();
        assert!(questions.excuse(started, timeout, patience, at(7)));
        assert!(!questions.excuse(started, timeout, patience, at(8)));
        questions.put("2", "roots/list", &stream, at(8), &Reservation::unlimited()).unwrap();
        assert!(questions.excuse(started, timeout, patience, at(17)));
        assert!(!questions.excuse(started, timeout, patience, at(18)), "the extension must be limited");
    }
}
