//! A request waiting for the child's response, with the id and the token of its caller.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::SUBSCRIPTION;
use super::lists::{Generation, Key};
use crate::protocol::{Code, Members, Outgoing, error_message};
use crate::stream::Stream;

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// The request waits for one response.
    Answer,
    /// The request waits for notifications, until the client disconnects or the server ends the subscription.
    Subscription,
}

/// A request waiting for its response.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) stream: Arc<Stream>,
    /// The caller's id, as JSON text.
    pub(super) id: Box<[u8]>,
    /// The caller's progress token, as JSON text.
    pub(super) token: Option<Box<[u8]>>,
    pub(super) owner: Arc<str>,
    pub(super) waits: Waits,
    pub(super) wants_logs: bool,
    /// The key for caching the result, if it can be cached, and the generation at the time of the request.
    pub(super) keep: Option<(Key, Generation)>,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    pub(super) timeout: Duration,
}

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
