//! The server side of one session: sends the client's requests to the stateless server, and passes the responses
//! on.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use super::super::call_questions::MAX_ROUNDS;
use super::super::results::{LEVELS, MAX_URI};
use crate::budget::{Kept, TOO_MANY_ANSWERS, TOO_MANY_MESSAGES};
use crate::child::Placeholders;
use crate::conversation::{ROOM_PATIENCE, parsed};
use crate::legacy::{Busy, Client, TranslatedServer};
use crate::modern::{LOG_LEVEL, Meta, Request, Servers, Ticket, meta};
use crate::policy::{Gate, Permit};
use crate::protocol::{
    Code, Kind, Members, Message, Outgoing, Span, error_message, parse_owned, peek_call, peek_name, string,
};
use crate::stream::{Next, Stream};

/// The method of the subscription for the GET stream of a session.
pub(super) const LISTEN: &str = "subscriptions/listen";
/// Maximum number of resources that one session can watch.
const MAX_RESOURCES: usize = 256;

/// The client's answers to the questions of the last round, and the state for the server. Both are JSON text.
pub(super) type Round = (Kept, Option<Kept>);

/// The server side of one session.
pub(super) struct Peer {
    pub(super) servers: Arc<Servers>,
    caller: Placeholders,
    /// The principal against whom memory and sessions are counted.
    pub(super) owner: String,
    /// The client's capabilities, as JSON text.
    pub(super) capabilities: String,
    /// The parts of the result of `server/discover` that are needed.
    pub(super) offers: Value,
    pub(super) next: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    log_level: Option<String>,
    pub(super) resources: BTreeSet<Kept>,
    /// The requests in progress, by the wrapper's own numbers, because clients can use the same id for several
    /// requests.
    running: HashMap<u64, Underway>,
    /// The questions to the client, by their ids as JSON text.
    pub(super) asked: HashMap<String, oneshot::Sender<Result<Kept, Unanswered>>>,
    /// The messages that the client is allowed to send, according to its last request that affected the
    /// subscription.
    pub(super) gate: Gate,
    /// The task that sends notifications to the session. It is started when the client first requests
    /// notifications.
    pub(super) listening: Option<Listening>,
}

/// The task that sends notifications to a session.
pub(super) struct Listening {
    /// The requested notifications, as JSON text.
    pub(super) wanted: watch::Sender<Option<Kept>>,
    pub(super) task: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unanswered {
    /// The client responded with an error.
    Refused,
    /// There was no memory for the answer.
    NoMemory,
}

struct Underway {
    /// The client's id, as JSON text.
    id: String,
    task: AbortHandle,
    stream: Arc<Stream>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peer")
    }
}

impl Peer {
    /// Creates the server side of a session of this principal. `capabilities` are those of the client, as JSON
    /// text.
    pub(super) fn new(
        servers: Arc<Servers>,
        caller: Placeholders,
        owner: &str,
        capabilities: String,
        offers: Value,
    ) -> Self {
        let (next, state) = (AtomicU64::new(1), Mutex::default());
        Self { servers, caller, owner: owner.to_owned(), capabilities, offers, next, state }
    }

    /// Responds to requests that need no server. The size of the data that is kept for the session is limited,
    /// because a request body can be large.
    fn answer_here(&self, method: &str, message: &Message<'_>) -> Option<Result<(), (Code, String)>> {
        let [level, uri] = message.members(["level", "uri"]).unwrap_or_default();
        let text = |value: Option<&str>| value.and_then(string).map(Cow::into_owned);
        match method {
            "ping" => Some(Ok(())),
            "logging/setLevel" => Some(match text(level).filter(|level| LEVELS.contains(&level.as_str())) {
                Some(level) => {
                    self.state().log_level = Some(level);
                    Ok(())
                }
                None => Err((Code::InvalidParams, format!("`level` must be one of {}.", LEVELS.join(", ")))),
            }),
            "resources/subscribe" | "resources/unsubscribe" => {
                let Some(uri) = text(uri).filter(|uri| uri.len() <= MAX_URI) else {
                    let why = format!("`uri` must be a string of at most {MAX_URI} bytes.");
                    return Some(Err((Code::InvalidParams, why)));
                };
                Some(self.watch(&uri, method == "resources/subscribe"))
            }
            _ if method.starts_with("tasks/") => {
                let why = "Tasks of this revision cannot be translated for this server.";
                Some(Err((Code::MethodNotFound, why.to_owned())))
            }
            _ => None,
        }
    }

