//! A server with sessions, as a stateless one.

mod listen;
mod opening;
mod tools;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::call::{self, Job, Outcome, Running};
use super::group::{Group, GroupKey, Lease, Seat};
use super::questions::responses;
use super::results::{capabilities, params_for_legacy};
use super::seal::{Sealer, State};
use crate::child::Placeholders;
use crate::legacy::{OpenError, Random, Sessions};
use crate::modern::{Fault, Fields, Request};
use crate::protocol::{Code, Members, members, string};
use crate::stream::Stream;

/// Requests that a server may answer with questions (2026-07-28, "Multi Round-Trip Requests").
const MAY_ASK: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];
/// Time between two rounds of clearing.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds of one call.
const MAX_ROUNDS: u32 = 64;

/// Times.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a call waits for its client's answer.
    pub input_timeout: Duration,
    /// How long a request waits for a free session.
    pub request_timeout: Duration,
    /// Life of unused sessions.
    pub idle: Duration,
}

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No session.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Params that make no sense.
    #[error("{0}")]
    Params(String),
    /// Header and body disagree.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Nothing that this server can be asked through the translation.
    #[error("{0} cannot be translated for a server of an earlier revision.")]
    Method(String),
    /// The server did not behave.
    #[error("{0}")]
    Child(String),
}

/// The translation for stateless clients.
pub struct Facade {
    settings: Settings,
    sessions: Arc<Sessions>,
    sealer: Sealer,
    groups: Mutex<HashMap<GroupKey, Arc<Group>>>,
    waiting: Mutex<HashMap<u64, Waiting>>,
    next: AtomicU64,
}

/// A call that waits for its client.
struct Waiting {
    running: Running,
    round: u32,
    expires: Instant,
}

