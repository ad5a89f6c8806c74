//! Requests of a child that its client has not answered.

use std::sync::Arc;

use crate::protocol::same_id;
use crate::stream::Stream;

/// Requests of a child that may wait for the client at the same time.
const MAX_QUESTIONS: usize = 1024;

/// A request of the child under way.
#[derive(Debug)]
pub(super) struct Question {
    /// Its id as the child wrote it, as JSON text.
    pub(super) id: String,
    /// Where it was sent.
    pub(super) stream: Arc<Stream>,
}

/// The questions of one session, oldest first.
#[derive(Debug, Default)]
pub(super) struct Questions(Vec<Question>);

impl Questions {
    /// Notes one. False: too many wait already.
    pub(super) fn put(&mut self, id: &str, stream: &Arc<Stream>) -> bool {
        self.0.retain(|question| question.id != id);
        let has_room = self.0.len() < MAX_QUESTIONS;
        if has_room {
            self.0.push(Question { id: id.to_owned(), stream: Arc::clone(stream) });
        }
        has_room
    }

    /// Takes the one with this id out. Some clients give a number back as a string, or a string as a number; that is
    /// accepted where only one question can be meant.
    pub(super) fn take(&mut self, id: &str) -> Option<Question> {
        let exact = self.0.iter().position(|question| same_id(&question.id, id));
        let found = exact.or_else(|| {
            let is_alike = |question: &Question| bare(&question.id) == bare(id);
            let mut alike = self.0.iter().enumerate().filter(|(_, question)| is_alike(question));
            alike.next().filter(|_| alike.next().is_none()).map(|(index, _)| index)
        })?;
        Some(self.0.remove(found))
    }

    /// Takes the only one out.
    pub(super) fn take_only(&mut self) -> Option<Question> {
        if self.0.len() == 1 { self.0.pop() } else { None }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An id without quotes.
fn bare(id: &str) -> &str {
    id.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_finds_its_question_in_another_spelling_of_the_id_and_never_a_doubtful_one() {
        let mut questions = Questions::default();
        let stream = Stream::endless(0, 100);
        let mut taken = |asked: &[&str], answered: &str| {
            questions.0.clear();
            assert!(asked.iter().all(|id| questions.put(id, &stream)));
            questions.take(answered).map(|question| question.id)
        };
        assert_eq!(taken(&["0", "1"], "1").as_deref(), Some("1"));
        assert_eq!(taken(&["0", "1"], "\"0\"").as_deref(), Some("0"));
        assert_eq!(taken(&["\"0\""], "0").as_deref(), Some("\"0\""));
        assert_eq!(taken(&[r#""caf\u00e9""#], "\"café\"").as_deref(), Some(r#""caf\u00e9""#));
        assert_eq!(taken(&["0", "\"0\""], "\"0\"").as_deref(), Some("\"0\""));
        assert_eq!(taken(&["0"], "2"), None);
    }
}
