//! POST: messages from the client (2025-11-25, "Sending Messages to the Server").

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

use super::Endpoint;
use super::answer::{self, Form};
use super::disconnect;
use super::guard::{Accepts, RequestHeaders};
use super::incoming::Unread;
use super::permit::{check_initialize, permit};
use super::problem::Problem;
use crate::identity::Caller;
use crate::legacy::{Session, Sessions};
use crate::modern::{self, Era};
use crate::protocol::{
    BadItem, Body, Code, Kind, Message, Span, Unreadable, Version, error_message, peek_call,
};
use crate::stream::{Consumer, Stream};
use crate::turns::Copies;

/// Maximum time for the response to `initialize` before the server is assumed to have sessions.
const GREETING: Duration = Duration::from_secs(15);
/// Handling an item of a batch takes as long as copying this many bytes, in addition to its text.
const PER_ITEM: usize = 16 << 10;

pub(super) async fn handle(
    request: &HttpRequest,
    body: web::Payload,
    endpoint: &Endpoint,
    caller: &Caller,
) -> Result<HttpResponse, Problem> {
    let headers = RequestHeaders::new(request);
    headers.check_content()?;
    headers.check_accept(Accepts::JsonAndEvents)?;
    let body = endpoint.bodies.read(body, caller).await?;
    let messages = match endpoint.bodies.parse(body, caller).await {
        Ok(messages) => messages,
        Err(error) => {
            let session = endpoint.session(request, caller).ok();
            return Err(unread(session.as_deref(), *error).await);
        }
    };
    let reply = match messages.body() {
        Body::Single(message) => match modern::era(&message, headers.version())? {
            Era::Modern => match super::modern::start(request, endpoint, caller, &message).await? {
                Some((started, disconnected)) => Reply::Modern(started, disconnected),
                None => Reply::Done(HttpResponse::Accepted().finish()),
            },
            Era::Legacy => single(request, endpoint, caller, &message).await?,
        },
        Body::Batch(items) => batch(request, endpoint, caller, items).await?,
    };
    // The child has received the message, so its memory can be used for other messages.
    drop(messages);
    Ok(match reply {
        Reply::Modern(started, disconnected) => {
            super::modern::respond(endpoint, caller, started, disconnected).await?
        }
        Reply::Done(response) => response,
        Reply::Wait(session, consumer, form, nameless) => {
            let waited =
                answer::wait(request, endpoint, &session, consumer, form, endpoint.until(caller)).await;
            if let Some(nameless) = nameless.filter(|_| waited.is_read()) {
                nameless.named();
            }
            waited.into_response()
        }
    })
}

/// The state of the response to a POST.
enum Reply {
    Done(HttpResponse),
    /// The response will be sent on its own stream.
    Modern(super::modern::Started, disconnect::Disconnect),
    /// The response will come from the session's child.
    Wait(Arc<Session>, Consumer, Form, Option<Nameless>),
}

/// The error for a body that is not a message, with its id if that is known. If the body was intended as a
/// response to a question, the child gets an error, so that it does not wait.
pub(super) async fn unread(session: Option<&Session>, error: Unread) -> Problem {
    let Unread { problem, meant } = error;
    let Some(meant) = meant else { return problem };
    if let Unreadable::Request(id) = &meant {
        return problem.with_id(&String::from_utf8_lossy(id));
    }
    if let Some(session) = session {
        lost(session, &meant).await;
    }
    problem
}

/// Sends the child an error, because the response to its question cannot be used.
async fn lost(session: &Session, answer: &Unreadable) {
    match answer {
        Unreadable::Response(id) => session.reply_lost(Some(&String::from_utf8_lossy(id))).await,
        Unreadable::NamelessResponse => session.reply_lost(None).await,
        Unreadable::Request(_) => {}
    }
}

async fn single(
    request: &HttpRequest,
    endpoint: &Endpoint,
    caller: &Caller,
    message: &Message<'_>,
) -> Result<Reply, Problem> {
    check_params(message)?;
    if let Kind::Request { method, id } = &message.kind
        && method == "initialize"
    {
        return initialize(request, endpoint, caller, message, id.clone()).await;
    }
    RequestHeaders::new(request).check_version()?;
    let session = endpoint.session(request, caller)?;
    let Kind::Request { method, id } = &message.kind else {
        take(endpoint, caller, &session, message).await?;
        return Ok(Reply::Done(HttpResponse::Accepted().finish()));
    };
    let permit = permit(endpoint, caller, method, message)
        .map_err(|refusal| refusal.into_problem(endpoint, caller, request.query_string(), message.at(id)))?;
    let stream = session.post_stream(1);
    let consumer = stream.connect();
    session.request(message, id.clone(), &stream, &permit).await;
    Ok(Reply::Wait(session, consumer, Form::Single, None))
}

