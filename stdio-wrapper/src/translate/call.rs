//! One stateless request on its way through a session: answered, or stopped by a question of the server, which becomes an
//! input-required result; the call then waits for the retry that brings the answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::asked::{Asked, Endless};
use super::given_up::GivenUp;
use super::group::{Group, Lease, Prompt, Seat, take};
use super::questions::{Needs, Question};
use super::results::{LEVELS, error_for_modern, params_for_legacy};
use crate::budget::{Budget, TOO_MANY_ANSWERS};
use crate::modern::Request;
use crate::policy::Permit;
use crate::protocol::{Code, Kind, Members, Message, error_with_data, members, parse_line};
use crate::stream::{Consumer, Next, Stream};

/// A server that asks several things at once does so within this time.
const GATHER: Duration = Duration::from_millis(40);
/// URL elicitation as an error (2025-11-25, "URL Mode Elicitation").
const URL_ELICITATION: i64 = -32042;

/// What a client wants.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) method: String,
    /// The client's id, as JSON text.
    pub(super) id: String,
    /// The `uri` in its params, as JSON text, if an answer may have to name it.
    uri: Option<String>,
    pub(super) log_level: Option<String>,
    /// The client's progress token of this round, as JSON text.
    pub(super) progress_token: Option<String>,
    /// To whom a request state belongs.
    pub(super) bound_to: String,
    pub(super) stream: Arc<Stream>,
    /// Memory for answers that wait for their readers.
    answers: Arc<Budget>,
    /// The principal.
    owner: String,
}

impl Job {
    /// Of a request. `bound_to` says what a request state of this call is good for.
    pub(super) fn of(
        request: &Request<'_>,
        bound_to: String,
        stream: &Arc<Stream>,
        answers: &Arc<Budget>,
        owner: &str,
    ) -> Self {
        let token = request.meta.progress_token.as_ref();
        let level = request.meta.log_level.as_deref().filter(|level| LEVELS.contains(level));
        Self {
            method: request.method.clone().into_owned(),
            id: request.id_text().to_owned(),
            uri: uri(request),
            // A level that does not exist says nothing, and is not kept.
            log_level: level.map(str::to_owned),
            progress_token: token.map(|token| request.message.at(token).to_owned()),
            bound_to,
            stream: Arc::clone(stream),
            answers: Arc::clone(answers),
            owner: owner.to_owned(),
        }
    }

    /// Answers with a result, as JSON text.
    pub(super) fn finish(&self, result: &str) {
        self.answer(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, self.id));
    }

    fn answer(&self, text: String) {
        match self.answers.count(&self.owner, Bytes::from(text).into()) {
            Some(text) => self.stream.push(text, true),
            None => self.fail(Code::Refused, TOO_MANY_ANSWERS, None),
        }
    }

    /// Answers with an error of ours.
    pub(super) fn fail(&self, code: Code, why: &str, data: Option<&str>) {
        let text = error_with_data(Some(self.id.as_bytes()), code, why, data);
        self.stream.push(text.into(), true);
    }
}

/// A call that its child works on. Dropping it cancels it there.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) lease: Lease,
    pub(super) group: Arc<Group>,
    /// There until the call is dropped.
    consumer: Option<Consumer>,
    /// Its id in the session.
    number: u64,
    is_done: bool,
    pub(super) asked: Asked,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lease.seat.calls.fetch_sub(1, Ordering::AcqRel);
        let open = self.asked.take_open();
        let Some(consumer) = self.consumer.take().filter(|_| !self.is_done) else {
            let seat = Arc::clone(&self.lease.seat);
            if !open.is_empty() {
                tokio::spawn(async move { seat.refuse(open).await });
            }
            return;
        };
        let given_up = GivenUp::new(&self.lease, &self.group, self.number);
        tokio::spawn(given_up.follow(open, consumer));
    }
}

impl Running {
    /// The principal whose call it is.
    pub(super) fn owner(&self) -> &str {
        &self.lease.seat.session.owner
    }
}

/// How far a call came.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is answered: the client has the answer.
    Done,
    /// The client has to be asked what is open in `asked`.
    Asks,
    /// The client has to visit the pages that are open in `asked`, and then to call again.
    Again,
}

/// The `uri` of a resource that is read.
fn uri(request: &Request<'_>) -> Option<String> {
    let params = request.message.params_text().filter(|_| request.method == "resources/read")?;
    let [uri] = members(params, ["uri"]).ok()?;
    uri.map(str::to_owned)
}

