//! A response body of several pieces with a known total length.

use std::convert::Infallible;

use actix_web::body::{MessageBody, SizedStream};
use bytes::Bytes;
use futures_util::stream;

use crate::protocol::Text;
use crate::turns::{COPIED, Copies};

/// Number of bytes that are passed to the HTTP server at a time. It copies them, and takes more only after it
/// has sent them.
pub(super) const SLICE: usize = COPIED;

/// Splits off the next bytes to pass on.
fn slice(rest: &mut Bytes) -> Bytes {
    rest.split_to(rest.len().min(SLICE))
}

/// Pieces that are sent one after the other, without being joined first.
pub(super) struct Pieces {
    length: usize,
    rest: std::vec::IntoIter<Bytes>,
    piece: Bytes,
    /// A client that reads as quickly as the server sends would keep the thread busy until the end of the body.
    /// Therefore, large bodies are sent in turns with other work.
    copies: Copies,
}

impl Pieces {
    /// The text of one response to a caller.
    pub(super) fn of(owner: &str, text: &Text) -> Self {
        Self::new(owner, text.pieces().to_vec())
    }

    /// A JSON array with the texts of these responses.
    pub(super) fn of_batch(owner: &str, texts: &[Text]) -> Self {
        let mut pieces = vec![Bytes::from_static(b"[")];
        for (index, text) in texts.iter().enumerate() {
            if index > 0 {
                pieces.push(Bytes::from_static(b","));
            }
            pieces.extend_from_slice(text.pieces());
        }
        pieces.push(Bytes::from_static(b"]"));
        Self::new(owner, pieces)
    }

    fn new(owner: &str, pieces: Vec<Bytes>) -> Self {
        let length = pieces.iter().map(Bytes::len).sum();
        Self { length, rest: pieces.into_iter(), piece: Bytes::new(), copies: Copies::of(owner) }
    }

    /// The total length, in bytes.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The pieces, joined.
    pub(super) fn joined(self) -> Bytes {
        self.rest.as_slice().concat().into()
    }

    pub(super) fn into_body(self) -> impl MessageBody + 'static {
        let length = self.length as u64;
        let pieces = stream::unfold(self, async |mut pieces| {
            let piece = pieces.next().await?;
            Some((Ok::<_, Infallible>(piece), pieces))
        });
        SizedStream::new(length, Box::pin(pieces))
    }

    async fn next(&mut self) -> Option<Bytes> {
        while self.piece.is_empty() {
            self.piece = self.rest.next()?;
        }
        let piece = slice(&mut self.piece);
        self.copies.spend(piece.len()).await;
        Some(piece)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::rc::Rc;

    use actix_web::body::BoxBody;
    use futures_util::future::{join_all, poll_fn};
    use tokio::task::{LocalSet, yield_now};

    use super::*;

    /// Sends bodies to the same user, whose clients read as quickly as they can. Asserts that other tasks can run after
    /// each piece of each body.
    pub(in crate::http) async fn are_sent_in_turns(bodies: Vec<BoxBody>) {
        let (sent, all) = (Rc::new(Cell::new(0)), LocalSet::new());
        let count = bodies.len();
        let bodies: Vec<_> = bodies
            .into_iter()
            .map(|body| {
                let sent = Rc::clone(&sent);
                all.spawn_local(async move {
                    let mut body = pin!(body);
                    let mut length = 0;
                    while let Some(piece) = poll_fn(|context| body.as_mut().poll_next(context)).await {
                        length += piece.unwrap().len();
                        sent.set(sent.get() + 1);
                    }
                    length
                })
            })
            .collect();
        all.run_until(async {
            for _ in 0..100 {
                let before = sent.get();
                yield_now().await;
                let now = sent.get() - before;
                // In a batch, a comma precedes each piece.
                assert!(now <= 2 * count, "{now} pieces were sent before other tasks could run");
            }
            let before = sent.get();
            assert!(before > 90, "only {before} pieces");
            for body in join_all(bodies).await {
                assert!(body.unwrap() >= 32 * SLICE);
            }
            assert!(sent.get() > before);
        })
        .await;
    }

    #[tokio::test]
    async fn a100_large_responses_are_sent_a_piece_at_a_time_between_the_work_of_others() {
        let one: Text = Bytes::from(vec![b'x'; 32 * SLICE]).into();
        let body = || Pieces::of("mallory of large responses", &one).into_body().boxed();
        are_sent_in_turns((0..8).map(|_| body()).collect()).await;
    }

    #[tokio::test]
    async fn a100_large_batches_of_responses_are_sent_a_piece_at_a_time() {
        let texts: Vec<Text> = vec![Bytes::from(vec![b'x'; SLICE]).into(); 32];
        let body = || Pieces::of_batch("mallory of large batches", &texts).into_body().boxed();
        are_sent_in_turns((0..8).map(|_| body()).collect()).await;
    }

    #[tokio::test]
    async fn a_batch_is_an_array_of_its_responses() {
        let texts = ["1", "{}", "[2]"].map(|text| Text::from(Bytes::from_static(text.as_bytes())));
        let (batch, joined) = (Pieces::of_batch("ana", &texts), Pieces::of_batch("ana", &texts).joined());
        assert_eq!((batch.len(), &*joined), (10, &b"[1,{},[2]]"[..]));
        let mut body = pin!(batch.into_body().boxed());
        let mut sent = Vec::new();
        while let Some(piece) = poll_fn(|context| body.as_mut().poll_next(context)).await {
            sent.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(sent, joined);
    }
}
