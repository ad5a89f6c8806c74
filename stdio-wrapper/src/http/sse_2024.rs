//! The deprecated HTTP+SSE transport of 2024-11-05: one stream for all messages to the client, and a separate
//! endpoint for messages from the client.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::Deserialize;

use super::guard::{Accepts, RequestHeaders};
use super::permit::{check_initialize, permit};
use super::post::{check_params, take, unread};
use super::problem::Problem;
use super::{Endpoint, events};
use crate::identity::Caller;
use crate::legacy::{Session, Sessions};
use crate::protocol::{Body, Code, Kind, encode_event};

/// Ends the session together with its stream, because the client has no other way to reach the session.
struct EndWithStream {
    sessions: Arc<Sessions>,
    session: Arc<Session>,
}

impl Drop for EndWithStream {
    fn drop(&mut self) {
        self.sessions.end(&self.session, "its stream was closed");
    }
}

/// `GET /sse`: opens a session and its stream.
pub(super) async fn stream(
    request: &HttpRequest,
    endpoint: &Endpoint,
    caller: &Caller,
) -> Result<HttpResponse, Problem> {
    RequestHeaders::new(request).check_accept(Accepts::Events)?;
    endpoint.sessions.check_for_client()?;
    let session = endpoint.sessions.open(&caller.owner(), &endpoint.placeholders(caller), true).await?;
    let guard = EndWithStream { sessions: Arc::clone(&endpoint.sessions), session: Arc::clone(&session) };
    let consumer = session.get_stream().connect();
    let place = format!("/messages?session_id={}", session.id);
    let options = events::Options {
        preamble: Some(encode_event(None, "endpoint", &Bytes::from(place).into())),
        ends_with_age: true,
        until: endpoint.until(caller),
        ..events::Options::default()
    };
    Ok(events::response(consumer, endpoint.timing, options, &endpoint.metrics, guard))
}

#[derive(Deserialize)]
struct Query {
    session_id: String,
}

/// `POST /messages`: accepts one message of a session.
pub(super) async fn message(
    request: &HttpRequest,
    body: web::Payload,
    endpoint: &Endpoint,
    caller: &Caller,
) -> Result<HttpResponse, Problem> {
    RequestHeaders::new(request).check_content()?;
    let query =
        web::Query::<Query>::from_query(request.query_string()).map_err(|_| Problem::no_session_id())?;
    let found = endpoint.find(&query.session_id, caller).filter(|session| session.is_sse());
    let session = found.ok_or_else(Problem::no_such_session)?;
    let body = endpoint.bodies.read(body, caller).await?;
    let messages = match endpoint.bodies.parse(body, caller).await {
        Ok(messages) => messages,
        Err(error) => return Err(unread(Some(&session), *error).await),
    };
    let Body::Single(message) = messages.body() else {
        return Err(Problem::bad_request(
            "Batches exist in protocol version 2025-03-26 only. Send one message at a time.",
        ));
    };
    check_params(&message)?;
    let Kind::Request { method, id } = &message.kind else {
        take(endpoint, caller, &session, &message).await?;
        return Ok(HttpResponse::Accepted().finish());
    };
    let stream = session.post_stream(1);
    if method == "initialize" && session.version().is_none() {
        check_initialize(endpoint, caller, &message).map_err(|problem| problem.with_id(message.at(id)))?;
        session.initialize(&message, id.clone(), &stream).await;
    } else {
        match permit(endpoint, caller, method, &message) {
            Ok(permit) => session.request(&message, id.clone(), &stream, &permit).await,
            Err(refusal) => session.refuse(&message, id, &stream, Code::Refused, &refusal.sentence()),
        }
    }
    Ok(HttpResponse::Accepted().finish())
}
