//! The questions of one call to its client, across all its rounds (2026-07-28, "Multi Round-Trip Requests").
//! This module is pure.
//!
//! A user's answer must never be used for a different question. Therefore each name is used for only one question
//! of a call, even after that question has been answered. An answer is accepted only for a question that was sent
//! to the client and is still open.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::questions::Question;
use crate::budget::TOO_MANY_ANSWERS;
use crate::protocol::Members;

/// Maximum number of questions of one call to its client, across all its rounds.
pub(super) const MAX_QUESTIONS: usize = 256;
/// Maximum number of rounds of one call.
pub(super) const MAX_ROUNDS: u32 = 64;

/// The questions of one call.
#[derive(Debug, Default)]
pub(super) struct CallQuestions {
    /// The unanswered questions, with their names.
    open: Vec<(String, Question)>,
    /// All names that this call has used, so that no name is reused.
    names: HashSet<String>,
    rounds: u32,
}

/// A call has reached one of its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Endless {
    /// There are too many questions.
    #[error(
        "The MCP server asked more than {MAX_QUESTIONS} questions in one call, so the call was cancelled."
    )]
    Questions,
    /// The unanswered questions exceed a size limit, which is the value in bytes.
    #[error(
        "The MCP server asked questions of more than {0} bytes in one call, so the call was cancelled. The operator can raise MAX_LINE."
    )]
    Bytes(usize),
    /// There is no memory for a question.
    #[error("{TOO_MANY_ANSWERS}")]
    Memory,
    /// There are too many rounds.
    #[error(
        "The MCP server asked questions in more than {MAX_ROUNDS} rounds of one call, so the call was cancelled."
    )]
    Rounds,
}

impl CallQuestions {
    /// Adds a question, with a name that this call has not used before. The total size of the unanswered
    /// questions is at most `max_bytes`, because one result contains all of them.
    pub(super) fn ask(&mut self, question: &Question, max_bytes: usize) -> Result<(), Endless> {
        if self.names.len() >= MAX_QUESTIONS {
            return Err(Endless::Questions);
        }
        let before: usize = self.open.iter().map(|(_, question)| question.params.len()).sum();
        if before + question.params.len() > max_bytes {
            return Err(Endless::Bytes(max_bytes));
        }
        let name = question.key(|name| self.names.contains(name));
        self.names.insert(name.clone());
        self.open.push((name, question.clone()));
        Ok(())
    }

    /// Counts another round of questions. Fails if there were too many.
    pub(super) fn next_round(&mut self) -> Result<(), Endless> {
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS { Err(Endless::Rounds) } else { Ok(()) }
    }

