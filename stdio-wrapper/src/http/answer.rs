//! Chooses the format of the response to a POST: JSON if the responses are ready soon and before any other
//! message, and otherwise an event stream.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use tokio::time::{Instant, timeout};

use super::body::{Pieces, SLICE};
use super::head::Received;
use super::{Endpoint, SESSION_ID, disconnect, events};
use crate::legacy::Session;
use crate::protocol::{Code, Text, error_message};
use crate::stream::{Consumer, First, Stream};

/// For responses that are ready within this time, the client's connection is not watched.
const QUICK: Duration = Duration::from_millis(100);

/// The response to `initialize` does not become an event stream before this time.
const INITIALIZE_AFTER: Duration = Duration::from_secs(2);

/// The content of a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A single request other than `initialize`.
    Single,
    /// `initialize`. The response contains the session id.
    Initialize,
    /// Several requests in one body (2025-03-26).
    Batch,
}

/// The response to a POST.
pub(super) enum Waited {
    /// The client is still connected.
    Response(HttpResponse),
    /// The client has disconnected.
    Disconnected,
}

impl Waited {
    /// Whether the client is still connected.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Response(_))
    }

    pub(super) fn into_response(self) -> HttpResponse {
        match self {
            Self::Response(response) => response,
            Self::Disconnected => HttpResponse::BadRequest().finish(),
        }
    }
}

/// Waits until the format is decided. The consumer was connected before the request was sent, so no message is
/// lost. When the client disconnects, this future and its consumer are dropped.
pub(super) async fn wait(
    request: &HttpRequest,
    endpoint: &Endpoint,
    session: &Arc<Session>,
    consumer: Consumer,
    form: Form,
    until: Option<Instant>,
) -> Waited {
    let received = Received::now();
    let stream = Arc::clone(consumer.stream());
    // The status shows why a session could not be opened, and most clients send no other request before they
    // have a session.
    let stream_after = match form {
        Form::Initialize => endpoint.stream_after.max(INITIALIZE_AFTER),
        Form::Single | Form::Batch => endpoint.stream_after,
    };
    let quick = stream_after.min(QUICK);
    let mut first = timeout(quick, decided(&stream)).await;
    if first.is_err() {
        first = tokio::select! {
            first = timeout(stream_after.saturating_sub(quick), decided(&stream)) => first,
            // This response will not be read, so questions from the child must be sent on another stream.
            () = disconnect::watch(request) => return Waited::Disconnected,
        };
    }
    if let Ok(First::Answers(answers)) = first {
        received.before_answers(&answers).await;
        return Waited::Response(json(session, answers, form));
    }
    received.before_events().await;
    session.keep_stream(&stream);
    let has_priming = session.version().is_some_and(crate::protocol::Version::has_priming);
    let options = events::Options {
        priming: has_priming,
        ids: true,
        until,
        disconnected: Some(disconnect::watch(request)),
        ..events::Options::default()
    };
    let mut response = events::response(consumer, endpoint.timing, options, &endpoint.metrics, ());
    // The outcome is still unknown when a stream starts, but the headers must be sent first.
    if form == Form::Initialize && !session.is_ended() {
        add_session_id(&mut response, session);
    }
    Waited::Response(response)
}

async fn decided(stream: &Stream) -> First {
    loop {
        match stream.first() {
            First::Wait => stream.changed().await,
            decided => return decided,
        }
    }
}

fn json(session: &Session, answers: Vec<Text>, form: Form) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_TYPE, header::HeaderValue::from_static("application/json")))
        .insert_header((header::CACHE_CONTROL, header::HeaderValue::from_static("no-store")));
    let mut response = if form == Form::Batch {
        body_of_pieces(response, Pieces::of_batch(&session.owner, &answers))
    } else {
        match answers.into_iter().next() {
            Some(answer) => body_of(response, &session.owner, answer),
            None => response.body(error_message(None, Code::InternalError, "The session has ended.")),
        }
    };
    // The session has a revision once `initialize` has succeeded.
    if form == Form::Initialize && session.version().is_some() {
        add_session_id(&mut response, session);
    }
    response
}

/// The response to `initialize` for a session that the translation has opened.
pub(super) fn initialized(session: &Session, answer: Text) -> HttpResponse {
    json(session, vec![answer], Form::Initialize)
}

/// Creates a response whose body is one message for this caller.
pub(super) fn body_of(mut response: HttpResponseBuilder, owner: &str, answer: Text) -> HttpResponse {
    match answer {
        Text::Whole(answer) if answer.len() <= SLICE => response.body(answer),
        answer => body_of_pieces(response, Pieces::of(owner, &answer)),
    }
}

fn body_of_pieces(mut response: HttpResponseBuilder, pieces: Pieces) -> HttpResponse {
    if pieces.len() <= SLICE { response.body(pieces.joined()) } else { response.body(pieces.into_body()) }
}

fn add_session_id(response: &mut HttpResponse, session: &Session) {
    if let Ok(id) = header::HeaderValue::from_str(&session.id) {
        response.headers_mut().insert(header::HeaderName::from_static(SESSION_ID), id);
    }
}
