//! Closes a connection whose request was answered before its body arrived.
//!
//! If the body has a length, the HTTP server does this itself. But it reads a chunked body to its end after
//! the response, without a time limit, so a client could hold such a connection forever. The server closes
//! the connection instead if the payload is still owned when the response has been sent. Therefore the
//! response keeps the unread payload.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage};
use contract::listener::hold;

/// A middleware for servers whose handlers never read a body.
pub(super) async fn close_unread<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let unread = request.take_payload();
    let response = next.call(request).await?;
    Ok(response.map_body(|_, body| holding(unread, body)))
}

/// A response body that keeps the unread payload of its request.
pub(super) fn holding(unread: Payload, body: impl MessageBody + 'static) -> BoxBody {
    match unread {
        Payload::None => body.boxed(),
        unread => hold(body, Box::new(unread)),
    }
}
