//! Requests from the child to the client, and the client's responses.

use super::{Backend, Session};
use crate::legacy::questions::Question;
use crate::protocol::{Code, Kind, Message, Patch, error_message, is_sound, parse_line};

impl Session {
    /// Accepts the client's response to a request from the child. A response without a question is ignored.
    /// Returns false if MCP does not allow this response. The child then gets an error, because its SDK would
    /// silently drop the response.
    pub async fn reply(&self, message: &Message<'_>, id: &str) -> bool {
        self.touch();
        let Some(Question { id: own, .. }) = self.take_question(id) else { return true };
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
        let taken = match id {
            Some(id) => self.take_question(id),
            None => self.take_only_question(),
        };
        if let Some(question) = taken {
            self.answer_in_place(&question.id).await;
        }
    }

    /// Passes a response to the child, with the id that the child gave its question.
    async fn hand_over(&self, message: &Message<'_>, own: &str) {
        let Kind::Response { id: Some(id), .. } = &message.kind else { return };
        match &self.backend {
            Backend::Own(link) => {
                let patch = Patch { span: id.clone(), with: own.as_bytes() };
                if let Err(why) = link.pass(self, message, &mut [patch]).await {
                    tracing::debug!(why, "a response to a request from the child was lost");
                }
            }
            Backend::Translated(server) => server.reply(message, own),
            Backend::Shared(_) => {}
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
}
