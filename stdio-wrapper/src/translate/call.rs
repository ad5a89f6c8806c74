//! A stateless request that is sent through a session. The server either responds or asks a question. If it
//! asks, the client gets an input-required result, and the call waits until the client retries it with an
//! answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytestring::ByteString;
use tokio::time::Instant;

use super::call_questions::{CallQuestions, Endless, MAX_QUESTIONS};
use super::given_up::GivenUp;
use super::group::{Group, Lease, PooledSession, Prompt, take};
use super::questions::{Needs, Question, is_url, lacking, needs};
use super::results::{LEVELS, MAX_URI, error_for_modern, params_for_legacy};
use crate::budget::{Budget, TOO_MANY_ANSWERS};
use crate::conversation::{parsed, rewritten};
use crate::modern::Request;
use crate::policy::Permit;
use crate::protocol::{
    Code, Kind, Members, Message, Outgoing, Parts, Patch, elements, error_with_data, members, object,
    parse_line, parse_owned, peek_progress,
};
use crate::stream::{Consumer, Next, Stream};

/// Questions that a server asks within this time are sent to the client together.
const GATHER: Duration = Duration::from_millis(40);
/// The error code of a server that requires the user to visit a page (2025-11-25, "URL Mode Elicitation").
const URL_ELICITATION: i64 = -32042;

/// A request from a client.
#[derive(Debug)]
pub(super) struct ClientRequest {
    pub(super) method: String,
    /// The client's id, as JSON text.
    pub(super) id: String,
    /// The `uri` in its params, as JSON text, if an error response might need it.
    uri: Option<String>,
    pub(super) log_level: Option<String>,
    /// The client's progress token for this round, as JSON text.
    pub(super) progress_token: Option<String>,
    /// The data to which a request state of this call is bound.
    pub(super) bound_to: String,
    pub(super) stream: Arc<Stream>,
    /// Memory for responses that clients have not read yet.
    answers: Arc<Budget>,
    /// Maximum total size of the call's unanswered questions, in bytes.
    max_asked: usize,
    /// The principal towards whose limits memory and sessions are counted.
    owner: String,
}

impl ClientRequest {
    /// Creates a client request from an HTTP request. A request state of this call will be bound to `bound_to`.
    pub(super) fn of(
        request: &Request<'_>,
        bound_to: String,
        stream: &Arc<Stream>,
        answers: &Arc<Budget>,
        max_asked: usize,
        owner: &str,
    ) -> Self {
        let token = request.meta.progress_token.as_ref();
        let level = request.meta.log_level.as_deref().filter(|level| LEVELS.contains(level));
        Self {
            method: request.method.clone().into_owned(),
            id: request.id_text().to_owned(),
            uri: uri(request),
            // An unknown level is ignored.
            log_level: level.map(str::to_owned),
            progress_token: token.map(|token| request.message.at(token).to_owned()),
            bound_to,
            stream: Arc::clone(stream),
            answers: Arc::clone(answers),
            max_asked,
            owner: owner.to_owned(),
        }
    }

    /// Sends a result, which is JSON text, to the client. If there is no memory for it, sends an error instead
    /// and returns false.
    pub(super) fn finish(&self, result: &str) -> bool {
        self.answer(&Outgoing::Result { id: &self.id, result })
    }

    fn answer(&self, message: &Outgoing<'_>) -> bool {
        let counted = self.answers.count(&self.owner, message.bytes().into());
        let is_counted = counted.is_some();
        match counted {
            Some(text) => self.stream.push(text, true),
            None => self.fail(Code::Refused, TOO_MANY_ANSWERS, None),
        }
        is_counted
    }

    /// Responds to the client with an error from the wrapper.
    pub(super) fn fail(&self, code: Code, why: &str, data: Option<&str>) {
        let text = error_with_data(Some(self.id.as_bytes()), code, why, data);
        self.stream.push(text.into(), true);
    }
}

