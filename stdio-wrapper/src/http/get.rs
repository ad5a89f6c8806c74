//! GET: the stream for messages that do not belong to a request, and resumption of any stream (2025-11-25,
//! "Listening for Messages from the Server", "Resumability and Redelivery").

use actix_web::{HttpRequest, HttpResponse};

use super::guard::{Accepts, RequestHeaders};
use super::problem::Problem;
use super::{Endpoint, events};
use crate::identity::Caller;
use crate::legacy::Session;
use crate::protocol::{EventId, Version};
use crate::stream::Consumer;

pub(super) fn handle(
    request: &HttpRequest,
    endpoint: &Endpoint,
    caller: &Caller,
) -> Result<HttpResponse, Problem> {
    let headers = RequestHeaders::new(request);
    if RequestHeaders::new(request).is_stateless() {
        return Err(Problem::method_not_allowed("POST"));
    }
    headers.check_accept(Accepts::Events)?;
    headers.check_version()?;
    let session = endpoint.session(request, caller)?;
    let consumer = match headers.last_event_id()? {
        Some(last) => resume(endpoint, &session, last)?,
        None => session.get_stream().join(),
    };
    let options = events::Options {
        priming: session.version().is_some_and(Version::has_priming),
        ids: true,
        ends_with_age: true,
        until: endpoint.until(caller),
        ..events::Options::default()
    };
    Ok(events::response(consumer, endpoint.timing, options, &endpoint.metrics, ()))
}

/// Resumes the stream of the given event after that event. No other stream is resumed.
fn resume(endpoint: &Endpoint, session: &Session, last: EventId) -> Result<Consumer, Problem> {
    let gone = || Problem::bad_request("The stream of this Last-Event-ID is no longer available.");
    let stream = session.stream(last.stream).ok_or_else(gone)?;
    let consumer = match stream.resume(last.sequence) {
        Some(consumer) => consumer,
        // The GET stream continues even if a part of it is lost. An incomplete response would be useless.
        None if last.stream == 0 => stream.join(),
        None => return Err(gone()),
    };
    endpoint.metrics.streams_resumed_total.add();
    Ok(consumer)
}