    /// Removes and returns the questions that a client has answered, with their answers. A question without a
    /// valid answer stays open. Other answers are ignored, as the specification requires.
    pub(super) fn answer<'g>(&mut self, given: &'g Members<'_>) -> Vec<(Question, &'g str)> {
        let mut answered = Vec::new();
        for (name, question) in std::mem::take(&mut self.open) {
            match given.get(&name).filter(|answer| question.takes(answer)) {
                Some(answer) => answered.push((question, answer)),
                None => self.open.push((name, question)),
            }
        }
        answered
    }

    /// Removes a question that the child has withdrawn. `id` is JSON text.
    pub(super) fn withdraw(&mut self, id: &str) {
        self.open.retain(|(_, question)| *question.id != *id);
    }

    /// Removes and returns all open questions.
    pub(super) fn take_open(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.open).into_iter().map(|(_, question)| question).collect()
    }

    /// Whether all questions are answered.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// The open questions in the form of `inputRequests`, as a JSON object.
    pub(super) fn requests(&self) -> String {
        // The questions can be large, so the memory for their text is allocated only once.
        let length: usize =
            self.open.iter().map(|(name, question)| name.len() + question.params.len() + 64).sum();
        let mut out = String::with_capacity(length);
        out.push('{');
        for (index, (name, question)) in self.open.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            // Writing to a string cannot fail.
            let _ = write!(out, "{}:", Value::from(name.as_str()));
            question.write(&mut out);
        }
        out.push('}');
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::budget::Reservation;

    /// A question as written by the SDKs, with a numeric id and without a name.
    fn question(number: usize, method: &str) -> Question {
        let keep = |text: String| Reservation::unlimited().keep(text).unwrap();
        let params = keep(json!({"message": format!("question {number}")}).to_string());
        Question {
            id: keep(number.to_string()),
            method: method.to_owned(),
            params,
            hint: None,
            is_url: false,
        }
    }

    fn names(asked: &CallQuestions) -> Vec<String> {
        let requests: Value = serde_json::from_str(&asked.requests()).unwrap();
        requests.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn a_name_is_not_given_again_after_its_question_was_answered() {
        let mut asked = CallQuestions::default();
        asked.ask(&question(1, "elicitation/create"), usize::MAX).unwrap();
        assert_eq!(names(&asked), ["elicitation"]);
        let given = Members::parse(r#"{"elicitation":{"action":"accept"}}"#).unwrap();
        assert_eq!(asked.answer(&given).len(), 1);
        asked.ask(&question(2, "elicitation/create"), usize::MAX).unwrap();
        assert_eq!(names(&asked), ["elicitation_2"]);
        assert!(asked.answer(&given).is_empty(), "the first answer does not answer the second question");
        asked.withdraw("2");
        assert!(asked.is_settled());
        let mut named = question(3, "elicitation/create");
        named.hint = Some("elicitation_2".to_owned());
        asked.ask(&named, usize::MAX).unwrap();
        assert_eq!(names(&asked), ["elicitation_2_2"], "a withdrawn question keeps its name");
    }

    #[test]
    fn questions_without_an_answer_have_a_size_together() {
        let mut asked = CallQuestions::default();
        let one = question(1, "elicitation/create");
        let limit = one.params.len();
        asked.ask(&one, limit).unwrap();
        assert_eq!(asked.ask(&question(2, "elicitation/create"), limit), Err(Endless::Bytes(limit)));
        asked.withdraw("1");
        asked.ask(&question(3, "elicitation/create"), limit).unwrap();
    }

    #[test]
    fn questions_and_rounds_have_an_end() {
        let mut asked = CallQuestions::default();
        for number in 0..MAX_QUESTIONS {
            asked.ask(&question(number, "sampling/createMessage"), usize::MAX).unwrap();
        }
        assert_eq!(asked.ask(&question(0, "roots/list"), usize::MAX), Err(Endless::Questions));
        assert_eq!(asked.take_open().len(), MAX_QUESTIONS);
        assert_eq!(
            asked.ask(&question(0, "roots/list"), usize::MAX),
            Err(Endless::Questions),
            "answered questions also count"
        );
        for _ in 0..MAX_ROUNDS {
            asked.next_round().unwrap();
        }
        assert_eq!(asked.next_round(), Err(Endless::Rounds));
    }

    /// The steps that a client and its server can take, in any order.
    #[derive(Debug, Clone)]
    enum Step {
        Asks(&'static str, Option<&'static str>),
        /// The client answers some of the questions that it received last.
        Answers(Vec<bool>),
        /// The client repeats an earlier response.
        Repeats(usize),
        Withdraws(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let method = prop::sample::select(vec!["elicitation/create", "sampling/createMessage", "roots/list"]);
        let hint =
            prop::option::weighted(0.2, prop::sample::select(vec!["elicitation", "elicitation_2", "x"]));
        prop_oneof![
            3 => (method, hint).prop_map(|(method, hint)| Step::Asks(method, hint)),
            3 => prop::collection::vec(any::<bool>(), 8).prop_map(Step::Answers),
            1 => any::<usize>().prop_map(Step::Repeats),
            1 => any::<usize>().prop_map(Step::Withdraws),
        ]
    }

    /// An answer that contains the text of its question.
    fn answer_to(request: &Value) -> Value {
        let to = request["params"]["message"].clone();
        json!({"action": "accept", "role": "assistant", "content": {"to": to}, "roots": []})
    }

    proptest! {
        #[test]
        fn each_question_gets_its_own_answer_and_at_most_one(steps in prop::collection::vec(step(), 1..40)) {
            let mut asked = CallQuestions::default();
            let mut count = 0;
            let mut seen: HashMap<String, Value> = HashMap::new();
            let mut sent: Vec<String> = Vec::new();
            let mut answered = HashSet::new();
            for step in steps {
                let given = match step {
                    Step::Asks(method, hint) => {
                        count += 1;
                        let hint = hint.map(str::to_owned);
                        asked.ask(&Question { hint, ..question(count, method) }, usize::MAX).unwrap();
                        continue;
                    }
                    Step::Withdraws(which) => {
                        asked.withdraw(&(which % (count + 1)).to_string());
                        continue;
                    }
                    Step::Repeats(which) if sent.is_empty() => { let _ = which; continue }
                    Step::Repeats(which) => sent[which % sent.len()].clone(),
                    Step::Answers(which) => {
                        let shown: Value = serde_json::from_str(&asked.requests()).unwrap();
                        let mut given = serde_json::Map::new();
                        for ((name, request), is_answered) in shown.as_object().unwrap().iter().zip(which) {
                            let before = seen.insert(name.clone(), request.clone());
                            prop_assert!(before.is_none_or(|before| before == *request), "{name} was given twice");
                            if is_answered {
                                given.insert(name.clone(), answer_to(request));
                            }
                        }
                        let text = Value::Object(given).to_string();
                        sent.push(text.clone());
                        text
                    }
                };
                for (question, answer) in asked.answer(&Members::parse(&given).unwrap()) {
                    let (answer, id): (Value, _) = (serde_json::from_str(answer).unwrap(), question.id.to_string());
                    prop_assert_eq!(&answer["content"]["to"], &json!(format!("question {id}")));
                    prop_assert!(answered.insert(id.clone()), "question {id} was answered twice");
                }
            }
        }
    }
}
