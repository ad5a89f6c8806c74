//! Closes a connection on which a client sends requests without reading the responses.
//!
//! The HTTP server handles the requests that it has read one after another, and keeps the responses that have not
//! been sent yet. Without a limit, many requests for a large response could use a lot of memory (attack 100).

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Extensions, ServiceRequest, ServiceResponse};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};

/// Whether a request has arrived on the connection.
struct Used(Cell<bool>);

/// Prepares a new connection for [`is_further`].
pub(super) fn expect_requests(extensions: &mut Extensions) {
    extensions.insert(Used(Cell::new(false)));
}

/// Whether this is not the first request on its connection. This must be called exactly once for each request.
pub fn is_further(request: &HttpRequest) -> bool {
    request.conn_data::<Used>().is_some_and(|used| used.0.replace(true))
}

/// A response that closes the connection immediately and discards everything that is queued on it.
pub fn end_connection(request: ServiceRequest) -> ServiceResponse<BoxBody> {
    request.into_response(HttpResponse::Ok().body(Abort))
}

/// A body that cannot be sent.
struct Abort;

impl MessageBody for Abort {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(Some(Err(
            "the client sent a request before it had read the response to the last one".into()
        )))
    }
}
