//! Presents a server with sessions as a stateless one.

mod listen;
mod opening;
mod tools;
mod waiting;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
use serde_json::Value;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::call::{self, ClientRequest, Outcome, Running};
use super::call_questions::CallQuestions;
use super::digest::Digest;
use super::group::{Group, GroupKey, PooledSession};
use super::questions::responses;
use super::results::capabilities;
use super::seal::Sealer;
use crate::budget::TOO_MANY_ANSWERS;
use crate::child::{Placeholders, Random};
use crate::legacy::{OpenError, Sessions};
use crate::modern::{Fault, Fields, Request};
use crate::offload::Offload;
use crate::policy::{Gate, Permit};
use crate::protocol::{Code, Malformed, Members, members, string};
use crate::stream::Stream;
use listen::{Subscriptions, TooMany};
use waiting::{Suspended, Waiting};

/// Requests that a server can answer with questions (2026-07-28, "Multi Round-Trip Requests").
const MAY_ASK: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];
/// Maximum time for which a call waits until its child confirms the log level. The child receives the level
/// before the call in any case.
const LEVEL_PATIENCE: Duration = Duration::from_secs(2);
/// Interval at which calls and sessions are removed.
const ROUND: Duration = Duration::from_secs(1);
/// Limits and timeouts of the translation.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Maximum number of sessions of one principal, each for one call that might ask questions. Every group of
    /// clients can always have one session.
    pub max_seats: usize,
    /// Maximum time for which a call waits for its client's answer.
    pub input_timeout: Duration,
    /// Maximum time for which a request waits for a free session.
    pub request_timeout: Duration,
    /// Maximum total size of the unanswered questions of one call, in bytes.
    pub max_asked: usize,
    /// Time after which unused sessions end.
    pub idle: Duration,
    /// The threads that process large lists.
    pub offload: Arc<Offload>,
}

/// Why a request was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No session could be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Every session is in use by another call.
    #[error(
        "Too many of your calls are waiting for answers. Answer or wait for some of them, then try again."
    )]
    Busy,
    /// Every session is in use by a call whose user has recently been asked a question.
    #[error(
        "The maximum number of your calls are waiting for answers from their users. Answer one of them, or try again in {} s, when the call that has waited longest is cancelled for this one. TRANSLATE_SESSIONS sets how many can wait.", .0.as_secs().max(1)
    )]
    AllWait(Duration),
    /// The user has too many subscriptions.
    #[error(transparent)]
    Subscriptions(#[from] TooMany),
    /// The params are not valid.
    #[error("{0}")]
    Params(String),
    /// There is no memory for the request data that must be kept.
    #[error("{TOO_MANY_ANSWERS}")]
    NoMemory,
    /// A header differs from the body.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The translation has no equivalent of this method.
    #[error("{0} cannot be translated for a server of an earlier revision.")]
    Method(String),
    /// The server responded with an error, or did not respond.
    #[error("{0}")]
    Child(String),
}

/// The translation for stateless clients.
pub struct ModernToLegacy {
    settings: Settings,
    sessions: Arc<Sessions>,
    sealer: Sealer,
    groups: Mutex<HashMap<GroupKey, Arc<Group>>>,
    waiting: Mutex<HashMap<u64, Waiting>>,
    subscriptions: Subscriptions,
    next: AtomicU64,
}