/// Sends a request into a session; `params` are JSON text for the child. It returns when the child has the request.
pub(super) async fn start(
    lease: Lease,
    group: Arc<Group>,
    (number, params): (u64, &str),
    job: &Job,
    permit: &Permit<'_>,
    asked: Asked,
) -> Running {
    let session = Arc::clone(&lease.seat.session);
    let stream = session.post_stream(1);
    let consumer = stream.connect();
    lease.seat.calls.fetch_add(1, Ordering::AcqRel);
    let running = Running { lease, group, consumer: Some(consumer), number, is_done: false, asked };
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":{number},"method":{},"params":{}}}"#,
        Value::from(job.method.as_str()),
        params_for_legacy(params)
    );
    if let Ok(message) = parse_line(text.as_bytes())
        && let Kind::Request { id, .. } = message.kind.clone()
    {
        session.request(&message, id, &stream, permit).await;
    }
    running
}

/// Follows a call until it is answered or asks something that is not known.
pub(super) async fn follow(running: &mut Running, job: &Job, is_exclusive: bool) -> Outcome {
    let seat = Arc::clone(&running.lease.seat);
    let Some(stream) = running.consumer.as_ref().map(|consumer| Arc::clone(consumer.stream())) else {
        return Outcome::Done;
    };
    let mut quiet_until: Option<Instant> = None;
    loop {
        if is_exclusive && let Some(prompt) = seat.prompt() {
            match prompt {
                Prompt::Ask(question) => {
                    if let Some(outcome) = put(running, job, &question).await {
                        return outcome;
                    }
                }
                Prompt::Withdraw(id) => running.asked.withdraw(&id),
            }
            quiet_until = (!running.asked.is_settled()).then(|| Instant::now() + GATHER);
            continue;
        }
        match running.consumer.as_ref().map_or(Next::End, Consumer::next) {
            Next::Event(_, text) => {
                let text = text.into_bytes();
                if let Ok(message) = parse_line(&text)
                    && let Some(outcome) = event(running, job, &message).await
                {
                    return outcome;
                }
                continue;
            }
            Next::End => {
                running.is_done = true;
                job.fail(Code::InternalError, "The MCP server's session has ended.", None);
                return Outcome::Done;
            }
            Next::Wait => {}
        }
        let quiet = async {
            match quiet_until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stream.changed() => {}
            () = seat.asked.notified(), if is_exclusive => {}
            () = quiet => return Outcome::Asks,
        }
    }
}

async fn event(running: &mut Running, job: &Job, message: &Message<'_>) -> Option<Outcome> {
    match &message.kind {
        Kind::Response { is_error, .. } => {
            running.is_done = true;
            Some(answer(running, job, message, *is_error).await)
        }
        Kind::Notification { method } if method == "notifications/progress" => {
            if let Some(text) = progress(message, job.progress_token.as_deref()) {
                job.stream.tell(Bytes::from(text).into());
            }
            None
        }
        Kind::Request { method, id } => {
            let question = Question::of(message, method, message.at(id));
            let seat = Arc::clone(&running.lease.seat);
            let Needs::Capability(needed) = question.needs(&running.group.capabilities) else {
                take(&running.group, &seat, message).await;
                return None;
            };
            seat.respond(&question.lacking()).await;
            // With several calls it is not certain whose question it was; then the server's own answer has to do.
            if seat.calls.load(Ordering::Acquire) > 1 {
                return None;
            }
            Some(lacks(job, &needed))
        }
        Kind::Notification { .. } => {
            take(&running.group, &running.lease.seat, message).await;
            None
        }
    }
}

