//! POST of the stateless revision (2026-07-28, "Streamable HTTP"). The body is one request. The response is
//! JSON if it is ready soon and before any other message, and otherwise an event stream that ends with the
//! response. A client cancels the request by closing the connection that carries the response.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};
use tokio::time::timeout;

use super::answer::body_of;
use super::body::SLICE;
use super::disconnect::Disconnect;
use super::guard::RequestHeaders;
use super::head::Received;
use super::permit::permit;
use super::problem::Problem;
use super::{Endpoint, disconnect, events};
use crate::identity::Caller;
use crate::legacy::OpenError;
use crate::modern::{self, CallError, Fault, Fields, Request, completion};
use crate::places::Place;
use crate::policy::Permit;
use crate::protocol::{Code, Kind, Message, Text, error_message, members, parse_line};
use crate::stream::{Consumer, First, Stream};
use crate::translate::Refused;

/// A request that has been passed to its child, or to the translation.
pub(super) struct Started {
    received: Received,
    stream: Arc<Stream>,
    consumer: Consumer,
    /// Dropping the first part cancels the request. The second part is its slot among the principal's requests.
    guard: (Box<dyn std::any::Any>, Place),
    /// The last message of the stream if the caller's token expires.
    farewell: Text,
}

/// Sends a message to the child, and watches for the client's disconnection. Returns `None` if the message
/// needs no response.
pub(super) async fn start(
    http: &HttpRequest,
    endpoint: &Endpoint,
    caller: &Caller,
    message: &Message<'_>,
) -> Result<Option<(Started, Disconnect)>, Problem> {
    let id = match &message.kind {
        Kind::Request { id, .. } => message.at(id),
        // The revision does not define the meaning of a notification here, and cancelling by a client's id
        // could affect a request from another client. Therefore it is accepted and dropped.
        Kind::Notification { .. } => return Ok(None),
        Kind::Response { .. } => {
            return Err(Problem::bad_request("A client of this revision sends no responses."));
        }
    };
    let mut disconnected = disconnect::watch(http);
    let started = tokio::select! {
        started = request(http, endpoint, caller, message) => started,
        () = &mut disconnected => Err(client_has_disconnected()),
    };
    let started = started.map_err(|problem| problem.with_id(id))?;
    Ok(Some((started, disconnected)))
}

async fn request(
    http: &HttpRequest,
    endpoint: &Endpoint,
    caller: &Caller,
    message: &Message<'_>,
) -> Result<Started, Problem> {
    let received = Received::now();
    let fields = RequestHeaders::new(http).fields();
    let request = modern::check(message, &fields)?;
    let permit = permit(endpoint, caller, &request.method, message)
        .map_err(|refusal| refusal.into_problem(endpoint, caller, http.query_string(), request.id_text()))?;
    let owner: Arc<str> = caller.owner().into();
    let place = endpoint.modern.admit(&owner)?;
    let stream = endpoint.modern.stream(&owner);
    // The consumer is connected before the request is sent, so that no message is lost.
    let consumer = stream.connect();
    let interest = hand_over(endpoint, caller, (&request, &permit), &fields, &owner, &stream).await?;
    let farewell = farewell(&request);
    Ok(Started { received, stream, consumer, guard: (interest, place), farewell })
}

/// Creates the response once its format is decided.
pub(super) async fn respond(
    endpoint: &Endpoint,
    caller: &Caller,
    started: Started,
    mut disconnected: Disconnect,
) -> Result<HttpResponse, Problem> {
    let Started { received, stream, consumer, guard, farewell } = started;
    let decided = async {
        loop {
            match stream.first() {
                First::Wait => stream.changed().await,
                decided => return decided,
            }
        }
    };
    tokio::select! {
        decided = timeout(endpoint.stream_after, decided) => {
            if let Ok(First::Answers(answers)) = decided {
                received.before_answers(&answers).await;
                return Ok(json(stream.owner(), answers));
            }
        }
        () = &mut disconnected => return Err(client_has_disconnected()),
    }
    received.before_events().await;
    let options = events::Options {
        until: endpoint.until(caller),
        farewell: Some(farewell),
        disconnected: Some(disconnected),
        ..events::Options::default()
    };
    Ok(events::response(consumer, endpoint.timing, options, &endpoint.metrics, guard))
}

/// The client has disconnected, so this is never read.
fn client_has_disconnected() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, Code::Cancelled, "The client has disconnected.")
}

