//! One stateless request on its way through a session: answered, or stopped by a question of the server, which becomes an
//! input-required result; the call then waits for the retry that brings the answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::group::{Group, Lease, Seat, take};
use super::questions::{Needs, Question};
use super::results::error_for_modern;
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
    /// Params for the child, as JSON text.
    pub(super) params: String,
    /// Answers that came with the request, as JSON text.
    pub(super) responses: Option<String>,
    pub(super) log_level: Option<String>,
    /// To whom a request state belongs.
    pub(super) bound_to: String,
    pub(super) stream: Arc<Stream>,
}

impl Job {
    /// Answers with a result, as JSON text.
    pub(super) fn finish(&self, result: &str) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, self.id);
        self.stream.push(Bytes::from(text).into(), true);
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
    consumer: Consumer,
    /// Its id in the session.
    number: u64,
    is_done: bool,
    /// Questions that the client has been asked, under their names.
    pub(super) asked: Vec<(String, Question)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lease.seat.calls.fetch_sub(1, Ordering::AcqRel);
        if self.is_done {
            return;
        }
        let (seat, number) = (Arc::clone(&self.lease.seat), self.number);
        let asked = std::mem::take(&mut self.asked);
        tokio::spawn(async move {
            seat.notify(&format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the client has gone"}}}}"#
            ))
            .await;
            for (_, question) in asked {
                seat.respond(&question.refusal(-32000, "The client has gone.")).await;
            }
        });
    }
}

/// How far a call came.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is answered: the client has the answer.
    Done,
    /// The client has to be asked what stands in `asked`.
    Asks,
    /// The client has to do this first, and then to call again: elicitations by name, as JSON text.
    Again(Vec<(String, String)>),
}

/// Sends a request into a session.
pub(super) async fn start(lease: Lease, group: Arc<Group>, number: u64, job: &Job) -> Running {
    let session = Arc::clone(&lease.seat.session);
    let stream = session.post_stream(1);
    let consumer = stream.connect();
    lease.seat.calls.fetch_add(1, Ordering::AcqRel);
    let running = Running { lease, group, consumer, number, is_done: false, asked: Vec::new() };
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":{number},"method":{},"params":{}}}"#,
        Value::from(job.method.as_str()),
        job.params
    );
    if let Ok(message) = parse_line(text.as_bytes())
        && let Kind::Request { id, .. } = message.kind.clone()
    {
        session.request(&message, id, &stream).await;
    }
    running
}

/// Follows a call until it is answered or asks something that is not known.
pub(super) async fn follow(running: &mut Running, job: &Job, is_exclusive: bool) -> Outcome {
    let seat = Arc::clone(&running.lease.seat);
    let mut quiet_until: Option<Instant> = None;
    loop {
        match running.consumer.next() {
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
        if is_exclusive && let Some(question) = seat.question() {
            if let Some(outcome) = put(running, job, question).await {
                return outcome;
            }
            if !running.asked.is_empty() {
                quiet_until = Some(Instant::now() + GATHER);
            }
            continue;
        }
        let stream = Arc::clone(running.consumer.stream());
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
            Some(answer(running, job, message, *is_error))
        }
        Kind::Notification { method } if method == "notifications/progress" => {
            job.stream.push(Bytes::copy_from_slice(message.text.as_bytes()).into(), false);
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

fn answer(running: &Running, job: &Job, message: &Message<'_>, is_error: bool) -> Outcome {
    if let (false, Some(result)) = (is_error, &message.result) {
        job.finish(&running.lease.seat.greeting.complete(&job.method, message.at(result)));
        return Outcome::Done;
    }
    let error = members(message.text, ["error"]).ok().and_then(|[error]| error).unwrap_or("{}");
    if let Some(elicitations) = url_elicitations(error) {
        let can_visit = running.group.capabilities.pointer("/elicitation/url").is_some();
        return if can_visit {
            Outcome::Again(elicitations)
        } else {
            lacks(job, r#"{"elicitation":{"url":{}}}"#)
        };
    }
    let error = error_for_modern(&job.method, error);
    let text = format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, job.id);
    job.stream.push(Bytes::from(text).into(), true);
    Outcome::Done
}

/// The pages that a client has to visit before it calls again.
fn url_elicitations(error: &str) -> Option<Vec<(String, String)>> {
    let error: Value = serde_json::from_str(error).ok()?;
    if error.get("code")?.as_i64()? != URL_ELICITATION {
        return None;
    }
    let all = error.pointer("/data/elicitations")?.as_array()?;
    let entry = |(index, params): (usize, &Value)| {
        let entry = serde_json::json!({ "method": "elicitation/create", "params": params });
        (format!("elicitation_{}", index + 1), entry.to_string())
    };
    Some(all.iter().enumerate().map(entry).collect::<Vec<_>>()).filter(|all| !all.is_empty())
}

/// Answers a question from what came with the request, or notes it for the client.
async fn put(running: &mut Running, job: &Job, question: Question) -> Option<Outcome> {
    let seat = Arc::clone(&running.lease.seat);
    if let Needs::Capability(needed) = question.needs(&running.group.capabilities) {
        seat.respond(&question.lacking()).await;
        return Some(lacks(job, &needed));
    }
    let key = question.key(|key| running.asked.iter().any(|(known, _)| known == key));
    let given = job.responses.as_deref().and_then(Members::parse);
    let given = given.as_ref().and_then(|given| given.get(&key)).filter(|answer| question.takes(answer));
    match given {
        Some(answer) => seat.respond(&question.response(answer)).await,
        None => running.asked.push((key, question)),
    }
    None
}

/// Hands the client's answers to the child; what is not answered stays asked.
pub(super) async fn resume(running: &mut Running, responses: &Members<'_>) {
    let seat = Arc::clone(&running.lease.seat);
    let mut open = Vec::new();
    for (key, question) in std::mem::take(&mut running.asked) {
        match responses.get(&key).filter(|answer| question.takes(answer)) {
            Some(answer) => seat.respond(&question.response(answer)).await,
            None => open.push((key, question)),
        }
    }
    running.asked = open;
}

/// Asks the child something ourselves, within a session; the result as JSON text.
pub(super) async fn ask(
    group: &Group,
    seat: &Seat,
    number: u64,
    method: &str,
    params: &str,
) -> Result<String, String> {
    let text = format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{params}}}"#);
    let message = parse_line(text.as_bytes()).map_err(|error| error.to_string())?;
    let Kind::Request { id, .. } = message.kind.clone() else {
        return Err("no request".to_owned());
    };
    let stream = seat.session.post_stream(1);
    let consumer = stream.connect();
    seat.session.request(&message, id, &stream).await;
    loop {
        match consumer.next() {
            Next::Event(_, text) => {
                let text = text.into_bytes();
                let Ok(message) = parse_line(&text) else { continue };
                match (&message.kind, &message.result) {
                    (Kind::Response { .. }, Some(result)) => return Ok(message.at(result).to_owned()),
                    (Kind::Response { .. }, None) => {
                        return Err(format!("The MCP server refused {method}."));
                    }
                    _ => take(group, seat, &message).await,
                }
            }
            Next::End => return Err("The MCP server's session has ended.".to_owned()),
            Next::Wait => stream.changed().await,
        }
    }
}
