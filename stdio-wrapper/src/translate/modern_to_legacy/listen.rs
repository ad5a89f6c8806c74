//! `subscriptions/listen` for a server with sessions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;

use super::super::call::{self, ClientRequest, SentRequest};
use super::super::group::{Group, GroupKey, Lease, PooledSession};
use super::super::listen::Filter;
use super::{Interest, ModernToLegacy, Refused};
use crate::budget::Kept;
use crate::child::Placeholders;
use crate::policy::{Gate, Permit};
use crate::protocol::Code;

/// Maximum time for a child to confirm that it starts or stops watching a resource.
const WATCH_PATIENCE: Duration = Duration::from_secs(10);

/// A listening client, and the session whose child sends the notifications.
struct Listening {
    translation: Arc<ModernToLegacy>,
    group: Arc<Group>,
    lease: Lease,
    /// The number of the client among the listeners of the group.
    number: u64,
}

impl ModernToLegacy {
    /// Opens a subscription: sends the acknowledgement first, and then the notifications of the session's
    /// child.
    pub(super) async fn listen(
        self: &Arc<Self>,
        group: &Arc<Group>,
        key: &GroupKey,
        caller: &Placeholders,
        client_request: ClientRequest,
        params: ByteString,
        gate: &Gate,
    ) -> Result<Interest, Refused> {
        let lease = self.lease(group, key, caller, false).await?;
        let pooled = &lease.pooled;
        let (length, read) = (params.len(), Arc::clone(pooled));
        let read = move || Filter::parse(&params, &read.greeting, read.session.reservation());
        let filter = group.offload.run_if_large(&pooled.session.owner, length, read).await;
        let mut filter =
            filter.ok_or(Refused::NoMemory)?.map_err(Refused::Params)?.ok_or(Refused::NoMemory)?;
        let subscribe = gate.pass("resources/subscribe", None);
        if subscribe.is_err() {
            // Resources to which the client is not allowed to subscribe are not acknowledged.
            filter.resources.clear();
        }
        let number = self.number();
        let acknowledgement = filter.acknowledgement(&client_request.id);
        let resources = filter.resources.clone();
        // The acknowledgement is sent first, so that no notification can precede it.
        client_request.stream.tell(bytes::Bytes::from(acknowledgement).into());
        group.listeners.add(number, &pooled.session.id, filter, &client_request.id, &client_request.stream);
        let (translation, group) = (Arc::clone(self), Arc::clone(group));
        let listening = Arc::new(Listening { translation, group, lease, number });
        if let Ok(subscribe) = subscribe {
            // The stream starts before the child has responded.
            tokio::spawn(Arc::clone(&listening).watch(client_request, resources, subscribe));
        }
        let gate = gate.clone();
        Ok(Interest(Some(Box::new(move || {
            let watched = listening.group.listeners.remove(number);
            tokio::spawn(async move {
                if let Ok(unsubscribe) = gate.pass("resources/unsubscribe", None) {
                    listening.unwatch(watched, &unsubscribe).await;
                }
            });
        }))))
    }
}

impl Listening {
    /// Requests that the child watches these resources. If this takes too long, the stream ends with an error,
    /// because the acknowledged notifications might never come.
    async fn watch(
        self: Arc<Self>,
        client_request: ClientRequest,
        resources: BTreeSet<Kept>,
        subscribe: Permit<'static>,
    ) {
        for uri in resources {
            let number = self.translation.number();
            let in_order = self.pooled().watching.lock().await;
            if !self.group.listeners.has(self.number) {
                return;
            }
            let sent = call::send(self.pooled(), number, &subscribe, &params(&uri)).await;
            drop(in_order);
            match self.answer(sent, number).await {
                Some(Ok(())) => {}
                // The resource was acknowledged, so the client would wait for its changes forever. If the
                // session has ended, this stream has already ended with it.
                Some(Err(error)) if self.group.listeners.has(self.number) => {
                    let why = format!("{error} It was for {uri}. Listen again without this resource.");
                    return client_request.fail(Code::InternalError, &why, None);
                }
                Some(Err(_)) => return,
                None => {
                    let within = WATCH_PATIENCE.as_secs();
                    let why = format!(
                        "The MCP server did not answer resources/subscribe for {uri} within {within} s. Listen again \
                         without this resource, or try again later."
                    );
                    return client_request.fail(Code::InternalError, &why, None);
                }
            }
        }
    }

    /// Requests that the child stops watching these resources, except those that another listener wants. If
    /// this takes too long, the remaining requests are not sent, and notifications about these resources are
    /// dropped.
    async fn unwatch(&self, watched: BTreeSet<Kept>, unsubscribe: &Permit<'_>) {
        for uri in watched {
            let number = self.translation.number();
            let in_order = self.pooled().watching.lock().await;
            if self.group.listeners.is_watched(&self.pooled().session.id, &uri) {
                continue;
            }
            let sent = call::send(self.pooled(), number, unsubscribe, &params(&uri)).await;
            drop(in_order);
            // A session that has ended watches no resources.
            if self.answer(sent, number).await.is_none() {
                return;
            }
        }
    }

    /// Whether the child has agreed. Returns `None` if its response takes too long.
    async fn answer(&self, sent: Result<SentRequest, String>, number: u64) -> Option<Result<(), String>> {
        let answer = async { sent?.answer(&self.group, self.pooled()).await.map(|_| ()) };
        let answer = tokio::time::timeout(WATCH_PATIENCE, answer).await.ok();
        if answer.is_none() {
            // Without the cancellation, the request would count as waiting until REQUEST_TIMEOUT.
            self.pooled().cancel(number, "it takes too long").await;
        }
        answer
    }

    fn pooled(&self) -> &PooledSession {
        &self.lease.pooled
    }
}

fn params(uri: &str) -> String {
    serde_json::json!({ "uri": uri }).to_string()
}