    /// Records that the client watches a resource or no longer watches it.
    fn watch(&self, uri: &str, is_wanted: bool) -> Result<(), (Code, String)> {
        let reservation = self.servers.answers().reservation(&self.owner);
        let resources = &mut self.state().resources;
        if !is_wanted {
            resources.remove(uri);
        } else if resources.len() < MAX_RESOURCES || resources.contains(uri) {
            resources.insert(reservation.keep(uri).ok_or_else(no_room)?);
        } else {
            return Err((Code::Refused, format!("At most {MAX_RESOURCES} resources can be watched.")));
        }
        Ok(())
    }

    /// A request in stateless form. `params` and `id` are JSON text. `round` contains the client's answers, and the
    /// state that the server sent with the questions.
    fn text(
        &self,
        method: &str,
        params: &str,
        round: Option<&Round>,
        level: Option<&str>,
        id: &str,
    ) -> Bytes {
        let mut members = Members::parse(params).unwrap_or_default();
        // The answers and the state must be only those of the last round.
        members.retain(|name| name != "inputResponses" && name != "requestState");
        if let Some((responses, state)) = round {
            members.set("inputResponses", &**responses);
            if let Some(state) = state {
                members.set("requestState", &**state);
            }
        }
        let given = members.remove("_meta").unwrap_or_default();
        let mut meta = meta(&given, &self.capabilities);
        if let Some(level) = level {
            meta.set(LOG_LEVEL, Value::from(level).to_string());
        }
        members.set("_meta", meta.to_string());
        Outgoing::Request { id, method, params: &members.to_string() }.bytes()
    }

