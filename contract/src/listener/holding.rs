//! A response body that owns a value until the body has been sent or dropped.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;

/// A response body and the value that it owns.
struct Holding<T> {
    inner: BoxBody,
    _value: T,
}

/// Creates a body that owns `value`.
pub fn hold<T: Unpin + 'static>(inner: impl MessageBody + 'static, value: T) -> BoxBody {
    BoxBody::new(Holding { inner: inner.boxed(), _value: value })
}

impl<T: Unpin> MessageBody for Holding<T> {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.inner.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.inner).poll_next(context)
    }
}
