//! Limits what one request and one address can use of the public listener, and determines the order in which
//! waiting requests are processed. Both happen before a handler receives the request.

use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::web::{Bytes, BytesMut, Data};
use actix_web::{Error, HttpMessage};
use futures_util::{StreamExt, poll};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument;

use crate::guard::client_address;
use crate::guard::turns::{Sender, Turn};
use crate::guard::waiting::Full;
use crate::oauth::responses::{BODY_LIMIT, EarlyRefusal, QUERY_LIMIT};
use crate::state::AppState;

use super::unread::holding;
use super::{browsers, connections};

/// Time limit for receiving a body. A body has at most 16 kB.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for receiving the next part of a body.
const BODY_PAUSE: Duration = Duration::from_secs(3);
/// How long a request keeps its turn. A request that needs more time is usually waiting for something other than
/// the processor, such as a password hash or a document. Those have their own limits.
const TURN: Duration = Duration::from_millis(5);

/// Limits each request: the number of concurrent requests from its address, the length of its query, and the size
/// and arrival time of its body.
///
/// If a client disconnects during a login attempt, the attempt is cancelled, so that no password is hashed
/// unnecessarily. Every other request is completed, because one change can take several steps in Redis.
pub(super) async fn bounded<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let Some(state) = request.app_data::<Data<AppState>>().cloned() else {
        return next.call(request).await.map(ServiceResponse::map_into_boxed_body);
    };
    let address =
        client_address::of(request.request(), |address| state.config.trusted_edge.is_known(address));
    let Ok(place) = state.requests.enter(address) else {
        return Ok(refuse(request, EarlyRefusal::Crowded, &state));
    };
    // A trusted proxy's own address is not counted: it stands for every client whose address the proxy has not
    // sent.
    let counted = address.filter(|address| !state.config.trusted_edge.is_known(*address));
    if state.request_pace.admit(counted).await.is_err() {
        return Ok(refuse(request, EarlyRefusal::TooManyRequests, &state));
    }
    if request.query_string().len() > QUERY_LIMIT {
        return Ok(refuse(request, EarlyRefusal::LongQuery, &state));
    }
    if !request.method().is_safe() && state.has_lost_store() {
        return Ok(refuse(request, EarlyRefusal::StoreLost, &state));
    }
    let mut payload = request.take_payload();
    match awaited_body(&mut payload, address, &state).await {
        Ok(body) => request.set_payload(Payload::from(body)),
        Err(refusal) => {
            request.set_payload(payload);
            return Ok(refuse(request, refusal, &state));
        }
    }
    let sender = if state.known_networks.knows(address) { Sender::Known } else { Sender::Stranger };
    let Ok(turn) = state.turns.take(address, sender).await else {
        return Ok(refuse(request, EarlyRefusal::Crowded, &state));
    };
    if hashes(&request) {
        let response = in_turn(turn, next.call(request)).await;
        drop(place);
        return response.map(ServiceResponse::map_into_boxed_body);
    }
    let to_the_end = async move {
        let response = in_turn(turn, next.call(request)).await;
        drop(place);
        response
    };
    // A panic has already been logged, and its message must not reach the client.
    let failed = |_| actix_web::error::ErrorInternalServerError("the service cannot answer at the moment");
    let handled = actix_web::rt::spawn(to_the_end.in_current_span()).await.map_err(failed)?;
    handled.map(ServiceResponse::map_into_boxed_body)
}

/// Processes a request. Its turn ends when it is finished, or after [`TURN`].
async fn in_turn<T>(turn: Turn, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if let Ok(done) = timeout(TURN, work.as_mut()).await {
        return done;
    }
    drop(turn);
    work.await
}

fn refuse(mut request: ServiceRequest, refusal: EarlyRefusal, state: &AppState) -> ServiceResponse<BoxBody> {
    let unread = request.take_payload();
    connections::await_close(request.request(), &state.closing);
    let response = browsers::refused_early(refusal, request.headers(), &state.config.site.issuer);
    request.into_response(response.map_body(|_, body| holding(unread, body)))
}

/// Whether this request can cause a password to be hashed.
fn hashes(request: &ServiceRequest) -> bool {
    // The path is the normalized one that routing uses, because a client can spell a path in many ways.
    let path = request.match_info().as_str();
    request.method() == Method::POST && (path.ends_with("/login") || path.ends_with("/login/password"))
}

/// Reads the body. While it is incomplete, it occupies one of a limited number of slots. A slow sender can lose
/// its slot to another request, and is then refused.
async fn awaited_body(
    payload: &mut Payload,
    address: Option<IpAddr>,
    state: &AppState,
) -> Result<Bytes, EarlyRefusal> {
    let mut body = pin!(whole_body(payload));
    // A body that has already arrived does not need a slot.
    if let Poll::Ready(body) = poll!(body.as_mut()) {
        return body;
    }
    let mut wait = state.bodies.enter(address);
    tokio::select! {
        biased;
        body = body => body,
        full = wait.given_up() => Err(match full {
            Full::Share => EarlyRefusal::DisplacedByOwn,
            Full::All => EarlyRefusal::Displaced,
        }),
    }
}

async fn whole_body(payload: &mut Payload) -> Result<Bytes, EarlyRefusal> {
    let deadline = Instant::now() + BODY_TIMEOUT;
    let mut body = BytesMut::new();
    loop {
        let piece = timeout_at(deadline.min(Instant::now() + BODY_PAUSE), payload.next()).await;
        match piece.map_err(|_| EarlyRefusal::Slow)? {
            None => return Ok(body.freeze()),
            Some(Ok(piece)) if body.len() + piece.len() > BODY_LIMIT => return Err(EarlyRefusal::TooLarge),
            Some(Ok(piece)) => body.extend_from_slice(&piece),
            Some(Err(_)) => return Err(EarlyRefusal::Broken),
        }
    }
}
