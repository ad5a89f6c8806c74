//! Requests and notifications from the client.

use std::sync::Arc;

use super::{Backend, Session};
use crate::conversation::Call;
use crate::policy::{Denied, Permit};
use crate::protocol::{Code, Message, Patch, Span, peek_call, peek_cancelled};
use crate::stream::Stream;

impl Session {
    /// Sends the `initialize` request of this session.
    pub async fn initialize(&self, message: &Message<'_>, id: Span, stream: &Arc<Stream>) {
        match &self.backend {
            Backend::Own(link) => {
                let call = Call { message, id, token: None, stream, timeout: self.start_timeout() };
                link.request(&self.client, call, true).await;
            }
            Backend::Shared(children) => children.initialize(&self.client, message, &id, stream).await,
            // The translation itself responds to `initialize` for a translated session.
            Backend::Translated(_) => {
                let why = "This session is already initialized.";
                self.refuse(message, &id, stream, Code::InvalidRequest, why);
            }
        }
    }

    /// Sends a permitted request. Its response and all related messages are sent on `stream`.
    pub async fn request(&self, message: &Message<'_>, id: Span, stream: &Arc<Stream>, permit: &Permit<'_>) {
        self.touch();
        let method = permit.method();
        if !message.has_method(method) {
            let why = "This request was permitted for another method.";
            return self.refuse(message, &id, stream, Code::InternalError, why);
        }
        let params = match peek_call(message) {
            Ok(params) => params,
            Err(error) => return self.refuse(message, &id, stream, Code::InvalidRequest, &error.to_string()),
        };
        if self.is_full() {
            let why = "Too many requests of this session are waiting. Wait for some of them, or raise MAX_IN_FLIGHT.";
            return self.refuse(message, &id, stream, Code::Refused, why);
        }
        if let Some(denied) = self.denied(message, permit) {
            return self.refuse(message, &id, stream, Code::Refused, denied.refusal());
        }
        let link = match &self.backend {
            Backend::Own(link) => Arc::clone(link),
            Backend::Shared(children) => match children.link_for(self, method).await {
                Ok(link) => link,
                Err(refusal) => return self.refuse(message, &id, stream, refusal.code, &refusal.message),
            },
            Backend::Translated(server) => {
                return Arc::clone(server).request(&self.client, message, &id, stream, permit);
            }
        };
        let (token, timeout) = (params.progress_token, self.request_timeout());
        link.request(&self.client, Call { message, id, token, stream, timeout }, false).await;
    }

    /// Accepts a permitted notification. The error contains the reason why the child did not receive it.
    pub async fn notify(&self, message: &Message<'_>, permit: &Permit<'_>) -> Result<(), &'static str> {
        self.touch();
        if !message.has_method(permit.method()) {
            return Ok(());
        }
        if permit.method() == "notifications/cancelled" {
            self.cancel(message, permit).await;
            return Ok(());
        }
        if self.denied(message, permit).is_some() {
            tracing::debug!("a notification with a part that the rules deny was dropped");
            return Ok(());
        }
        match &self.backend {
            Backend::Own(link) => return link.pass(self, message, &mut []).await,
            Backend::Translated(server) => Arc::clone(server).notify(&self.client, permit),
            // The wrapper has initialized the shared child, which does not track the state of a single client.
            Backend::Shared(_) => {}
        }
        Ok(())
    }

    /// The parts of a message to a child with sessions that the rules deny. A translated message goes to a child without
    /// sessions, which gets it without these parts.
    fn denied(&self, message: &Message<'_>, permit: &Permit<'_>) -> Option<Denied> {
        let is_translated = matches!(self.backend, Backend::Translated(_));
        if is_translated { None } else { Denied::of(message, &permit.gate()) }
    }

    /// Cancels the request with this id in this session. The child receives the id that it knows. If the message
    /// contains a part that the rules deny, the child receives a message of the wrapper instead.
    async fn cancel(&self, message: &Message<'_>, permit: &Permit<'_>) {
        let Ok(Some(span)) = peek_cancelled(message) else {
            return;
        };
        let id = message.at(&span);
        let link = match &self.backend {
            Backend::Own(link) => Some(Arc::clone(link)),
            Backend::Shared(children) => children.current(self),
            Backend::Translated(server) => return server.cancel(id),
        };
        let Some(link) = link else { return };
        let Some(number) = link.find(self, id) else {
            tracing::debug!("a cancellation names no request, or more than one, and was ignored");
            return;
        };
        if matches!(self.backend, Backend::Own(_)) && self.denied(message, permit).is_none() {
            let digits = number.to_string();
            let patch = Patch { span, with: digits.as_bytes() };
            // If the child does not read its input, it does not receive the cancellation. The request is
            // abandoned in any case.
            let _ = link.pass(self, message, &mut [patch]).await;
        } else {
            link.cancel(number, "cancelled by the client");
        }
        // The child does not respond to a cancelled request, so the waiting POST gets its response here.
        if let Some(pending) = link.give_up(number) {
            pending.fail(Code::Cancelled, "The request was cancelled.");
        }
    }
}
