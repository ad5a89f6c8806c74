//! The session of one client with the server that answers its requests.

mod replies;
mod requests;

use std::ops::Deref;
use std::sync::Arc;

use tokio::time::Instant;

use super::client::{Client, ENDED};
use super::link::Link;
use super::shared::SharedChildren;
use super::translated_server::TranslatedServer;
use crate::child::Placeholders;
use crate::protocol::{cancelled, parse_line};

/// A session of a client.
#[derive(Debug)]
pub struct Session {
    client: Arc<Client>,
    backend: Backend,
    /// The values of the command's placeholders when the session was opened.
    filled: Placeholders,
}

/// The server that answers the requests of a session.
#[derive(Debug)]
pub(super) enum Backend {
    /// The session's own child.
    Own(Arc<Link>),
    /// Children that are shared by all sessions.
    Shared(Arc<SharedChildren>),
    /// A server without sessions, accessed through the translation.
    Translated(Arc<dyn TranslatedServer>),
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Session {
    pub(super) fn new(client: Arc<Client>, backend: Backend, filled: Placeholders) -> Self {
        Self { client, backend, filled }
    }

    /// Whether the session was opened with these values of the command's placeholders. A user who has left a
    /// group must not continue to use that group's child (attack 103).
    pub(super) fn is_filled_with(&self, values: &Placeholders) -> bool {
        self.filled == *values
    }

    /// Records that the requests of this session come from several callers.
    pub fn set_common(&self) {
        if let Some(link) = self.own_link() {
            link.set_common();
        }
    }

    /// Whether the child has responded to `initialize`, with a result or an error.
    pub fn was_answered(&self) -> bool {
        self.own_link().is_some_and(|link| link.has_answered())
    }

    /// Fails requests that have timed out. If `initialize` timed out, this ends the session.
    pub(super) fn expire(&self, now: Instant) {
        if self.own_link().is_some_and(|link| link.expire(now)) {
            self.end("the child did not answer initialize");
        }
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

    /// Ends the session: waiting requests fail, streams are closed, and the session's own child is stopped.
    pub fn end(&self, why: &str) {
        self.end_with(why, ENDED);
    }

    /// Ends the session. `why` is logged, and waiting requests fail with `message`.
    pub(super) fn end_with(&self, why: &str, message: &str) {
        match &self.backend {
            Backend::Own(link) => link.end_session(self, why, message),
            Backend::Shared(children) => children.end_session(self, why, message),
            Backend::Translated(server) => self.close(why, || server.end(message)),
        }
    }

    /// The link to the session's own child.
    pub(super) fn own_link(&self) -> Option<&Arc<Link>> {
        match &self.backend {
            Backend::Own(link) => Some(link),
            Backend::Shared(_) | Backend::Translated(_) => None,
        }
    }
}
