//! One child for all sessions, for servers that keep no state. The wrapper initializes one child for each
//! revision, and each client receives the response from that child. Requests that depend on the state of one
//! client are refused.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::client::{Client, ENDED, SessionLimits};
use super::link::{Audience, Link};
use super::settings::Settings;
use crate::attempts::Attempts;
use crate::budget::{Reservation, TOO_MANY_ANSWERS};
use crate::child::{Launcher, Placeholders, StartError};
use crate::conversation::{Call, Conversations};
use crate::protocol::{
    Code, Kind, Message, Outgoing, Span, Text, Version, error_message, error_words, initialize, parse_line,
    peek_requested_version,
};
use crate::stream::{First, Stream};

/// Requests that change how the child treats its client afterwards.
const STATEFUL: [&str; 3] = ["logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// Why a message was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The JSON-RPC error code.
    pub(super) code: Code,
    /// The message for the caller.
    pub(super) message: String,
}

/// The children, one for each revision that a client has requested.
#[derive(Debug)]
pub(super) struct SharedChildren {
    settings: Settings,
    launcher: Arc<Launcher>,
    conversations: Conversations,
    slots: [Arc<Slot>; Version::ALL.len()],
}

#[derive(Debug, Default)]
struct Slot {
    ready: RwLock<Option<Ready>>,
    /// Ensures that all callers waiting for a child share one start.
    starting: Attempts<Refusal>,
}

#[derive(Debug, Clone)]
struct Ready {
    link: Arc<Link>,
    /// The `result` of `initialize`, as JSON text.
    result: Arc<str>,
    /// The revision that the child chose.
    version: Version,
}

impl SharedChildren {
    pub(super) fn new(settings: Settings, conversations: Conversations) -> Self {
        let launcher = Arc::clone(&conversations.launcher);
        Self { settings, launcher, conversations, slots: Default::default() }
    }

    /// Responds to a client's `initialize` with the child's response to the wrapper's own `initialize`.
    pub(super) async fn initialize(
        self: &Arc<Self>,
        client: &Client,
        message: &Message<'_>,
        id: &Span,
        stream: &Stream,
    ) {
        let wanted = match peek_requested_version(message) {
            Ok(name) => name.and_then(|name| Version::parse(&name)).unwrap_or(Version::LATEST),
            Err(error) => {
                client.refuse(message, id, stream, Code::InvalidRequest, &error.to_string());
                return self.end_session(client, "initialize failed", ENDED);
            }
        };
        match self.ready(wanted).await {
            Ok(ready) => {
                client.set_slot(wanted);
                client.set_version(ready.version);
                let text = Outgoing::Result { id: message.at(id), result: &ready.result }.bytes();
                let answers = &self.settings.memory.answers;
                match answers.count(&client.owner, text.into()) {
                    Some(text) => stream.push(text, true),
                    None => client.refuse(message, id, stream, Code::Refused, TOO_MANY_ANSWERS),
                }
            }
            Err(refusal) => {
                client.refuse(message, id, stream, refusal.code, &refusal.message);
                self.end_session(client, "initialize failed", ENDED);
            }
        }
    }

    /// Fails if no child is running and none is started at the moment, because previous starts failed.
    pub(super) fn check_pause(&self) -> Result<(), StartError> {
        if self.slots.iter().any(|slot| slot.current().is_some()) {
            return Ok(());
        }
        self.launcher.check_pause("")
    }

    /// Returns the child for a request of this session, and starts it if necessary.
    pub(super) async fn link_for(
        self: &Arc<Self>,
        client: &Client,
        method: &str,
    ) -> Result<Arc<Link>, Refusal> {
        if STATEFUL.contains(&method) {
            let message = format!("This server is shared between clients, so {method} is not available.");
            return Err(Refusal { code: Code::MethodNotFound, message });
        }
        Ok(self.ready(client.slot()).await?.link)
    }

    /// The child of this client's session, if it is running.
    pub(super) fn current(&self, client: &Client) -> Option<Arc<Link>> {
        self.slot(client.slot())?.current().map(|ready| ready.link)
    }

    /// Ends the session of a client. `why` is logged, and waiting requests fail with `message`.
    pub(super) fn end_session(&self, client: &Client, why: &str, message: &str) {
        client.close(why, || {
            if let Some(link) = self.current(client) {
                link.fail_all(Some(client), message);
            }
        });
    }

    /// Fails requests that have timed out.
    pub(super) fn expire(&self, now: Instant) {
        for ready in self.slots.iter().filter_map(|slot| slot.current()) {
            ready.link.expire(now);
        }
    }

    /// Stops every child, and waits until all have exited.
    pub(super) async fn stop(&self) {
        let all: Vec<Ready> = self.slots.iter().filter_map(|slot| slot.current()).collect();
        for ready in &all {
            ready.link.child.stop();
        }
        for ready in all {
            ready.link.child.exited().await;
        }
    }

