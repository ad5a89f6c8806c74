//! The interface through which a session uses a server without sessions. The translation implements it.

use std::fmt::Debug;
use std::sync::Arc;

use super::client::Client;
use crate::policy::Permit;
use crate::protocol::{Message, Span};
use crate::stream::Stream;

/// The server side of a session that the translation serves.
pub trait TranslatedServer: Debug + Send + Sync {
    /// Accepts a request. Its response and all related messages are sent on `stream`.
    fn request(
        self: Arc<Self>,
        client: &Arc<Client>,
        message: &Message<'_>,
        id: &Span,
        stream: &Arc<Stream>,
        permit: &Permit<'_>,
    );
    /// Accepts a notification other than a cancellation.
    fn notify(self: Arc<Self>, client: &Arc<Client>, permit: &Permit<'_>);
    /// Accepts the client's response to a question.
    fn reply(&self, message: &Message<'_>, id: &str);
    /// Cancels the only request with this id, which is JSON text.
    fn cancel(&self, id: &str);
    /// Called when the session has ended. Requests in progress fail with this message.
    fn end(&self, message: &str);
}

/// A request in progress in a session. While it exists, the session is in use.
#[derive(Debug)]
pub struct Busy(Arc<Client>);

impl Busy {
    /// Marks the session as in use by one more request.
    pub fn new(client: &Arc<Client>) -> Self {
        client.request_started();
        Self(Arc::clone(client))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.request_done();
    }
}