/// Refuses params that the schema forbids in every message, because SDKs silently drop a message that has them.
pub(super) fn check_params(message: &Message<'_>) -> Result<(), Problem> {
    let checked = peek_call(message).map(|_| ()).map_err(Problem::from);
    match &message.kind {
        Kind::Request { id, .. } => checked.map_err(|problem| problem.with_id(message.at(id))),
        Kind::Notification { .. } | Kind::Response { .. } => checked,
    }
}

async fn initialize(
    request: &HttpRequest,
    endpoint: &Endpoint,
    caller: &Caller,
    message: &Message<'_>,
    id: Span,
) -> Result<Reply, Problem> {
    let with_id = |problem: Problem| problem.with_id(message.at(&id));
    check_initialize(endpoint, caller, message).map_err(with_id)?;
    if RequestHeaders::new(request).session_id()?.is_some() {
        // If the session has ended, the client gets 404, and then opens a new one (2025-11-25, "Session
        // Management").
        endpoint.session(request, caller).map_err(with_id)?;
        return Err(with_id(Problem::bad_request(
            "This session is already initialized. Send initialize without Mcp-Session-Id.",
        )));
    }
    endpoint.sessions.check_for_client().map_err(|error| with_id(error.into()))?;
    if let Some(legacy_to_modern) =
        endpoint.legacy_to_modern.as_ref().filter(|legacy_to_modern| legacy_to_modern.is_needed())
        && let Some((session, answer)) = legacy_to_modern
            .open(&caller.owner(), &endpoint.placeholders(caller), message, message.at(&id))
            .await
    {
        return Ok(Reply::Done(answer::initialized(&session, answer)));
    }
    let opened = endpoint.sessions.open(&caller.owner(), &endpoint.placeholders(caller), false).await;
    let session = opened.map_err(|error| with_id(error.into()))?;
    let nameless = Nameless::new(endpoint, &session);
    let stream = session.post_stream(1);
    let consumer = stream.connect();
    let answered = async {
        session.initialize(message, id.clone(), &stream).await;
        translated(endpoint, caller, message, &id, &session, &stream).await
    };
    let translated = tokio::select! {
        translated = answered => translated,
        () = disconnect::watch(request) => return Err(Problem::bad_request("The client has disconnected.")),
    };
    if let Some(translated) = translated {
        nameless.named();
        return Ok(Reply::Done(translated));
    }
    Ok(Reply::Wait(session, consumer, Form::Initialize, Some(nameless)))
}

/// A session whose client has not received its id yet. If the client disconnects before that, the session can
/// never be used, so it is ended.
struct Nameless(Option<(Arc<Sessions>, Arc<Session>)>);

impl Nameless {
    fn new(endpoint: &Endpoint, session: &Arc<Session>) -> Self {
        Self(Some((Arc::clone(&endpoint.sessions), Arc::clone(session))))
    }

    /// Records that the client receives the id.
    fn named(mut self) {
        self.0 = None;
    }
}

impl Drop for Nameless {
    fn drop(&mut self) {
        if let Some((sessions, session)) = &self.0 {
            sessions.end(session, "its client disconnected before it got the id");
        }
    }
}

/// The response from the translation, if the server refused `initialize` because it has no sessions.
async fn translated(
    endpoint: &Endpoint,
    caller: &Caller,
    message: &Message<'_>,
    id: &Span,
    session: &Session,
    stream: &Stream,
) -> Option<HttpResponse> {
    let legacy_to_modern = endpoint.legacy_to_modern.as_ref()?;
    let settled = async {
        // The response can arrive shortly before the session has a revision or has ended, and that change is
        // not signalled.
        while session.version().is_none() && !session.is_ended() && !stream.is_complete() {
            stream.changed().await;
        }
    };
    if tokio::time::timeout(GREETING, settled).await.is_err() {
        stream.wake();
        return None;
    }
    // If the child has exited without a response, it is unknown which revisions it supports.
    if session.version().is_some() || !session.was_answered() {
        // The notification that has been consumed here is sent again.
        stream.wake();
        return None;
    }
    let opened =
        legacy_to_modern.open(&caller.owner(), &endpoint.placeholders(caller), message, message.at(id)).await;
    if opened.is_none() {
        stream.wake();
    }
    opened.map(|(session, answer)| answer::initialized(&session, answer))
}