/// Represents the client that is waiting for the response to a request. Dropping it cancels the request.
pub struct Interest(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Interest {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl ModernToLegacy {
    /// Creates a translation without any sessions.
    pub fn new(settings: Settings, sessions: Arc<Sessions>, random: Random) -> Arc<Self> {
        Arc::new(Self {
            settings,
            sessions,
            sealer: Sealer::new(random),
            groups: Mutex::default(),
            waiting: Mutex::default(),
            subscriptions: Subscriptions::default(),
            next: AtomicU64::new(1),
        })
    }

    /// Starts a permitted request. Its response and all related messages are sent on `stream`.
    pub async fn start(
        self: &Arc<Self>,
        request: &Request<'_>,
        permit: &Permit<'_>,
        fields: &Fields<'_>,
        caller: &Placeholders,
        owner: &str,
        stream: &Arc<Stream>,
    ) -> Result<Interest, Refused> {
        if request.method.starts_with("tasks/") {
            return Err(Refused::Method(request.method.clone().into_owned()));
        }
        let key = GroupKey {
            owner: owner.to_owned(),
            capabilities: capabilities(request.meta.capabilities)
                .map_err(|error| Refused::Params(error.to_string()))?,
            caller: caller.clone(),
        };
        let group = Arc::clone(
            self.groups()
                .entry(key.clone())
                .or_insert_with_key(|key| Arc::new(Group::new(key, &self.settings.offload))),
        );
        let params = params_of(request);
        let RequestParts { given, state, digest } = self.read(request, &params, owner).await?;
        let bound_to = format!("{key:?}\n{}\n{digest}", request.method);
        let (answers, max_asked) = (self.sessions.answers(), self.settings.max_asked);
        let client_request = ClientRequest::of(request, bound_to, stream, answers, max_asked, owner);
        let Some(given) = responses(given.as_deref()) else {
            return Err(Refused::Params("`inputResponses` must be an object.".to_owned()));
        };
        match client_request.method.as_str() {
            "server/discover" => {
                let lease = self.lease(&group, &key, caller, false).await?;
                client_request.finish(&lease.pooled.greeting.discover());
                return Ok(Interest(None));
            }
            "subscriptions/listen" => {
                return self.listen(&group, &key, caller, client_request, params, &permit.gate()).await;
            }
            _ => {}
        }
        // Without a request state, the answers belong to no question, so they are ignored.
        let asked = match state.map(|state| self.reopen(&state, &client_request)).transpose()? {
            None => CallQuestions::default(),
            Some(Suspended::Running(running)) => {
                return Ok(self.resume(client_request, running, &given).await);
            }
            Some(Suspended::Repeated { mut asked, owner }) => {
                if !asked.answer(&given).iter().all(|(_, answer)| is_accepted(answer)) {
                    let why = "The client did not do what the server requested, so the call cannot continue.";
                    return Err(Refused::Params(why.to_owned()));
                }
                if !asked.is_settled() {
                    self.suspend(&client_request, Suspended::Repeated { asked, owner });
                    return Ok(Interest(None));
                }
                asked
            }
        };
        let can_be_asked = ["elicitation", "roots", "sampling"];
        let is_exclusive = MAY_ASK.contains(&client_request.method.as_str())
            && (client_request.log_level.is_some()
                || can_be_asked.iter().any(|name| group.capabilities.get(name).is_some()));
        let lease = self.lease(&group, &key, caller, is_exclusive).await?;
        self.check_params(&group, &lease.pooled, request, fields).await?;
        if is_exclusive {
            self.set_level(&group, &lease.pooled, &client_request, &permit.gate()).await;
        }
        let running =
            call::start(lease, group, (self.number(), params), &client_request, permit, asked).await;
        Ok(self.spawn(client_request, running, is_exclusive))
    }

    /// Reads the parts of a request. Large requests are read on other threads.
    async fn read(
        &self,
        request: &Request<'_>,
        params: &ByteString,
        owner: &str,
    ) -> Result<RequestParts, Refused> {
        let may_ask = MAY_ASK.contains(&request.method.as_ref());
        let (text, length) = (params.clone(), params.len());
        let read = move || RequestParts::read(&text, may_ask);
        match self.settings.offload.run_if_large(owner, length, read).await {
            Some(parts) => parts.map_err(|error| Refused::Params(error.to_string())),
            None => Err(Refused::Params("The params could not be read.".to_owned())),
        }
    }

    /// Continues a call that has been waiting for its client, with the client's answers.
    async fn resume(
        self: &Arc<Self>,
        client_request: ClientRequest,
        mut running: Running,
        given: &Members<'_>,
    ) -> Interest {
        running.lease.pooled.log_to(client_request.log_level.as_deref(), &client_request.stream);
        call::resume(&mut running, given).await;
        if running.asked.is_settled() {
            return self.spawn(client_request, running, true);
        }
        self.suspend(&client_request, Suspended::Running(running));
        Interest(None)
    }

    /// Removes and returns the call to which a request state belongs, if the state was issued for this request.
    /// Each state can be used once.
    fn reopen(&self, state: &str, client_request: &ClientRequest) -> Result<Suspended, Refused> {
        let text = string(state).unwrap_or_default();
        let number = self.sealer.open(&text, &client_request.bound_to).ok_or_else(|| {
            Refused::Params("The request state was not issued for this request.".to_owned())
        })?;
        let waiting = self.waiting().remove(&number);
        let waiting = waiting.filter(|waiting| waiting.expires > Instant::now()).ok_or_else(|| {
            Refused::Params("The call of this request state is no longer waiting. Call again.".to_owned())
        })?;
        Ok(waiting.call)
    }

    /// Follows a call in a task of its own. Dropping the result cancels the call.
    fn spawn(
        self: &Arc<Self>,
        client_request: ClientRequest,
        mut running: Running,
        is_exclusive: bool,
    ) -> Interest {
        let translation = Arc::clone(self);
        let task = tokio::spawn(async move {
            match call::follow(&mut running, &client_request, is_exclusive).await {
                Outcome::Done => {}
                Outcome::Asks => translation.suspend(&client_request, Suspended::Running(running)),
                Outcome::Again => {
                    let (asked, owner) = (std::mem::take(&mut running.asked), running.owner().to_owned());
                    drop(running);
                    translation.suspend(&client_request, Suspended::Repeated { asked, owner });
                }
            }
        });
        let handle: AbortHandle = task.abort_handle();
        Interest(Some(Box::new(move || handle.abort())))
    }

    /// Suspends a call until its client retries it, and sends the questions to the client.
    fn suspend(&self, client_request: &ClientRequest, mut call: Suspended) {
        let asked = match &mut call {
            Suspended::Running(running) => &mut running.asked,
            Suspended::Repeated { asked, .. } => asked,
        };
        if let Err(endless) = asked.next_round() {
            call::endlessly(client_request, endless);
            return;
        }
        let requests = asked.requests();
        let number = self.number();
        let Some(sealed) = self.sealer.seal(number, &client_request.bound_to) else {
            return client_request.fail(
                Code::InternalError,
                "This server cannot generate random numbers.",
                None,
            );
        };
        let waiting = Waiting { call, expires: Instant::now() + self.settings.input_timeout };
        {
            let mut all = self.waiting();
            if !waiting.has_room(&all) {
                drop(all);
                let why = "Too many calls of this caller are waiting until the user has visited a page. Finish some of them.";
                return client_request.fail(Code::Refused, why, None);
            }
            all.insert(number, waiting);
        }
        let mut result = Members::default();
        result.set("resultType", r#""input_required""#);
        result.set("inputRequests", requests);
        result.set("requestState", Value::from(sealed).to_string());
        let is_told = client_request.finish(&result.to_string());
        if !is_told {
            // The client did not receive the request state, so it could not continue the call.
            let forgotten = self.waiting().remove(&number);
            drop(forgotten);
        }
    }

    /// Sets the log level in the child, if the client wants log messages and the child supports them.
    async fn set_level(
        &self,
        group: &Arc<Group>,
        pooled: &Arc<PooledSession>,
        client_request: &ClientRequest,
        gate: &Gate,
    ) {
        pooled.log_to(client_request.log_level.as_deref(), &client_request.stream);
        let Some(level) = client_request.log_level.as_ref().filter(|_| pooled.greeting.has("/logging"))
        else {
            return;
        };
        let Ok(permit) = gate.pass("logging/setLevel", None) else { return };
        let mut known = pooled.level.lock().await;
        if known.as_ref() != Some(level) {
            let params = serde_json::json!({ "level": level }).to_string();
            let number = self.number();
            // If the child refuses, it uses its own level. Messages below the requested level are dropped
            // anyway.
            let asked = call::ask(group, pooled, number, &permit, &params);
            if tokio::time::timeout(LEVEL_PATIENCE, asked).await.is_err() {
                // Without the cancellation, the request would count as waiting until REQUEST_TIMEOUT.
                pooled.cancel(number, "setting the level takes too long").await;
            }
            *known = Some(level.clone());
        }
    }

    /// Removes calls whose clients do not retry them, and unused sessions, while the wrapper runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(ROUND).await;
            let now = Instant::now();
            let late: Vec<Waiting> = self
                .waiting()
                .extract_if(|_, waiting| waiting.expires <= now)
                .map(|(_, waiting)| waiting)
                .collect();
            drop(late);
            self.groups().retain(|_, group| {
                // A request might be about to use the group.
                let is_idle = Arc::strong_count(group) <= 1 + group.pooled_sessions().len()
                    && group.is_idle(now, self.settings.idle);
                if is_idle {
                    self.end_group(group, "it was unused");
                }
                !is_idle
            });
        }
    }

    /// Drops all waiting calls.
    pub fn stop(&self) {
        let all = std::mem::take(&mut *self.waiting());
        drop(all);
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<GroupKey, Arc<Group>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The params of a request, as JSON text.
fn params_of(request: &Request<'_>) -> ByteString {
    let params = request.message.params_text();
    params.map_or(ByteString::from_static("{}"), |params| request.message.shared(params))
}

/// The parts of the params of a request that the translation itself uses.
struct RequestParts {
    /// The `inputResponses`, as JSON text.
    given: Option<ByteString>,
    /// The `requestState`, as JSON text.
    state: Option<ByteString>,
    /// The digest of the params to which a request state is bound. The params are compared as values, because a
    /// client can serialize them differently in a retry.
    digest: Digest,
}

impl RequestParts {
    /// Reads the params, which are JSON text. A request state can belong to the request only if `may_ask`.
    fn read(params: &ByteString, may_ask: bool) -> Result<Self, Malformed> {
        let [given, state] = members(params, ["inputResponses", "requestState"])?;
        let [given, state] = [given, state].map(|part| part.map(|part| params.slice_ref(part)));
        let bound = if may_ask { &**params } else { "{}" };
        let digest = Digest::of_members(bound, &["_meta", "inputResponses", "requestState"]);
        Ok(Self { given, state, digest })
    }
}

/// Whether the user has accepted an elicitation.
fn is_accepted(answer: &str) -> bool {
    let [action] = members(answer, ["action"]).unwrap_or_default();
    action.and_then(string).as_deref() == Some("accept")
}