/// Passes the request to the child, or to the translation. Dropping the returned value cancels the request.
async fn hand_over(
    endpoint: &Endpoint,
    caller: &Caller,
    (request, permit): (&Request<'_>, &Permit<'_>),
    fields: &Fields<'_>,
    owner: &Arc<str>,
    stream: &Arc<Stream>,
) -> Result<Box<dyn std::any::Any>, Problem> {
    let placeholders = endpoint.placeholders(caller);
    let Some(native) = endpoint.modern.native(&placeholders).await? else {
        let Some(translation) = &endpoint.translation else { return Err(legacy_only()) };
        return Ok(Box::new(translation.start(request, permit, fields, &placeholders, owner, stream).await?));
    };
    native.check_params(request, fields, owner).await?;
    Ok(Box::new(native.call(request, permit, Arc::clone(owner), stream).await))
}

/// The error for servers with sessions. Clients of several revisions fall back to `initialize` on any error
/// except those of the stateless revision.
fn legacy_only() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        Code::Refused,
        format!(
            "Unsupported protocol version: {} (supported versions: 2025-11-25, 2025-06-18, 2025-03-26, 2024-11-05).",
            modern::VERSION
        ),
    )
}

/// The last message of a stream that ends because the caller's token has expired.
fn farewell(request: &Request<'_>) -> Text {
    let id = request.id_text();
    if request.method == "subscriptions/listen" {
        return completion(id).into();
    }
    let why = "Your access token has expired, so this request was ended. Send it again with a new token.";
    error_message(Some(id.as_bytes()), Code::Refused, why).into()
}

fn json(owner: &str, answers: Vec<Text>) -> HttpResponse {
    let Some(answer) = answers.into_iter().next() else {
        let body = error_message(None, Code::InternalError, "The server has ended this request.");
        return HttpResponse::BadGateway().content_type("application/json").body(body);
    };
    let status = status_of(&answer);
    let mut response = HttpResponse::build(status);
    response.content_type("application/json").insert_header((header::CACHE_CONTROL, "no-store"));
    body_of(response, owner, answer)
}

/// The HTTP status. It is 200, unless the response is an error for which the transport defines a status.
fn status_of(answer: &Text) -> StatusCode {
    // A large response is never one of these errors, so it is not parsed again here.
    let Text::Whole(text) = answer else { return StatusCode::OK };
    if text.len() > SLICE {
        return StatusCode::OK;
    }
    let is_error =
        parse_line(text).is_ok_and(|message| matches!(message.kind, Kind::Response { is_error: true, .. }));
    if !is_error {
        return StatusCode::OK;
    }
    let code = std::str::from_utf8(text)
        .ok()
        .and_then(|text| members(text, ["error"]).ok())
        .and_then(|[error]| members(error?, ["code"]).ok())
        .and_then(|[code]| code?.parse::<i32>().ok());
    match code {
        Some(-32601) => StatusCode::NOT_FOUND,
        Some(-32022..=-32020) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let (status, code) = fault.status();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let mut problem = Self::new(status, code, fault.to_string());
        problem.data = fault.data().map(Into::into);
        problem
    }
}

impl From<Refused> for Problem {
    fn from(error: Refused) -> Self {
        let message = error.to_string();
        match error {
            // A stateless client does not use sessions, so the error must not mention them.
            Refused::Busy | Refused::Open(OpenError::OwnerFull(_)) => {
                let message = Refused::Busy.to_string();
                Self::new(StatusCode::TOO_MANY_REQUESTS, Code::Refused, message)
                    .with_header(header::RETRY_AFTER, "5")
            }
            Refused::AllWait(patience) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, Code::Refused, message).retry_after(patience)
            }
            Refused::Subscriptions(_) => Self::new(StatusCode::TOO_MANY_REQUESTS, Code::Refused, message)
                .with_header(header::RETRY_AFTER, "5"),
            Refused::NoMemory => Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Refused, message)
                .retry_after(Duration::from_secs(4)),
            Refused::Open(error) => error.into(),
            Refused::Fault(fault) => fault.into(),
            Refused::Params(_) => Self::new(StatusCode::BAD_REQUEST, Code::InvalidParams, message),
            Refused::Method(_) => Self::new(StatusCode::NOT_FOUND, Code::MethodNotFound, message),
            Refused::Child(_) => Self::new(StatusCode::BAD_GATEWAY, Code::InternalError, message),
        }
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        match error {
            CallError::Fault(fault) => fault.into(),
            CallError::Start(error) => OpenError::from(error).into(),
            CallError::Child(_) => Self::new(StatusCode::BAD_GATEWAY, Code::InternalError, message),
            CallError::OwnerFull => Self::new(StatusCode::TOO_MANY_REQUESTS, Code::Refused, message)
                .with_header(header::RETRY_AFTER, "1"),
            CallError::Full | CallError::Stopping => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Refused, message)
                    .with_header(header::RETRY_AFTER, "5")
            }
        }
    }
}