async fn batch(
    request: &HttpRequest,
    endpoint: &Endpoint,
    caller: &Caller,
    items: Vec<Result<Message<'_>, BadItem>>,
) -> Result<Reply, Problem> {
    let named = RequestHeaders::new(request).check_version()?;
    let session = endpoint.session(request, caller)?;
    // Only this revision has batches, and it has no version header (2025-03-26, "Batching").
    if session.version() != Some(Version::V2025_03_26) || !named.is_none_or(Version::has_batches) {
        return Err(Problem::bad_request(
            "Batches exist in protocol version 2025-03-26 only. Send one message at a time.",
        ));
    }
    let needs_answer = |item: &&Result<Message<'_>, BadItem>| {
        !matches!(item, Ok(Message { kind: Kind::Notification { .. } | Kind::Response { .. }, .. }))
    };
    let answers = items.iter().filter(needs_answer).count();
    let stream = session.post_stream(answers);
    let consumer = stream.connect();
    let mut copies = Copies::of(&caller.owner());
    for item in &items {
        send_item(endpoint, caller, &session, &stream, item).await;
        // A batch can contain a hundred messages, and other requests must not wait for all of them.
        copies.spend(PER_ITEM + item.as_ref().map_or(0, |message| message.text.len())).await;
    }
    if answers == 0 {
        return Ok(Reply::Done(HttpResponse::Accepted().finish()));
    }
    Ok(Reply::Wait(session, consumer, Form::Batch, None))
}

/// Handles one item of a batch. An invalid item does not affect the others (JSON-RPC 2.0 §6).
async fn send_item(
    endpoint: &Endpoint,
    caller: &Caller,
    session: &Arc<Session>,
    stream: &Arc<Stream>,
    item: &Result<Message<'_>, BadItem>,
) {
    let message = match item {
        Ok(message) => message,
        Err(bad) => return bad_item(session, stream, bad).await,
    };
    let Kind::Request { method, id } = &message.kind else {
        // An invalid response does not affect the rest of the batch, and the child has already received an
        // error.
        let _ = take(endpoint, caller, session, message).await;
        return;
    };
    if method == "initialize" {
        return session.refuse(
            message,
            id,
            stream,
            Code::InvalidRequest,
            "initialize must not be part of a batch.",
        );
    }
    match permit(endpoint, caller, method, message) {
        Ok(permit) => session.request(message, id.clone(), stream, &permit).await,
        Err(refusal) => session.refuse(message, id, stream, Code::Refused, &refusal.sentence()),
    }
}

/// Responds to an item that is not a message, with its id if that is known.
async fn bad_item(session: &Session, stream: &Stream, bad: &BadItem) {
    let id = match &bad.meant {
        Some(Unreadable::Request(id)) => Some(id.as_slice()),
        Some(answer) => {
            lost(session, answer).await;
            None
        }
        None => None,
    };
    stream.push(error_message(id, Code::InvalidRequest, &bad.error.to_string()).into(), true);
}

/// Handles a message that needs no response. A call without an id cannot bypass the rules, because it is not
/// sent to the child.
pub(super) async fn take(
    endpoint: &Endpoint,
    caller: &Caller,
    session: &Arc<Session>,
    message: &Message<'_>,
) -> Result<(), Problem> {
    match &message.kind {
        Kind::Notification { method } => {
            if let Ok(permit) = permit(endpoint, caller, method, message) {
                session.notify(message, &permit).await.map_err(not_read)?;
            } else {
                tracing::debug!("a notification that the tool rules do not allow was dropped");
            }
        }
        Kind::Response { id: Some(id), .. } if !session.reply(message, message.at(id)).await => {
            return Err(Problem::bad_request(
                "A response needs a `result` that is an object, or an `error` with an integer `code` and a string in `message`.",
            ));
        }
        // The client could not read the id of the child's question.
        Kind::Response { id: None, .. } => session.reply_lost(None).await,
        Kind::Response { .. } | Kind::Request { .. } => {}
    }
    Ok(())
}

/// The error if the child did not receive the message.
fn not_read(why: &'static str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Refused, why).retry_after(Duration::from_secs(4))
}
