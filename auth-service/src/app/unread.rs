//! Closes a connection whose request was answered before its body had come.
//!
//! The HTTP server does so by itself when the body has a length. One that comes in chunks it reads to its end after the
//! answer, without any limit of time, so such a connection could be held for ever. A body that is still owned by somebody
//! when the answer has been sent makes it close the connection instead.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage};

/// A middleware where no handler reads a body.
pub(super) async fn close_unread<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let unread = request.take_payload();
    let response = next.call(request).await?;
    Ok(response.map_body(|_, body| holding(unread, body)))
}

/// The body of an answer that keeps what was not read of its request.
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
