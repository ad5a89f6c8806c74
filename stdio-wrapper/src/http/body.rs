//! A response body of several pieces with a known total length.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;

use crate::protocol::Text;

/// Number of bytes that are passed to the HTTP server at a time. It copies them, and takes more only after it
/// has sent them.
pub(super) const SLICE: usize = 64 << 10;

/// Splits off the next bytes to pass on.
fn slice(rest: &mut Bytes) -> Bytes {
    rest.split_to(rest.len().min(SLICE))
}

/// Pieces that are sent one after the other, without being joined first.
pub(super) struct Pieces {
    length: u64,
    rest: std::vec::IntoIter<Bytes>,
    piece: Bytes,
}

impl From<Text> for Pieces {
    fn from(text: Text) -> Self {
        Self { length: text.len() as u64, rest: text.pieces().to_vec().into_iter(), piece: Bytes::new() }
    }
}

impl MessageBody for Pieces {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.length)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        while self.piece.is_empty() {
            match self.rest.next() {
                Some(piece) => self.piece = piece,
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(Some(Ok(slice(&mut self.piece))))
    }
}
