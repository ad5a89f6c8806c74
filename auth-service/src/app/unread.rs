//! Closes a connection whose request was answered before its body arrived.
//!
//! If the body has a length, the HTTP server does this itself. But it reads a chunked body to its end after
//! the response, without a time limit, so a client could hold such a connection forever. The server closes
//! the connection instead if the payload is still owned when the response has been sent. Therefore the
//! response keeps the unread payload.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage};

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
        unread => BoxBody::new(Answer { body: body.boxed(), _unread: Box::new(unread) }),
    }
}

struct Answer {
    body: BoxBody,
    _unread: Box<Payload>,
}

impl MessageBody for Answer {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}
