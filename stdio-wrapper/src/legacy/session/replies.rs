//! What the child asks of the client, and what becomes of the answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Behind, Session};
use crate::legacy::questions::Question;
use crate::protocol::{Code, Kind, Message, Patch, error_message, is_sound, parse_line};
use crate::stream::Stream;

impl Session {
    /// Takes the client's answer to a request of the child. One that was not asked for goes nowhere. False: it is none that
    /// MCP knows, and the child, whose SDK would drop it without a word, was told so in its place.
    pub async fn reply(&self, message: &Message<'_>, id: &str) -> bool {
        self.touch();
        let taken = self.state().questions.take(id, Instant::now());
        let Some(Question { id: own, .. }) = taken else { return true };
        let is_sound = is_sound(message);
        if is_sound {
            self.hand_over(message, &own).await;
        } else {
            self.answer_in_place(&own).await;
        }
        is_sound
    }

    /// The client's answer to this question, or without an id to the only one that waits, cannot be used.
    pub async fn reply_lost(&self, id: Option<&str>) {
        let taken = {
            let questions = &mut self.state().questions;
            match id {
                Some(id) => questions.take(id, Instant::now()),
                None => questions.take_only(Instant::now()),
            }
        };
        if let Some(question) = taken {
            self.answer_in_place(&question.id).await;
        }
    }

    /// Gives the child an answer under the id that the child wrote.
    async fn hand_over(&self, message: &Message<'_>, own: &str) {
        let Kind::Response { id: Some(id), .. } = &message.kind else { return };
        match self.behind.get() {
            Some(Behind::Own(link)) => {
                let patch = Patch { span: id.clone(), with: own.as_bytes() };
                if let Err(why) = link.pass(self, message, &mut [patch]).await {
                    tracing::debug!(why, "an answer to a question of the child was lost");
                }
            }
            Some(Behind::Foreign(peer)) => peer.reply(message, own),
            Some(Behind::Shared(_)) | None => {}
        }
    }

    /// Answers a question of the child in the client's place.
    async fn answer_in_place(&self, own: &str) {
        let why = "The client's answer could not be used.";
        let text = error_message(Some(own.as_bytes()), Code::InternalError, why);
        if let Ok(message) = parse_line(&text) {
            self.hand_over(&message, own).await;
        }
    }

    /// Gives every question of the child an id of ours from now on, which is used once. Then an answer to a question that
    /// the child has taken back is not one to another question that it asks under the same id.
    pub fn number_questions(&self) {
        self.state().questions.number();
    }

    /// Notes a request of the child that the client shall answer, and gives its id for the client, as JSON text. `None`: too
    /// many already.
    pub(in crate::legacy) fn expect_answer(
        &self,
        id: &str,
        method: &str,
        stream: &Arc<Stream>,
    ) -> Option<String> {
        self.state().questions.put(id, method, stream, Instant::now())
    }

    /// Notes that the child wants no answer any more; tells where the question went, and under which id.
    pub(in crate::legacy) fn withdrawn(&self, id: &str) -> Option<(Arc<Stream>, String)> {
        self.state().questions.take_own(id, Instant::now()).map(|(question, shown)| (question.stream, shown))
    }

    /// Whether the child waits for this client, or did so until now, which is no reason to say that it is late with a
    /// request that has been under way since `started`.
    pub(in crate::legacy) fn excuses(&self, started: Instant, timeout: Duration, now: Instant) -> bool {
        self.state().questions.excuse(started, timeout, self.limits.input_timeout, now)
    }
}