    fn slot(&self, version: Version) -> Option<&Arc<Slot>> {
        let index = Version::ALL.iter().position(|known| *known == version)?;
        self.slots.get(index)
    }

    async fn ready(self: &Arc<Self>, version: Version) -> Result<Ready, Refusal> {
        let slot =
            self.slot(version).ok_or_else(|| failure("This revision is not supported here.".to_owned()))?;
        if let Some(ready) = slot.current() {
            return Ok(ready);
        }
        // The start must not be aborted when the caller that triggered it disconnects. Other callers might wait
        // for the child, and the child must be stopped if it does not respond.
        let (children, slot) = (Arc::clone(self), Arc::clone(slot));
        let started = tokio::spawn(async move { children.start_once(version, &slot).await }).await;
        started.unwrap_or_else(|error| Err(failure(format!("The MCP server could not be started: {error}."))))
    }

    /// Starts the child of a revision, unless another caller has just started it or has failed to do so.
    async fn start_once(&self, version: Version, slot: &Slot) -> Result<Ready, Refusal> {
        let turn = slot.starting.turn().await;
        if let Some(ready) = slot.current() {
            return Ok(ready);
        }
        if let Some(refusal) = turn.failure() {
            return Err(refusal);
        }
        let started = self.start(version).await;
        match &started {
            Ok(ready) => *slot.ready.write().unwrap_or_else(PoisonError::into_inner) = Some(ready.clone()),
            Err(refusal) => turn.failed(refusal.clone()),
        }
        started
    }

    /// Starts a child, and initializes it.
    async fn start(&self, version: Version) -> Result<Ready, Refusal> {
        let turn = self.launcher.turn("").await.map_err(|error| failure(error.to_string()))?;
        let taken = self.launcher.take(&Placeholders::default(), &turn);
        let taken = taken.map_err(|error| failure(error.to_string()))?;
        let open = |conversation| Link::new(conversation, Audience::Nobody);
        let link = self.conversations.open(taken, open);
        let answer = self.greet(&link, version, turn.start_timeout()).await;
        if answer.is_err() {
            link.child.stop();
        }
        let (result, version) = answer?;
        link.say(&Outgoing::Notification { method: "notifications/initialized", params: None }.text());
        Ok(Ready { link, result, version })
    }

    async fn greet(
        &self,
        link: &Arc<Link>,
        version: Version,
        timeout: Duration,
    ) -> Result<(Arc<str>, Version), Refusal> {
        let limits = SessionLimits {
            max_in_flight: 1,
            event_log: self.settings.event_log,
            request_timeout: self.settings.request_timeout,
            start_timeout: timeout,
            input_timeout: self.settings.input_timeout,
        };
        let greeter = Arc::new(Client::new(
            String::new(),
            String::new(),
            false,
            limits,
            &self.settings.memory.answers,
            Arc::clone(&self.conversations.metrics),
        ));
        // The wrapper declares no capabilities, because a shared child must not send requests to a client.
        let text = initialize(version, "{}");
        let message = parse_line(text.as_bytes()).map_err(|error| failure(error.to_string()))?;
        let Kind::Request { id, .. } = message.kind.clone() else {
            return Err(failure("no request".to_owned()));
        };
        let stream = Stream::for_post(1, 1, self.settings.event_log, Reservation::unlimited());
        let call = Call { message: &message, id, token: None, stream: &stream, timeout };
        link.request(&greeter, call, true).await;
        let wait = async {
            loop {
                match stream.first() {
                    First::Answers(answers) => return answers,
                    First::Wait | First::Events => stream.changed().await,
                }
            }
        };
        let Ok(answers) = tokio::time::timeout(timeout, wait).await else {
            link.fail_all(None, "The MCP server did not answer initialize in time.");
            self.launcher.child_was_silent(&link.child, timeout);
            return Err(failure("The MCP server did not answer initialize in time.".to_owned()));
        };
        let answer = answers.into_iter().next().map(Text::into_bytes);
        let answer = answer.unwrap_or_else(|| error_message(None, Code::InternalError, "no answer"));
        let parsed = parse_line(&answer).map_err(|error| failure(error.to_string()))?;
        match (&parsed.result, greeter.version()) {
            (Some(result), Some(version)) => Ok((Arc::from(parsed.at(result)), version)),
            _ => Err(failure(match error_words(&parsed) {
                Some(words) => format!("initialize failed: {words}"),
                None => {
                    "The MCP server's response to initialize names no protocol version that is known here."
                        .to_owned()
                }
            })),
        }
    }
}

impl Slot {
    fn current(&self) -> Option<Ready> {
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        ready.as_ref().filter(|ready| !ready.link.is_dead()).cloned()
    }
}

fn failure(message: String) -> Refusal {
    Refusal { code: Code::InternalError, message }
}
