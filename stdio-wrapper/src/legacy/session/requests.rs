//! Requests and notifications from the client.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Backend, Session};
use crate::conversation::Call;
use crate::legacy::link::Link;
use crate::policy::Permit;
use crate::protocol::{Code, Message, Patch, Span, error_message, peek_call, peek_cancelled};
use crate::stream::Stream;

impl Session {
    /// Sends the `initialize` request of this session.
    pub async fn initialize(self: &Arc<Self>, message: &Message<'_>, id: Span, stream: &Arc<Stream>) {
        match self.behind.get() {
            Some(Backend::Own(link)) => self.send_to(link, message, id, None, true, stream).await,
            Some(Backend::Shared(children)) => children.initialize(self, message, &id, stream).await,
            // The translation itself responds to `initialize` for a translated session.
            Some(Backend::Translated(_)) | None => {
                self.refuse(
                    message,
                    &id,
                    stream,
                    Code::InvalidRequest,
                    "This session is already initialized.",
                );
            }
        }
    }

    /// Sends a permitted request. Its response and all related messages are sent on `stream`.
    pub async fn request(
        self: &Arc<Self>,
        message: &Message<'_>,
        id: Span,
        stream: &Arc<Stream>,
        permit: &Permit<'_>,
    ) {
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
        if self.in_flight.load(Ordering::Relaxed) >= self.limits.max_in_flight {
            let why = "Too many requests of this session are waiting. Wait for some of them, or raise MAX_IN_FLIGHT.";
            return self.refuse(message, &id, stream, Code::Refused, why);
        }
        match self.behind.get() {
            Some(Backend::Own(link)) => {
                self.send_to(link, message, id, params.progress_token, false, stream).await;
            }
            Some(Backend::Shared(children)) => match children.link_for(self, method).await {
                Ok(link) => self.send_to(&link, message, id, params.progress_token, false, stream).await,
                Err(refusal) => self.refuse(message, &id, stream, refusal.code, &refusal.message),
            },
            Some(Backend::Translated(peer)) => {
                peer.request(self, message, &id, stream, permit);
            }
            None => self.refuse(message, &id, stream, Code::InternalError, "This session has no server."),
        }
    }

    async fn send_to(
        self: &Arc<Self>,
        link: &Arc<Link>,
        message: &Message<'_>,
        id: Span,
        token: Option<Span>,
        is_initialize: bool,
        stream: &Arc<Stream>,
    ) {
        let timeout = if is_initialize { self.limits.start_timeout } else { self.limits.request_timeout };
        link.request(self, Call { message, id, token, stream, timeout }, is_initialize).await;
    }

    /// Responds to a request with an error instead of sending it to the child.
    pub fn refuse(&self, message: &Message<'_>, id: &Span, stream: &Stream, code: Code, why: &str) {
        self.metrics.requests_failed_total.add();
        stream.push(error_message(Some(message.at(id).as_bytes()), code, why).into(), true);
    }

    /// Accepts a permitted notification. The error contains the reason why the child did not receive it.
    pub async fn notify(
        self: &Arc<Self>,
        message: &Message<'_>,
        permit: &Permit<'_>,
    ) -> Result<(), &'static str> {
        self.touch();
        if !message.has_method(permit.method()) {
            return Ok(());
        }
        if permit.method() == "notifications/cancelled" {
            self.cancel(message).await;
            return Ok(());
        }
        match self.behind.get() {
            Some(Backend::Own(link)) => return link.pass(self, message, &mut []).await,
            Some(Backend::Translated(peer)) => peer.notify(self, permit),
            // The wrapper has initialized the shared child, which does not track the state of a single client.
            Some(Backend::Shared(_)) | None => {}
        }
        Ok(())
    }

    /// Cancels the request with this id in this session. The child receives the id that it knows.
    async fn cancel(&self, message: &Message<'_>) {
        let Ok(Some(span)) = peek_cancelled(message) else {
            return;
        };
        let id = message.at(&span);
        let link = match self.behind.get() {
            Some(Backend::Own(link)) => Some(Arc::clone(link)),
            Some(Backend::Shared(children)) => children.current(self),
            Some(Backend::Translated(peer)) => return peer.cancel(id),
            None => None,
        };
        let Some(link) = link else { return };
        let Some(number) = link.find(self, id) else {
            tracing::debug!("a cancellation names no request, or more than one, and was ignored");
            return;
        };
        if matches!(self.behind.get(), Some(Backend::Own(_))) {
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
