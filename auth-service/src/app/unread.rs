//! Closes a connection if its request is answered before the request body has arrived.
//!
//! The HTTP library does this only for a body with a `Content-Length`. It reads a chunked body to its end after
//! the response, without a time limit, so a client could keep the connection open forever. However, it closes the
//! connection if the payload still has an owner once the response has been sent. Therefore, the response body owns
//! the unread payload.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage};
use contract::listener::hold;

/// Middleware for servers whose handlers never read a body.
pub(super) async fn close_unread<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let unread = request.take_payload();
    let response = next.call(request).await?;
    Ok(response.map_body(|_, body| holding(unread, body)))
}

/// A response body that owns the unread payload of its request.
pub(super) fn holding(unread: Payload, body: impl MessageBody + 'static) -> BoxBody {
    match unread {
        Payload::None => body.boxed(),
        unread => hold(body, Box::new(unread)),
    }
}