/// A call that its child is processing. Dropping it cancels the call in the child.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) lease: Lease,
    pub(super) group: Arc<Group>,
    /// Set until the call is dropped.
    consumer: Option<Consumer>,
    /// The id of the call in the session.
    number: u64,
    is_done: bool,
    pub(super) asked: CallQuestions,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lease.pooled.calls.fetch_sub(1, Ordering::AcqRel);
        let open = self.asked.take_open();
        let Some(consumer) = self.consumer.take().filter(|_| !self.is_done) else {
            let pooled = Arc::clone(&self.lease.pooled);
            if !open.is_empty() {
                tokio::spawn(async move { pooled.refuse(open).await });
            }
            return;
        };
        let given_up = GivenUp::new(&self.lease, &self.group, self.number);
        tokio::spawn(given_up.follow(open, consumer));
    }
}

impl Running {
    /// The principal who made the call.
    pub(super) fn owner(&self) -> &str {
        &self.lease.pooled.session.owner
    }
}

/// How a call continues.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The client has received its response.
    Done,
    /// The client must answer the open questions in `asked`.
    Asks,
    /// The client must visit the open pages in `asked` and then repeat the call.
    Again,
}

/// The `uri` in a request to read a resource.
fn uri(request: &Request<'_>) -> Option<String> {
    let params = request.message.params_text().filter(|_| request.method == "resources/read")?;
    let [uri] = members(params, ["uri"]).ok()?;
    uri.filter(|uri| uri.len() <= MAX_URI).map(str::to_owned)
}

/// Sends a request into a session. `params` is JSON text for the child. Returns when the child has received the
/// request.
pub(super) async fn start(
    lease: Lease,
    group: Arc<Group>,
    (number, params): (u64, ByteString),
    client_request: &ClientRequest,
    permit: &Permit<'_>,
    asked: CallQuestions,
) -> Running {
    let session = Arc::clone(&lease.pooled.session);
    let stream = session.post_stream(1);
    let consumer = stream.connect();
    lease.pooled.calls.fetch_add(1, Ordering::AcqRel);
    let running = Running { lease, group, consumer: Some(consumer), number, is_done: false, asked };
    let (method, length) = (client_request.method.clone(), params.len());
    let convert = move || legacy_request(number, &method, params);
    let converted = running.group.offload.run_if_large(&client_request.owner, length, convert).await;
    if let Some((text, parts)) = converted.flatten() {
        let message = parts.of(&text);
        if let Kind::Request { id, .. } = message.kind.clone() {
            session.request(&message, id, &stream, permit).await;
        }
    }
    running
}

/// A request with these params, which are JSON text, in the format for a child with a session.
fn legacy_request(number: u64, method: &str, params: ByteString) -> Option<(ByteString, Parts)> {
    let converted = params_for_legacy(&params);
    drop(params);
    let text = Outgoing::Request { id: &number.to_string(), method, params: &converted }.bytes();
    parse_owned(&text).ok()
}

