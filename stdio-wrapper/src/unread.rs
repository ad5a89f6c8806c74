//! Closes a connection whose request was answered before its body arrived.
//!
//! The HTTP server does this itself if the body has a length. It reads a body in chunks to its end after the
//! answer, without a time limit, so such a connection could be held forever.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header::TRANSFER_ENCODING;
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _};
use bytes::Bytes;
use futures_util::Stream;

use crate::holding::hold;

/// A middleware that keeps the request's body for as long as the response. If the body is still there when
/// the response has been sent, the server closes the connection.
pub async fn close_unread<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if !request.headers().contains_key(TRANSFER_ENCODING) {
        return Ok(next.call(request).await?.map_into_boxed_body());
    }
    let body = SharedBody(Rc::new(RefCell::new(Box::pin(request.take_payload()))));
    request.set_payload(Payload::Stream { payload: Box::pin(body.clone()) });
    let response = next.call(request).await?;
    Ok(response.map_body(|_, inner| hold(inner, body)))
}

/// A request body with two owners, one of which reads it.
#[derive(Clone)]
struct SharedBody(Rc<RefCell<Pin<Box<Payload>>>>);

impl Stream for SharedBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.borrow_mut().as_mut().poll_next(context)
    }
}
