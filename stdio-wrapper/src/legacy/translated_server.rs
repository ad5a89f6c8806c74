//! The interface through which a session uses a server without sessions. The translation implements it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::session::Session;
use crate::policy::Permit;
use crate::protocol::{Message, Span, cancelled, parse_line};
use crate::stream::Stream;

/// The server side of a session that the translation serves.
pub trait TranslatedServer: Debug + Send + Sync {
    /// Accepts a request. Its response and all related messages are sent on `stream`.
    fn request(
        &self,
        session: &Arc<Session>,
        message: &Message<'_>,
        id: &Span,
        stream: &Arc<Stream>,
        permit: &Permit<'_>,
    );
    /// Accepts a notification other than a cancellation.
    fn notify(&self, session: &Arc<Session>, permit: &Permit<'_>);
    /// Accepts the client's response to a question.
    fn reply(&self, message: &Message<'_>, id: &str);
    /// Cancels the only request with this id, which is JSON text.
    fn cancel(&self, id: &str);
    /// Called when the session has ended. Requests in progress fail with this message.
    fn end(&self, message: &str);
}

/// A request in progress in a session. While it exists, the session is in use.
#[derive(Debug)]
pub struct Busy(Arc<Session>);

impl Busy {
    /// Marks the session as in use by one more request.
    pub fn new(session: &Arc<Session>) -> Self {
        session.request_started();
        Self(Arc::clone(session))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.request_done();
    }
}

impl Session {
    /// Sends a question to the client on the stream of the related request. Returns false if too many questions
    /// are waiting, or if there is no memory for it.
    pub fn put(&self, id: &str, method: &str, text: bytes::Bytes, stream: &Arc<Stream>) -> bool {
        let is_noted = self.expect_answer(id, method, stream).is_some();
        is_noted && stream.tell(text.into())
    }

    /// Removes a question whose response is no longer needed. `id` is JSON text.
    pub fn take_back(&self, id: &str) {
        self.withdrawn(id);
    }

    /// Cancels a request in the child. If the child still responds, the response is sent on the request's
    /// stream, which shows the caller that the child no longer processes the request. `id` is JSON text.
    pub async fn abandon(&self, id: &str) {
        let Some(link) = self.own_link() else { return };
        let Some(number) = link.find(self, id) else { return };
        if let Ok(message) = parse_line(cancelled(number, "the client has disconnected").as_bytes()) {
            // If the child does not read its input, the message is lost.
            let _ = link.pass(self, &message, &mut []).await;
        }
    }

    /// Whether the session has not ended.
    pub fn is_alive(&self) -> bool {
        !self.is_ended.load(Ordering::Acquire)
    }
}