/// Follows a call until it gets a response, or asks a question that the client must answer.
pub(super) async fn follow(
    running: &mut Running,
    client_request: &ClientRequest,
    is_exclusive: bool,
) -> Outcome {
    let pooled = Arc::clone(&running.lease.pooled);
    let Some(stream) = running.consumer.as_ref().map(|consumer| Arc::clone(consumer.stream())) else {
        return Outcome::Done;
    };
    let mut quiet_until: Option<Instant> = None;
    loop {
        if is_exclusive && let Some(prompt) = pooled.prompt() {
            match prompt {
                Prompt::Ask(question) => {
                    if let Some(outcome) = put(running, client_request, &question).await {
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
                if let Some(parsed) = parsed(&running.group.offload, &pooled.session.owner, text).await
                    && let Some(outcome) = event(running, client_request, parsed).await
                {
                    return outcome;
                }
                continue;
            }
            Next::End => {
                running.is_done = true;
                client_request.fail(Code::InternalError, "The MCP server's session has ended.", None);
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
            () = pooled.asked.notified(), if is_exclusive => {}
            () = quiet => return Outcome::Asks,
        }
    }
}

async fn event(
    running: &mut Running,
    client_request: &ClientRequest,
    (text, parts): (ByteString, Parts),
) -> Option<Outcome> {
    let message = &parts.clone().of(&text);
    match &message.kind {
        Kind::Response { is_error, .. } => {
            running.is_done = true;
            Some(answer(running, client_request, &text, message, *is_error).await)
        }
        Kind::Notification { method } if method == "notifications/progress" => {
            progress(running, client_request, message).await;
            None
        }
        Kind::Request { method, id } => {
            let pooled = Arc::clone(&running.lease.pooled);
            let needs = needs(method, is_url(message), &running.group.capabilities);
            let Needs::Capability(needed) = needs else {
                take(&running.group, &pooled, (text.clone(), parts)).await;
                return None;
            };
            pooled.respond(&lacking(message.at(id))).await;
            // If several calls are running, it is uncertain which one the question belongs to. In that case,
            // the client gets the server's own response.
            if pooled.calls.load(Ordering::Acquire) > 1 {
                return None;
            }
            Some(lacks(client_request, &needed))
        }
        Kind::Notification { .. } => {
            take(&running.group, &running.lease.pooled, (text.clone(), parts)).await;
            None
        }
    }
}

/// Fails a call because the client did not declare a capability that the server needs. Dropping the call
/// afterwards cancels it in the child.
fn lacks(client_request: &ClientRequest, needed: &str) -> Outcome {
    let mut data = Members::default();
    data.set("requiredCapabilities", needed);
    let why = format!("The server needs a capability that the client did not declare: {needed}");
    client_request.fail(Code::MissingCapability, &why, Some(&data.to_string()));
    Outcome::Done
}

async fn answer(
    running: &mut Running,
    client_request: &ClientRequest,
    text: &ByteString,
    message: &Message<'_>,
    is_error: bool,
) -> Outcome {
    if let (false, Some(result)) = (is_error, &message.result) {
        let result = text.slice_ref(message.at(result));
        let (owner, length) = (&client_request.owner, result.len());
        let (greeting, method) = (running.lease.pooled.greeting.clone(), client_request.method.clone());
        let complete = move || greeting.complete(&method, &result);
        match running.group.offload.run_if_large(owner, length, complete).await {
            Some(result) => {
                client_request.finish(&result);
            }
            None => client_request.fail(Code::InternalError, "The result cannot be read.", None),
        }
        return Outcome::Done;
    }
    let none = ByteString::from_static("{}");
    let error = message.error.as_ref().map_or(none, |error| text.slice_ref(message.at(error)));
    let (owner, length) = (&client_request.owner, error.len());
    let (method, uri) = (client_request.method.clone(), client_request.uri.clone());
    let read = move || read_error(&error, &method, uri.as_deref());
    let Some((pages, error)) = running.group.offload.run_if_large(owner, length, read).await else {
        client_request.fail(Code::InternalError, "The error cannot be read.", None);
        return Outcome::Done;
    };
    if !pages.is_empty() {
        if running.group.capabilities.pointer("/elicitation/url").is_none() {
            return lacks(client_request, r#"{"elicitation":{"url":{}}}"#);
        }
        running.lease.pooled.refuse(running.asked.take_open()).await;
        let reservation = running.lease.pooled.session.reservation();
        let noted: Result<(), Endless> = pages.iter().try_for_each(|page| {
            let page = Question::page(page, reservation).ok_or(Endless::Memory)?;
            running.asked.ask(&page, client_request.max_asked)
        });
        return noted.map_or_else(|endless| endlessly(client_request, endless), |()| Outcome::Again);
    }
    client_request.answer(&Outgoing::Error { id: &client_request.id, error: &error });
    Outcome::Done
}

/// Reads an error from the child, which is JSON text. Returns the pages that the user must visit or, if there are none,
/// the error in the format for a stateless client.
fn read_error(error: &ByteString, method: &str, uri: Option<&str>) -> (Vec<ByteString>, String) {
    let pages: Vec<ByteString> = pages(error).into_iter().map(|page| error.slice_ref(page)).collect();
    let error = if pages.is_empty() { error_for_modern(method, uri, error) } else { String::new() };
    (pages, error)
}

/// The pages that the user must visit before the client repeats the call.
fn pages(error: &str) -> Vec<&str> {
    let [code, data] = members(error, ["code", "data"]).unwrap_or_default();
    if code.and_then(|code| code.parse::<i64>().ok()) != Some(URL_ELICITATION) {
        return Vec::new();
    }
    let found = object(data).and_then(|data| members(data, ["elicitations"]).ok());
    found.and_then(|[all]| all).map(|all| elements(all, MAX_QUESTIONS + 1)).unwrap_or_default()
}

/// Fails a call whose child asks too many questions. Dropping the call afterwards cancels it in the child.
pub(super) fn endlessly(client_request: &ClientRequest, endless: Endless) -> Outcome {
    client_request.fail(Code::InternalError, &endless.to_string(), None);
    Outcome::Done
}

/// Sends a progress notification with the token of this round, because each retry is a separate request with its own
/// token. Nothing is sent if the client wants no progress in this round.
async fn progress(running: &Running, client_request: &ClientRequest, message: &Message<'_>) {
    let span = peek_progress(message).ok().flatten();
    let (Some(span), Some(token)) = (span, client_request.progress_token.as_deref()) else { return };
    let (offload, patches) = (&running.group.offload, &mut [Patch { span, with: token.as_bytes() }]);
    if let Some(text) = rewritten(offload, &client_request.owner, message, patches).await {
        client_request.stream.tell(text.into());
    }
}

/// Adds a question for the client. Returns an outcome if the question ends the call.
async fn put(running: &mut Running, client_request: &ClientRequest, question: &Question) -> Option<Outcome> {
    let pooled = Arc::clone(&running.lease.pooled);
    if let Needs::Capability(needed) = question.needs(&running.group.capabilities) {
        pooled.respond(&question.lacking()).await;
        return Some(lacks(client_request, &needed));
    }
    let endless = running.asked.ask(question, client_request.max_asked).err()?;
    pooled.respond(&question.refusal(-32000, &endless.to_string())).await;
    Some(endlessly(client_request, endless))
}

/// Passes the client's answers to the child. Questions without an answer stay open.
pub(super) async fn resume(running: &mut Running, given: &Members<'_>) {
    for (question, answer) in running.asked.answer(given) {
        running.lease.pooled.respond(&question.response(answer)).await;
    }
}

/// Sends one of the wrapper's own permitted requests in a session. Returns the result as JSON text.
pub(super) async fn ask(
    group: &Group,
    pooled: &PooledSession,
    number: u64,
    permit: &Permit<'_>,
    params: &str,
) -> Result<String, String> {
    send(pooled, number, permit, params).await?.answer(group, pooled).await
}

/// One of the wrapper's own requests that has been sent to the child.
pub(super) struct SentRequest {
    method: String,
    consumer: Consumer,
}

/// Sends one of the wrapper's own requests. The child receives these requests in the order of the calls to this
/// function.
pub(super) async fn send(
    pooled: &PooledSession,
    number: u64,
    permit: &Permit<'_>,
    params: &str,
) -> Result<SentRequest, String> {
    let method = permit.method();
    let text = Outgoing::Request { id: &number.to_string(), method, params }.text();
    let message = parse_line(text.as_bytes()).map_err(|error| error.to_string())?;
    let Kind::Request { id, .. } = message.kind.clone() else {
        return Err("no request".to_owned());
    };
    let stream = pooled.session.post_stream(1);
    let consumer = stream.connect();
    pooled.session.request(&message, id, &stream, permit).await;
    Ok(SentRequest { method: method.to_owned(), consumer })
}

impl SentRequest {
    /// Waits for the result, and returns it as JSON text.
    pub(super) async fn answer(self, group: &Group, pooled: &PooledSession) -> Result<String, String> {
        loop {
            match self.consumer.next() {
                Next::Event(_, text) => {
                    let owner = &pooled.session.owner;
                    let Some((text, parts)) = parsed(&group.offload, owner, text).await else { continue };
                    if !parts.is_response() {
                        take(group, pooled, (text, parts)).await;
                        continue;
                    }
                    let message = parts.of(&text);
                    let refused = || format!("The MCP server refused {}.", self.method);
                    return message.result.as_ref().map(|it| message.at(it).to_owned()).ok_or_else(refused);
                }
                Next::End => return Err("The MCP server's session has ended.".to_owned()),
                Next::Wait => self.consumer.stream().changed().await,
            }
        }
    }
}
