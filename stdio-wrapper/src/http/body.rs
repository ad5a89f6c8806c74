//! A response body in several pieces whose length is known.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

use crate::protocol::Text;

/// Pieces that are sent one after the other, without being joined first.
pub(super) struct Pieces {
    length: u64,
    rest: std::vec::IntoIter<Bytes>,
}

impl From<Text> for Pieces {
    fn from(text: Text) -> Self {
        Self { length: text.len() as u64, rest: text.pieces().to_vec().into_iter() }
    }
}

impl MessageBody for Pieces {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.length)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(self.rest.next().map(Ok))
    }
}
