//! Request bodies: large ones are read in turns, and unread ones are discarded or close the connection.
//!
//! While body data keeps arriving, the HTTP server reads it, even if the request already has a response. A user
//! who continuously sends large bodies on several connections would block a thread for tens of milliseconds at a
//! time, during which it serves no other user (attack 100). If a body has a length, the server closes the
//! connection after a response that did not wait for the body. The server reads a chunked body to its end after
//! the response, without a time limit, so a client could keep the connection open forever.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _};
use bytes::Bytes;
use contract::listener::hold;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::timeout;

/// Size up to which a body is read as fast as it arrives, in bytes.
const AT_ONCE: usize = 128 << 10;
/// Maximum number of bytes of a body that are discarded before the response.
const MAX_DISCARDED: usize = 8 << 20;
/// Maximum time to wait for the next piece of a body that is being discarded.
const PAUSE: Duration = Duration::from_millis(500);

/// Must be acquired to read the next piece of a large body, so that the bodies alternate.
static TURN: Semaphore = Semaphore::const_new(1);

/// A middleware that reads large request bodies in turns, and keeps each body for as long as its response. If the
/// body is not completely read when the response has been sent, the server closes the connection.
pub async fn close_unread<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if is_small(&request) {
        return Ok(next.call(request).await?.map_into_boxed_body());
    }
    let body = SharedBody::new(request.take_payload());
    request.set_payload(Payload::Stream { payload: Box::pin(body.clone()) });
    let response = next.call(request).await?;
    body.discard().await;
    Ok(response.map_body(|_, inner| hold(inner, body)))
}

/// Whether the body has a length and is not large.
fn is_small(request: &ServiceRequest) -> bool {
    if request.headers().contains_key(TRANSFER_ENCODING) {
        return false;
    }
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length.is_none_or(|length| length.parse::<usize>().is_ok_and(|length| length <= AT_ONCE))
}

/// A request body with two owners, one of which reads it.
#[derive(Clone)]
struct SharedBody(Rc<RefCell<Inner>>);

struct Inner {
    payload: Pin<Box<Payload>>,
    /// The number of bytes that have been read.
    taken: usize,
    is_at_end: bool,
    /// Must complete before the next piece is read.
    turn: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl SharedBody {
    fn new(payload: Payload) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            payload: Box::pin(payload),
            taken: 0,
            is_at_end: false,
            turn: None,
        })))
    }

    /// Discards the rest of a body that was not read completely before its response. Stops if the sender pauses
    /// for too long.
    async fn discard(&self) {
        let mut rest = self.clone();
        let mut discarded = 0;
        while !self.0.borrow().is_at_end && discarded < MAX_DISCARDED {
            match timeout(PAUSE, rest.next()).await {
                Ok(Some(Ok(piece))) => discarded += piece.len(),
                _ => return,
            }
        }
    }
}

impl Stream for SharedBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut inner = self.0.borrow_mut();
        if let Some(turn) = &mut inner.turn {
            ready!(turn.as_mut().poll(context));
            inner.turn = None;
        }
        let piece = ready!(inner.payload.as_mut().poll_next(context));
        match &piece {
            Some(Ok(bytes)) => {
                inner.taken += bytes.len();
                if inner.taken > AT_ONCE {
                    inner.turn = Some(Box::pin(others_first()));
                }
            }
            Some(Err(_)) | None => inner.is_at_end = true,
        }
        Poll::Ready(piece)
    }
}

/// Yields so that this thread can handle other connections and other large bodies first.
async fn others_first() {
    // The semaphore is never closed. If it were, bodies would be read without waiting.
    let _turn = TURN.acquire().await;
    // This returns after the runtime has polled the operating system for events.
    yield_now().await;
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;
    use futures_util::stream;
    use tokio::task::LocalSet;

    use super::*;

    const PIECE: usize = 32 << 10;
    const PIECES: usize = 64;

    /// A body that has completely arrived. `taken` counts the pieces that were read.
    fn arrived(taken: &Rc<Cell<usize>>) -> SharedBody {
        let taken = Rc::clone(taken);
        let pieces = stream::iter(0..PIECES).map(move |_| {
            taken.set(taken.get() + 1);
            Ok(Bytes::from(vec![b' '; PIECE]))
        });
        SharedBody::new(Payload::Stream { payload: Box::pin(pieces) })
    }

    /// Asserts that `work` on eight bodies reads at most one or two pieces before other tasks can run.
    async fn is_fair<W: Future<Output = ()> + 'static>(work: impl Fn(SharedBody) -> W) {
        let (taken, all) = (Rc::new(Cell::new(0)), LocalSet::new());
        let bodies: Vec<_> = (0..8).map(|_| all.spawn_local(work(arrived(&taken)))).collect();
        all.run_until(async {
            yield_now().await;
            let begun = 8 * (AT_ONCE / PIECE + 1);
            assert!(taken.get() <= begun, "{} pieces were read at once", taken.get());
            for _ in 0..100 {
                let before = taken.get();
                yield_now().await;
                let now = taken.get() - before;
                assert!(now <= 2, "{now} pieces were read before other tasks could run");
            }
            for body in join_all(bodies).await {
                body.unwrap();
            }
            assert_eq!(taken.get(), 8 * PIECES);
        })
        .await;
    }

    #[tokio::test]
    async fn a100_large_bodies_are_taken_a_piece_at_a_time_between_the_work_of_others() {
        is_fair(async |mut body| while body.next().await.is_some() {}).await;
    }

    #[tokio::test]
    async fn a100_large_bodies_that_are_refused_are_discarded_a_piece_at_a_time() {
        is_fair(async |body| body.discard().await).await;
    }
}
