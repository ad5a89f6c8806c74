//! The interface of a server without sessions, as a session sees it. The translation implements it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::link::cancelled;
use super::session::Session;
use crate::policy::Permit;
use crate::protocol::{Message, Span, parse_line};
use crate::stream::Stream;

/// The server side of such a session.
pub trait TranslatedServer: Debug + Send + Sync {
    /// Accepts a request. All answers and messages for it come on `stream`.
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
    /// Accepts the client's answer to a question that was put to it.
    fn reply(&self, message: &Message<'_>, id: &str);
    /// Gives up the only request with this id, which is JSON text.
    fn cancel(&self, id: &str);
    /// Called when the session has ended. Requests in progress fail with this message.
    fn end(&self, message: &str);
}

/// A request of a session in progress. As long as there is one, the session is in use.
#[derive(Debug)]
pub struct Busy(Arc<Session>);

impl Busy {
    /// Counts another request.
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
    /// Sends a question to the client, on the stream of the request that it belongs to. Returns false if too
    /// many questions are waiting already, or if there is no memory for it.
    pub fn put(&self, id: &str, method: &str, text: bytes::Bytes, stream: &Arc<Stream>) -> bool {
        let is_noted = self.expect_answer(id, method, stream).is_some();
        is_noted && stream.tell(text.into())
    }

    /// Forgets a question whose answer nobody waits for any more. `id` is JSON text.
    pub fn take_back(&self, id: &str) {
        self.withdrawn(id);
    }

    /// Tells the child that nobody waits for a request any more. If the child still answers, its answer comes
    /// on the request's stream, so that the caller knows when it has stopped. `id` is JSON text.
    pub async fn abandon(&self, id: &str) {
        let Some(link) = self.own_link() else { return };
        let Some(number) = link.find(self, id) else { return };
        if let Ok(message) = parse_line(cancelled(number, "the client has gone").as_bytes()) {
            // If the child does not read, the message is lost.
            let _ = link.pass(self, &message, &mut []).await;
        }
    }

    /// Whether the session has not ended.
    pub fn is_alive(&self) -> bool {
        !self.is_ended.load(Ordering::Acquire)
    }
}
