//! The caller of a request that waits for a child, and how the request ends.

use std::sync::Arc;

use bytes::Bytes;

use super::SUBSCRIPTION;
use super::lists::{Generation, Key};
use crate::conversation;
use crate::protocol::{Code, Members, Outgoing, error_message};

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// The request waits for one response.
    Answer,
    /// The request waits for notifications, until the client disconnects or the server ends the subscription.
    Subscription,
}

impl Waits {
    /// What a request with this method waits for.
    pub(super) fn of(method: &str) -> Self {
        if method == "subscriptions/listen" { Self::Subscription } else { Self::Answer }
    }
}

/// The caller of a request.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The principal that sent the request. It is empty for a request that the wrapper itself sends.
    pub(super) owner: Arc<str>,
    pub(super) waits: Waits,
    pub(super) wants_logs: bool,
    /// The key under which the result is cached, if it can be cached, and the generation when it was
    /// requested.
    pub(super) keep: Option<(Key, Generation)>,
}

/// A request waiting for its response.
pub(super) type Pending = conversation::Pending<Caller>;

impl Pending {
    /// Responds with an error from the wrapper.
    pub(super) fn fail(&self, message: &str) {
        self.stream.push(error_message(Some(&self.id), Code::InternalError, message).into(), true);
    }

    /// The result that ends this subscription (2026-07-28, "Subscriptions").
    pub(super) fn completion(&self) -> Bytes {
        completion(&String::from_utf8_lossy(&self.id))
    }
}

/// The result that ends a subscription. `id` is JSON text.
pub fn completion(id: &str) -> Bytes {
    let mut result = Members::default();
    result.set("resultType", r#""complete""#);
    result.set("_meta", subscription_meta(id));
    Outgoing::Result { id, result: &result.to_string() }.bytes()
}

/// The `_meta` of a message that belongs to the subscription with this id, which is JSON text.
pub fn subscription_meta(id: &str) -> String {
    let mut meta = Members::default();
    meta.set(SUBSCRIPTION, id);
    meta.to_string()
}
