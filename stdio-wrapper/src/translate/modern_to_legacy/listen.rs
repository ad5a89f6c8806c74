//! `subscriptions/listen` for a server with sessions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;

use super::super::call::{self, ClientRequest, SentRequest};
use super::super::group::{Group, GroupKey, Lease, PooledSession};
use super::super::listen::Filter;
use super::{Interest, ModernToLegacy, Refused};
use crate::budget::{Kept, user};
use crate::child::Placeholders;
use crate::places::{Place, Places};
use crate::policy::{Gate, Permit};
use crate::protocol::Code;
use crate::turns::{COPIED, Copies};

/// Maximum time for a child to confirm that it starts or stops watching a resource.
const WATCH_PATIENCE: Duration = Duration::from_secs(10);
/// Maximum number of subscriptions of one user with all clients together (attack 100). A client needs one, and a
/// notification is sent to all of them.
const MAX_LISTENERS: usize = 32;
/// Maximum number of resources in all subscriptions of one user. It is twice what one subscription can have, so that
/// a client can replace any subscription before the child has stopped watching the old resources.
const MAX_WATCHED: usize = 512;
/// The number of copied bytes that take as long as a request to the child with its response.
const PER_REQUEST: usize = COPIED / 8;

/// Why a user can open no further subscription.
#[derive(Debug, thiserror::Error)]
pub enum TooMany {
    /// There are too many subscriptions.
    #[error(
        "You have {MAX_LISTENERS} subscriptions here, which is the maximum for one user with all clients. Close one of them, then try again."
    )]
    Listeners,
    /// There are too many watched resources.
    #[error(
        "Your subscriptions here would watch more than {MAX_WATCHED} resources, which is the maximum for one user with all clients. Watch fewer resources, or close another subscription, then try again."
    )]
    Watched,
}

/// Counts the subscriptions of each user, and the resources in them.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    listeners: Arc<Places>,
    watched: Arc<Places>,
}

impl Subscriptions {
    /// Reserves a slot for another subscription. As for requests, callers without an identity need none, because
    /// no other user must be protected.
    fn admit(&self, owner: &str) -> Result<Option<Place>, TooMany> {
        if user(owner).trim().is_empty() {
            return Ok(None);
        }
        self.listeners.take(owner, MAX_LISTENERS).map(Some).ok_or(TooMany::Listeners)
    }

    /// Reserves slots for this number of further resources.
    fn admit_resources(&self, owner: &str, count: usize) -> Result<Option<Place>, TooMany> {
        if count == 0 || user(owner).trim().is_empty() {
            return Ok(None);
        }
        self.watched.take_several(owner, count, MAX_WATCHED).map(Some).ok_or(TooMany::Watched)
    }
}

/// A listening client, and the session whose child sends the notifications.
struct Listening {
    translation: Arc<ModernToLegacy>,
    group: Arc<Group>,
    lease: Lease,
    /// The number of the client among the listeners of the group.
    number: u64,
    /// The resources that the client wants to watch.
    resources: BTreeSet<Kept>,
    /// The slots of the subscription and of its resources. They are taken until the child has been asked to stop
    /// watching the resources, so that clients cannot open and close subscriptions faster than the child responds.
    _places: [Option<Place>; 2],
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
        let place = self.subscriptions.admit(&key.owner)?;
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
        let places = [place, self.subscriptions.admit_resources(&key.owner, filter.resources.len())?];
        let number = self.number();
        let acknowledgement = filter.acknowledgement(&client_request.id);
        let resources = filter.resources.clone();
        // The acknowledgement is sent first, so that no notification can precede it.
        client_request.stream.tell(bytes::Bytes::from(acknowledgement).into());
        group.listeners.add(number, &pooled.session.id, filter, &client_request.id, &client_request.stream);
        let (translation, group) = (Arc::clone(self), Arc::clone(group));
        let listening = Arc::new(Listening { translation, group, lease, number, resources, _places: places });
        if let Ok(subscribe) = subscribe {
            // The stream starts before the child has responded.
            tokio::spawn(Arc::clone(&listening).watch(client_request, subscribe));
        }
        let gate = gate.clone();
        Ok(Interest(Some(Box::new(move || {
            listening.group.listeners.remove(number);
            tokio::spawn(async move {
                listening.unwatch(gate.pass("resources/unsubscribe", None).ok()).await;
            });
        }))))
    }
}

impl Listening {
    /// Requests that the child watches the resources that it does not watch yet. If this takes too long, the
    /// stream ends with an error, because the acknowledged notifications might never come.
    async fn watch(self: Arc<Self>, client_request: ClientRequest, subscribe: Permit<'static>) {
        let mut copies = Copies::of(&self.pooled().session.owner);
        for uri in &self.resources {
            // A client can want hundreds of resources, and other users must not wait for all of them.
            copies.spend(PER_REQUEST).await;
            let mut watched = self.pooled().watched.lock().await;
            if !self.group.listeners.has(self.number) {
                return;
            }
            if !watched.add(uri, self.number) {
                continue;
            }
            let number = self.translation.number();
            let sent = call::send(self.pooled(), number, &subscribe, &params(uri)).await;
            drop(watched);
            match self.answer(sent, number).await {
                Some(Ok(())) => self.pooled().watched.lock().await.confirm(uri, self.number),
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

    /// Requests that the child stops watching the resources, except those that another listener wants. If this
    /// is not permitted or takes too long, the remaining requests are not sent, and notifications about these
    /// resources are dropped.
    async fn unwatch(&self, mut unsubscribe: Option<Permit<'_>>) {
        let mut copies = Copies::of(&self.pooled().session.owner);
        for uri in &self.resources {
            copies.spend(PER_REQUEST).await;
            let mut watched = self.pooled().watched.lock().await;
            if !watched.remove(uri, self.number) {
                continue;
            }
            let Some(permit) = &unsubscribe else { continue };
            let number = self.translation.number();
            let sent = call::send(self.pooled(), number, permit, &params(uri)).await;
            drop(watched);
            // A session that has ended watches no resources.
            if self.answer(sent, number).await.is_none() {
                unsubscribe = None;
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
