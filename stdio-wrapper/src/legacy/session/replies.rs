//! Requests from the child to the client, and the client's responses.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Backend, Session};
use crate::legacy::questions::Question;
use crate::protocol::{Code, Kind, Message, Patch, error_message, is_sound, parse_line};
use crate::stream::Stream;

impl Session {
    /// Accepts the client's response to a request from the child. A response without a question is ignored.
    /// Returns false if MCP does not allow this response. The child then gets an error, because its SDK would
    /// silently drop the response.
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

    /// Sends the child an error, because the client's response to this question cannot be used. Without an id,
    /// the response is assigned to the only waiting question.
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

    /// Passes a response to the child, with the id that the child gave its question.
    async fn hand_over(&self, message: &Message<'_>, own: &str) {
        let Kind::Response { id: Some(id), .. } = &message.kind else { return };
        match self.behind.get() {
            Some(Backend::Own(link)) => {
                let patch = Patch { span: id.clone(), with: own.as_bytes() };
                if let Err(why) = link.pass(self, message, &mut [patch]).await {
                    tracing::debug!(why, "a response to a request from the child was lost");
                }
            }
            Some(Backend::Translated(peer)) => peer.reply(message, own),
            Some(Backend::Shared(_)) | None => {}
        }
    }

    /// Responds to a question from the child on behalf of the client.
    async fn answer_in_place(&self, own: &str) {
        let why = "The client's response could not be used.";
        let text = error_message(Some(own.as_bytes()), Code::InternalError, why);
        if let Ok(message) = parse_line(&text) {
            self.hand_over(&message, own).await;
        }
    }

    /// Starts giving every question from the child an id that the wrapper chooses and uses only once. Otherwise a
    /// response to a question that the child has withdrawn could be mistaken for a response to another question
    /// with the same id.
    pub fn number_questions(&self) {
        self.state().questions.number();
    }

    /// Records a request from the child to which the client must respond. Returns its id for the client, as
    /// JSON text, or `None` if there are too many.
    pub(in crate::legacy) fn expect_answer(
        &self,
        id: &str,
        method: &str,
        stream: &Arc<Stream>,
    ) -> Option<String> {
        self.state().questions.put(id, method, stream, Instant::now(), &self.reservation)
    }

    /// Records that the child no longer needs a response. Returns the stream on which the question was sent,
    /// and its id for the client.
    pub(in crate::legacy) fn withdrawn(&self, id: &str) -> Option<(Arc<Stream>, String)> {
        self.state().questions.take_own(id, Instant::now()).map(|(question, shown)| (question.stream, shown))
    }

    /// Whether a request that was sent at `started` is not late yet, because the child is waiting for this
    /// client, or was until recently.
    pub(in crate::legacy) fn excuses(&self, started: Instant, timeout: Duration, now: Instant) -> bool {
        self.state().questions.excuse(started, timeout, self.limits.input_timeout, now)
    }
}
