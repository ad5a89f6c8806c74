//! Sends a request without the parts that the rules deny.

use std::sync::Arc;

use super::{Link, Ticket};
use crate::budget::TOO_MANY_MESSAGES;
use crate::conversation::ROOM_PATIENCE;
use crate::modern::{Meta, Request};
use crate::policy::{Denied, Permit};
use crate::protocol::{Code, Kind, error_message, parse_owned, peek_call};
use crate::stream::Stream;

impl Link {
    /// Like [`Link::call`], without the parts of the request that the rules deny.
    pub(super) async fn call_without(
        self: &Arc<Self>,
        denied: Denied,
        request: &Request<'_>,
        permit: &Permit<'_>,
        owner: Arc<str>,
        stream: &Arc<Stream>,
    ) -> Ticket {
        let refuse = |why: &str| {
            let answer = error_message(Some(request.id_text().as_bytes()), Code::Refused, why);
            stream.push(answer.into(), true);
            self.unsent()
        };
        let (text, params) = (request.message.shared_text(), request.message.params.clone());
        // The edited text stays in memory until the line for the child has been created.
        let Some(_reservation) = self.messages.reserve(&owner, text.len(), ROOM_PATIENCE).await else {
            return refuse(TOO_MANY_MESSAGES);
        };
        let length = text.len();
        let edit = move || {
            let params = params?;
            let edited = denied.remove(text.get(params.clone())?)?;
            let whole = [text.get(..params.start)?, &edited, text.get(params.end..)?].concat();
            parse_owned(&whole.into()).ok()
        };
        // Large requests are edited on other threads.
        let Some((text, parts)) = self.offload.run_if_large(&owner, length, edit).await.flatten() else {
            return refuse("The request could not be read.");
        };
        let message = parts.of(&text);
        let (Kind::Request { id, .. }, Ok(call)) = (&message.kind, peek_call(&message)) else {
            return refuse("The request could not be read.");
        };
        let log_level = request.meta.log_level.clone().filter(|_| !denied.has_logs());
        let allowed = Request {
            message: &message,
            method: request.method.clone(),
            id: id.clone(),
            meta: Meta {
                capabilities: request.meta.capabilities,
                log_level,
                progress_token: call.progress_token,
            },
            name: request.name.clone(),
            arguments: request.arguments,
        };
        self.call_as_it_is(&allowed, permit, owner, stream).await
    }
}