    /// Sends a request in stateless form. Returns `None` if the server no longer supports that revision.
    pub(super) async fn send(
        self: &Arc<Self>,
        client: &Client,
        permit: &Permit<'_>,
        (params, round): (impl Deref<Target = str> + Send + 'static, Option<&Round>),
        id: &str,
        stream: &Arc<Stream>,
    ) -> Result<Option<Ticket>, String> {
        let native = self.servers.native(&self.caller).await.map_err(|error| error.to_string())?;
        let Some(native) = native else { return Ok(None) };
        let method = permit.method();
        // Clients with a session request a log level with this method.
        let may_log = permit.gate().pass("logging/setLevel", None).is_ok();
        let level = self.state().log_level.clone().filter(|_| may_log);
        let (peer, round) = (Arc::clone(self), round.cloned());
        let (id, name) = (id.to_owned(), method.to_owned());
        let length = params.len() + round.as_ref().map_or(0, |(responses, _)| responses.len());
        let level_of_request = level.clone();
        // Large requests are converted on other threads.
        let convert =
            move || parse_owned(&peer.text(&name, &params, round.as_ref(), level_of_request.as_deref(), &id));
        let converted = self.servers.offload().run_if_large(&client.owner, length, convert).await;
        let (text, parts) =
            converted.ok_or("The request could not be read.")?.map_err(|error| error.to_string())?;
        // The text stays in memory until the child has received the message.
        let mut reservation = self.servers.messages().reservation(&client.owner);
        if !reservation.grow_within(text.len(), ROOM_PATIENCE).await {
            return Err(TOO_MANY_MESSAGES.to_owned());
        }
        let message = parts.of(&text);
        let Kind::Request { method, id } = message.kind.clone() else {
            return Err("no request".to_owned());
        };
        let token = peek_call(&message).map_err(|error| error.to_string())?.progress_token;
        let request = Request {
            message: &message,
            method,
            id,
            meta: Meta {
                capabilities: &self.capabilities,
                log_level: level.as_deref().map(Into::into),
                progress_token: token,
            },
            name: None,
            arguments: None,
        };
        let owner: Arc<str> = Arc::from(client.owner.as_str());
        Ok(Some(native.call(&request, permit, owner, stream).await))
    }

    /// Handles one request from the client, with as many rounds as necessary.
    async fn run(
        self: &Arc<Self>,
        client: &Client,
        permit: &Permit<'_>,
        params: &Kept,
        id: &str,
        out: &Arc<Stream>,
    ) {
        let mut round: Option<Round> = None;
        for _ in 0..MAX_ROUNDS {
            let stream = self.servers.stream(&client.owner);
            let consumer = stream.connect();
            let sent = self.send(client, permit, (params.clone(), round.as_ref()), id, &stream).await;
            let _ticket = match sent {
                Ok(Some(ticket)) => ticket,
                Ok(None) => return fail(out, id, "The MCP server no longer supports this revision."),
                Err(why) => return fail(out, id, &why),
            };
            let answer = loop {
                match consumer.next() {
                    Next::Event(_, text) => {
                        let parsed = parsed(self.servers.offload(), &client.owner, text).await;
                        let Some((text, parts)) = parsed else { continue };
                        if parts.is_response() {
                            break text;
                        }
                        out.tell(text.into_bytes().into());
                    }
                    Next::End => return fail(out, id, "The MCP server has ended this request."),
                    Next::Wait => stream.changed().await,
                }
            };
            match self.settle(client, answer, id, out).await {
                None => return,
                next => round = next,
            }
        }
        let why = format!(
            "The MCP server asked questions in more than {MAX_ROUNDS} rounds of one call, so the call was cancelled."
        );
        fail(out, id, &why);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error for a resource for which there is no memory.
fn no_room() -> (Code, String) {
    (Code::Refused, TOO_MANY_ANSWERS.to_owned())
}

pub(super) fn fail(out: &Stream, id: &str, why: &str) {
    out.push(error_message(Some(id.as_bytes()), Code::InternalError, why).into(), true);
}

impl TranslatedServer for Peer {
    fn request(
        self: Arc<Self>,
        client: &Arc<Client>,
        message: &Message<'_>,
        id: &Span,
        stream: &Arc<Stream>,
        permit: &Permit<'_>,
    ) {
        let (method, gate) = (permit.method(), permit.gate());
        let id = message.at(id).to_owned();
        let params = message.params.as_ref().map_or(ByteString::from_static("{}"), |span| message.part(span));
        if method == "resources/subscribe" && gate.pass(LISTEN, None).is_err() {
            let why = "This request needs subscriptions/listen, which you are not allowed to use.";
            return stream.push(error_message(Some(id.as_bytes()), Code::Refused, why).into(), true);
        }
        match self.answer_here(method, message) {
            Some(Ok(())) => {
                if method.starts_with("resources/") && !self.listen(client, &gate) {
                    let (code, why) = no_room();
                    return stream.push(error_message(Some(id.as_bytes()), code, &why).into(), true);
                }
                return stream.push(Outgoing::Result { id: &id, result: "{}" }.bytes().into(), true);
            }
            Some(Err((code, why))) => {
                return stream.push(error_message(Some(id.as_bytes()), code, &why).into(), true);
            }
            None => {}
        }
        // The params are kept, because every round sends them again.
        let reservation = self.servers.messages().reservation(&client.owner);
        let tool = if method == "tools/call" { peek_name(message).ok().flatten() } else { None };
        let tool = tool.map(|tool| reservation.keep(&*tool)).map_or(Some(None), |kept| kept.map(Some));
        let (Some(params), Some(tool)) = (reservation.keep(params), tool) else {
            return stream
                .push(error_message(Some(id.as_bytes()), Code::Refused, TOO_MANY_MESSAGES).into(), true);
        };
        let busy = Busy::new(client);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (client, method, name) = (Arc::clone(client), method.to_owned(), id.clone());
        let (stream, waiting) = (Arc::clone(stream), Arc::clone(stream));
        let peer = Arc::clone(&self);
        // The lock is held so that the task cannot remove its entry before the entry is added.
        let mut state = self.state();
        let task = tokio::spawn(async move {
            match gate.pass(&method, tool.as_deref()) {
                Ok(permit) => peer.run(&client, &permit, &params, &id, &stream).await,
                Err(_) => fail(&stream, &id, "This request is not allowed."),
            }
            peer.state().running.remove(&number);
            drop(busy);
        });
        let underway = Underway { id: name, task: task.abort_handle(), stream: waiting };
        state.running.insert(number, underway);
    }

    fn notify(self: Arc<Self>, client: &Arc<Client>, permit: &Permit<'_>) {
        if permit.method() == "notifications/initialized" {
            // If there is no memory for the subscription, the client only misses announcements.
            self.listen(client, &permit.gate());
        }
    }

    fn reply(&self, message: &Message<'_>, id: &str) {
        let Some(asked) = self.state().asked.remove(id) else { return };
        // The call continues only after it has received all answers.
        let answer = match &message.result {
            None => Err(Unanswered::Refused),
            Some(result) => {
                let reservation = self.servers.messages().reservation(&self.owner);
                reservation.keep(message.part(result)).ok_or(Unanswered::NoMemory)
            }
        };
        // An error means that the call was abandoned, so the answer is not needed.
        let _ = asked.send(answer);
    }

    fn cancel(&self, id: &str) {
        // If two requests have the same id, neither is cancelled, because the wrong one might be chosen.
        let mut state = self.state();
        let mut found = state.running.iter().filter(|(_, underway)| underway.id == id);
        let (Some((number, _)), None) = (found.next(), found.next()) else { return };
        let number = *number;
        let Some(underway) = state.running.remove(&number) else { return };
        drop(state);
        underway.task.abort();
        let why = "The request was cancelled.";
        underway.stream.push(error_message(Some(id.as_bytes()), Code::Cancelled, why).into(), true);
    }

    fn end(&self, message: &str) {
        let state = std::mem::take(&mut *self.state());
        for underway in state.running.into_values() {
            underway.task.abort();
            fail(&underway.stream, &underway.id, message);
        }
    }
}
