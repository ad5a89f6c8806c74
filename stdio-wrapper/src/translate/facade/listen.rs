//! `subscriptions/listen` in front of a server with sessions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::call::{self, Job, Sent};
use super::super::group::{Group, GroupKey, Lease, Seat};
use super::super::listen::Filter;
use super::{Facade, Interest, Refused};
use crate::budget::Kept;
use crate::child::Placeholders;
use crate::policy::{Gate, Permit};
use crate::protocol::Code;

/// Time for a child to confirm that it watches a resource, or no longer does.
const WATCH_PATIENCE: Duration = Duration::from_secs(10);

/// A client that listens, and the session whose child sends the notifications.
struct Listening {
    facade: Arc<Facade>,
    group: Arc<Group>,
    lease: Lease,
    /// The number among the listeners of the group.
    number: u64,
}

impl Facade {
    /// Opens a subscription: first the acknowledgement, then the notifications of the session's child.
    pub(super) async fn listen(
        self: &Arc<Self>,
        group: &Arc<Group>,
        key: &GroupKey,
        caller: &Placeholders,
        job: Job,
        params: &str,
        gate: &Gate,
    ) -> Result<Interest, Refused> {
        let lease = self.lease(group, key, caller, false).await?;
        let seat = &lease.seat;
        let filter = Filter::parse(params, &seat.greeting, seat.session.room()).map_err(Refused::Params)?;
        let mut filter = filter.ok_or(Refused::NoMemory)?;
        let subscribe = gate.pass("resources/subscribe", None);
        if subscribe.is_err() {
            // Resources that the client may not subscribe to are not acknowledged.
            filter.resources.clear();
        }
        let number = self.number();
        let acknowledgement = filter.acknowledgement(&job.id);
        let resources = filter.resources.clone();
        // The acknowledgement is sent first, so that nothing can come before it.
        job.stream.tell(bytes::Bytes::from(acknowledgement).into());
        group.listeners.add(number, &seat.session.id, filter, &job.id, &job.stream);
        let (facade, group) = (Arc::clone(self), Arc::clone(group));
        let listening = Arc::new(Listening { facade, group, lease, number });
        if let Ok(subscribe) = subscribe {
            // The stream begins before the child has answered.
            tokio::spawn(Arc::clone(&listening).watch(job, resources, subscribe));
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
    /// Lets the child watch these resources. If it takes too long, the stream ends with an error, because the
    /// notifications that were acknowledged might never come.
    async fn watch(self: Arc<Self>, job: Job, resources: BTreeSet<Kept>, subscribe: Permit<'static>) {
        for uri in resources {
            let number = self.facade.number();
            let in_order = self.seat().watching.lock().await;
            if !self.group.listeners.has(self.number) {
                return;
            }
            let sent = call::send(self.seat(), number, &subscribe, &params(&uri)).await;
            drop(in_order);
            match self.answer(sent, number).await {
                Some(Ok(())) => {}
                // The resource was acknowledged, so the client would wait for its changes without end. If the
                // session has ended, it has ended this stream, too.
                Some(Err(error)) if self.group.listeners.has(self.number) => {
                    let why = format!("{error} It was for {uri}. Listen again without this resource.");
                    return job.fail(Code::InternalError, &why, None);
                }
                Some(Err(_)) => return,
                None => {
                    let within = WATCH_PATIENCE.as_secs();
                    let why = format!(
                        "The MCP server did not answer resources/subscribe for {uri} within {within} s. Listen again \
                         without this resource, or try again later."
                    );
                    return job.fail(Code::InternalError, &why, None);
                }
            }
        }
    }

    /// Lets the child stop watching these resources, except those that another listener wants. If the child
    /// takes too long, it is not told the rest, and its notifications about them are dropped.
    async fn unwatch(&self, watched: BTreeSet<Kept>, unsubscribe: &Permit<'_>) {
        for uri in watched {
            let number = self.facade.number();
            let in_order = self.seat().watching.lock().await;
            if self.group.listeners.is_watched(&self.seat().session.id, &uri) {
                continue;
            }
            let sent = call::send(self.seat(), number, unsubscribe, &params(&uri)).await;
            drop(in_order);
            // A session that has ended watches nothing anyway.
            if self.answer(sent, number).await.is_none() {
                return;
            }
        }
    }

    /// Whether the child has agreed. Returns `None` if it takes too long to answer.
    async fn answer(&self, sent: Result<Sent, String>, number: u64) -> Option<Result<(), String>> {
        let answer = async { sent?.answer(&self.group, self.seat()).await.map(|_| ()) };
        let answer = tokio::time::timeout(WATCH_PATIENCE, answer).await.ok();
        if answer.is_none() {
            // Otherwise the request would count as waiting until REQUEST_TIMEOUT.
            self.seat().cancel(number, "it takes too long").await;
        }
        answer
    }

    fn seat(&self) -> &Seat {
        &self.lease.seat
    }
}

fn params(uri: &str) -> String {
    serde_json::json!({ "uri": uri }).to_string()
}