/// Stands for the client's interest in a request; dropping it gives the request up.
pub struct Interest(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Interest {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl Facade {
    /// Nothing is open yet.
    pub fn new(settings: Settings, sessions: Arc<Sessions>, random: Random) -> Arc<Self> {
        Arc::new(Self {
            settings,
            sessions,
            sealer: Sealer::new(random),
            groups: Mutex::default(),
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// Takes a request; whatever becomes of it comes on `stream`.
    pub async fn start(
        self: &Arc<Self>,
        request: &Request<'_>,
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
            capabilities: capabilities(request.meta.capabilities),
            caller: caller.clone(),
        };
        let group =
            Arc::clone(self.groups().entry(key.clone()).or_insert_with_key(|key| Arc::new(Group::new(key))));
        let params = request.message.params_text().unwrap_or("{}");
        let [given, state] = members(params, ["inputResponses", "requestState"])
            .map_err(|error| Refused::Params(error.to_string()))?;
        let bound_to =
            format!("{owner}\n{}\n{}", request.method, request.name.as_deref().unwrap_or_default());
        let job = Job {
            method: request.method.clone().into_owned(),
            id: request.id_text().to_owned(),
            params: params_for_legacy(params),
            responses: given.map(str::to_owned),
            log_level: request.meta.log_level.as_deref().map(str::to_owned),
            bound_to,
            stream: Arc::clone(stream),
        };
        if responses(given).is_none() {
            return Err(Refused::Params("`inputResponses` must be an object.".to_owned()));
        }
        match job.method.as_str() {
            "server/discover" => {
                let lease = self.lease(&group, &key, caller, false).await?;
                job.finish(&lease.seat.greeting.discover());
                return Ok(Interest(None));
            }
            "subscriptions/listen" => return self.listen(&group, &key, caller, job).await,
            _ => {}
        }
        let again = match state.map(|state| self.reopen(state, &job)) {
            None => None,
            Some(Err(refused)) => return Err(refused),
            Some(Ok(state)) => Some(state),
        };
        let found = again.as_ref().and_then(|state| Some((state, state.call?)));
        if let Some((state, number)) = found {
            let waiting = self.waiting().remove(&number).filter(|waiting| waiting.round == state.round);
            let waiting = waiting.ok_or_else(|| {
                Refused::Params("The call of this request state waits no more. Call again.".to_owned())
            })?;
            return Ok(self.spawn(job, Work::Resume(waiting)));
        }
        let is_exclusive = MAY_ASK.contains(&job.method.as_str())
            && (job.log_level.is_some()
                || ["elicitation", "roots", "sampling"]
                    .iter()
                    .any(|name| group.capabilities.get(name).is_some()));
        let lease = self.lease(&group, &key, caller, is_exclusive).await?;
        self.check_params(&group, &lease.seat, request, fields).await?;
        Ok(self.spawn(job, Work::Start { lease, group, is_exclusive }))
    }

    /// What a request state says, if it may be used for this request.
    fn reopen(&self, state: &str, job: &Job) -> Result<State, Refused> {
        let text = string(state).unwrap_or_default();
        let state = self.sealer.open(&text, &job.bound_to).ok_or_else(|| {
            Refused::Params("The request state is not one that was given for this request.".to_owned())
        })?;
        let given = job.responses.as_deref().and_then(Members::parse).unwrap_or_default();
        let is_accepted = |key: &String| {
            let answer: Value =
                given.get(key).and_then(|answer| serde_json::from_str(answer).ok()).unwrap_or_default();
            answer.get("action").and_then(Value::as_str) == Some("accept")
        };
        if state.call.is_none() && !state.keys.iter().all(is_accepted) {
            return Err(Refused::Params(
                "What the server asked for was not done, so it cannot go on.".to_owned(),
            ));
        }
        Ok(state)
    }

    fn spawn(self: &Arc<Self>, job: Job, work: Work) -> Interest {
        let task = tokio::spawn(Arc::clone(self).work(job, work));
        let handle: AbortHandle = task.abort_handle();
        Interest(Some(Box::new(move || handle.abort())))
    }

    async fn work(self: Arc<Self>, job: Job, work: Work) {
        let (mut running, round, is_exclusive) = match work {
            Work::Resume(Waiting { mut running, round, .. }) => {
                let given = job.responses.as_deref().and_then(Members::parse).unwrap_or_default();
                running.lease.seat.log_to(job.log_level.as_deref(), &job.stream);
                call::resume(&mut running, &given).await;
                if !running.asked.is_empty() {
                    return self.suspend(&job, running, round + 1);
                }
                (running, round + 1, true)
            }
            Work::Start { lease, group, is_exclusive } => {
                if is_exclusive {
                    self.set_level(&group, &lease.seat, &job).await;
                }
                let number = self.number();
                (call::start(lease, group, number, &job).await, 1, is_exclusive)
            }
        };
        match call::follow(&mut running, &job, is_exclusive).await {
            Outcome::Done => {}
            Outcome::Asks => self.suspend(&job, running, round),
            Outcome::Again(entries) => {
                let keys = entries.iter().map(|(key, _)| key.clone()).collect();
                self.ask_client(&job, &State { call: None, round, keys }, &entries);
            }
        }
    }

    /// Lets a call wait for its client, and asks the client.
    fn suspend(&self, job: &Job, running: Running, round: u32) {
        if round > MAX_ROUNDS {
            return job.fail(Code::InternalError, "The server asks without end.", None);
        }
        let number = self.number();
        let entries: Vec<(String, String)> =
            running.asked.iter().map(|(key, question)| (key.clone(), question.entry())).collect();
        let expires = Instant::now() + self.settings.input_timeout;
        self.waiting().insert(number, Waiting { running, round, expires });
        self.ask_client(job, &State { call: Some(number), round, keys: Vec::new() }, &entries);
    }

    fn ask_client(&self, job: &Job, state: &State, entries: &[(String, String)]) {
        let Some(sealed) = self.sealer.seal(state, &job.bound_to) else {
            return job.fail(Code::InternalError, "This server has no random numbers.", None);
        };
        let mut requests = Members::default();
        for (key, entry) in entries {
            requests.set(key, entry.as_str());
        }
        job.finish(&format!(
            r#"{{"resultType":"input_required","inputRequests":{requests},"requestState":"{sealed}"}}"#
        ));
    }

    /// Tells the child from which level on it shall log, if the client wants to know and the child can.
    async fn set_level(&self, group: &Arc<Group>, seat: &Arc<Seat>, job: &Job) {
        seat.log_to(job.log_level.as_deref(), &job.stream);
        let Some(level) = job.log_level.as_ref().filter(|_| seat.greeting.has("/logging")) else { return };
        let mut known = seat.level.lock().await;
        if known.as_ref() != Some(level) {
            let params = serde_json::json!({ "level": level }).to_string();
            // A child that refuses logs as it likes; what is below the level is dropped anyway.
            let _ = call::ask(group, seat, self.number(), "logging/setLevel", &params).await;
            *known = Some(level.clone());
        }
    }

    /// Clears away, for ever: calls whose clients do not come back, and sessions that nobody uses.
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
                // Somebody may just be about to use it.
                let is_idle = Arc::strong_count(group) <= 1 + group.seats().len()
                    && group.is_idle(now, self.settings.idle);
                if is_idle {
                    self.end_group(group, "nobody used it");
                }
                !is_idle
            });
        }
    }

    /// Gives up every call that waits.
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

/// What a task does.
enum Work {
    Start { lease: Lease, group: Arc<Group>, is_exclusive: bool },
    Resume(Waiting),
}