/// The client did not declare what the server needs. The call is dropped unanswered, so that the child hears that nobody
/// waits.
fn lacks(job: &Job, needed: &str) -> Outcome {
    let data = format!(r#"{{"requiredCapabilities":{needed}}}"#);
    let why = "The server needs a capability that the client did not declare.";
    job.fail(Code::MissingCapability, why, Some(&data));
    Outcome::Done
}

async fn answer(running: &mut Running, job: &Job, message: &Message<'_>, is_error: bool) -> Outcome {
    if let (false, Some(result)) = (is_error, &message.result) {
        job.finish(&running.lease.seat.greeting.complete(&job.method, message.at(result)));
        return Outcome::Done;
    }
    let error = members(message.text, ["error"]).ok().and_then(|[error]| error).unwrap_or("{}");
    let pages = pages(error);
    if !pages.is_empty() {
        if running.group.capabilities.pointer("/elicitation/url").is_none() {
            return lacks(job, r#"{"elicitation":{"url":{}}}"#);
        }
        running.lease.seat.refuse(running.asked.take_open()).await;
        let noted: Result<(), Endless> = pages.iter().try_for_each(|page| running.asked.ask(page));
        return noted.map_or_else(|endless| endlessly(job, endless), |()| Outcome::Again);
    }
    let error = error_for_modern(&job.method, job.uri.as_deref(), error);
    job.answer(format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, job.id));
    Outcome::Done
}

/// The pages that a client has to visit before it calls again.
fn pages(error: &str) -> Vec<Question> {
    let error: Value = serde_json::from_str(error).unwrap_or_default();
    if error.get("code").and_then(Value::as_i64) != Some(URL_ELICITATION) {
        return Vec::new();
    }
    let all = error.pointer("/data/elicitations").and_then(Value::as_array);
    all.into_iter().flatten().map(Question::page).collect()
}

/// A child that asks without end is given up; dropping the call tells it.
pub(super) fn endlessly(job: &Job, endless: Endless) -> Outcome {
    job.fail(Code::InternalError, &endless.to_string(), None);
    Outcome::Done
}

/// Progress under the token of this round: each retry is a request of its own, with a token of its own. `None`: the client
/// wants no progress in this round.
fn progress(message: &Message<'_>, token: Option<&str>) -> Option<String> {
    let mut params = Members::parse(message.params_text()?)?;
    params.set("progressToken", token?);
    Some(format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}"#))
}

/// Notes a question for the client.
async fn put(running: &mut Running, job: &Job, question: &Question) -> Option<Outcome> {
    let seat = Arc::clone(&running.lease.seat);
    if let Needs::Capability(needed) = question.needs(&running.group.capabilities) {
        seat.respond(&question.lacking()).await;
        return Some(lacks(job, &needed));
    }
    let endless = running.asked.ask(question).err()?;
    seat.respond(&question.refusal(-32000, &endless.to_string())).await;
    Some(endlessly(job, endless))
}

/// Hands the client's answers to the child; what is not answered stays open.
pub(super) async fn resume(running: &mut Running, given: &Members<'_>) {
    for (question, answer) in running.asked.answer(given) {
        running.lease.seat.respond(&question.response(&answer)).await;
    }
}

/// Asks the child what there is leave to ask, within a session; the result as JSON text.
pub(super) async fn ask(
    group: &Group,
    seat: &Seat,
    number: u64,
    permit: &Permit<'_>,
    params: &str,
) -> Result<String, String> {
    send(seat, number, permit, params).await?.answer(group, seat).await
}

/// A request of ours that the child has.
pub(super) struct Sent {
    method: String,
    consumer: Consumer,
}

/// Sends a request of ours; who calls this later is heard later by the child.
pub(super) async fn send(
    seat: &Seat,
    number: u64,
    permit: &Permit<'_>,
    params: &str,
) -> Result<Sent, String> {
    let method = permit.method();
    let text =
        format!(r#"{{"jsonrpc":"2.0","id":{number},"method":{},"params":{params}}}"#, Value::from(method));
    let message = parse_line(text.as_bytes()).map_err(|error| error.to_string())?;
    let Kind::Request { id, .. } = message.kind.clone() else {
        return Err("no request".to_owned());
    };
    let stream = seat.session.post_stream(1);
    let consumer = stream.connect();
    seat.session.request(&message, id, &stream, permit).await;
    Ok(Sent { method: method.to_owned(), consumer })
}

impl Sent {
    /// Waits for the result, as JSON text.
    pub(super) async fn answer(self, group: &Group, seat: &Seat) -> Result<String, String> {
        loop {
            match self.consumer.next() {
                Next::Event(_, text) => {
                    let text = text.into_bytes();
                    let Ok(message) = parse_line(&text) else { continue };
                    match (&message.kind, &message.result) {
                        (Kind::Response { .. }, Some(result)) => return Ok(message.at(result).to_owned()),
                        (Kind::Response { .. }, None) => {
                            return Err(format!("The MCP server refused {}.", self.method));
                        }
                        _ => take(group, seat, &message).await,
                    }
                }
                Next::End => return Err("The MCP server's session has ended.".to_owned()),
                Next::Wait => self.consumer.stream().changed().await,
            }
        }
    }
}
