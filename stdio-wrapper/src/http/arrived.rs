//! The parts of a request body that have arrived. A large body is kept in several parts, because moving it to a
//! larger buffer takes as long as handling many small requests.

use bytes::{Bytes, BytesMut};

use crate::offload::LARGE;

/// Maximum size of a part, in bytes.
const PART: usize = LARGE;

/// The parts of a body.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    length: usize,
    /// The whole body, if it has arrived in one piece. Most bodies do, and are not copied.
    only: Option<Bytes>,
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
}

impl Arrived {
    /// The length of the body so far, in bytes.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The memory in bytes that the body will use after a piece of this length has been added.
    pub(super) fn held_with(&self, piece: usize) -> usize {
        match self.length + piece {
            length if self.length == 0 => length,
            length if length <= PART => grown(length).max(self.last.capacity()),
            length => length.next_multiple_of(PART),
        }
    }

    pub(super) fn add(&mut self, piece: Bytes) {
        let before = self.only.take();
        self.length += piece.len();
        if self.length == piece.len() {
            self.only = Some(piece);
            return;
        }
        for piece in before.into_iter().chain([piece]) {
            self.put(&piece);
        }
    }

    fn put(&mut self, piece: &[u8]) {
        let capacity = if self.length > PART { PART } else { grown(self.length) };
        let mut rest = piece;
        while !rest.is_empty() {
            if self.last.len() >= PART {
                self.full.push(std::mem::take(&mut self.last));
            }
            let (now, later) = rest.split_at(rest.len().min(PART - self.last.len()));
            self.last.reserve_exact(capacity.saturating_sub(self.last.len()));
            self.last.extend_from_slice(now);
            rest = later;
        }
    }

    /// The body in one piece. Each part is freed as soon as it has been copied.
    pub(super) fn into_bytes(self) -> Bytes {
        let Self { length, only, full, last } = self;
        if let Some(only) = only {
            return only;
        }
        if full.is_empty() {
            return last.into();
        }
        let mut whole = BytesMut::with_capacity(length);
        for part in full.into_iter().chain([last]) {
            whole.extend_from_slice(&part);
        }
        whole.freeze()
    }
}

/// The memory to reserve for a small body when `length` bytes have arrived. It is a quarter more than the length, so
/// that the body is not copied for each piece.
fn grown(length: usize) -> usize {
    (length + length / 4).min(PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body from pieces of this length. Checks the memory that is used for each piece.
    fn arrived(body: &[u8], piece: usize) -> Arrived {
        let mut arrived = Arrived::default();
        for piece in body.chunks(piece) {
            let announced = arrived.held_with(piece.len());
            arrived.add(Bytes::copy_from_slice(piece));
            let parts = arrived.full.iter().chain([&arrived.last]).map(Vec::capacity).sum::<usize>();
            let held = parts + arrived.only.as_ref().map_or(0, Bytes::len);
            assert!(held <= announced, "{held} bytes instead of {announced}");
            assert!(held <= arrived.len() + PART, "{held} bytes for {}", arrived.len());
        }
        arrived
    }

    #[test]
    fn a_body_is_the_same_whatever_pieces_it_arrives_in() {
        let body: Vec<u8> = (0..3 * PART + 7).map(|index| u8::try_from(index % 251).unwrap()).collect();
        for length in [0, 1, 100, PART - 1, PART, PART + 1, body.len()] {
            for piece in [PART / 100, PART / 3, PART, 2 * PART, body.len()] {
                let body = &body[..length];
                assert!(arrived(body, piece).into_bytes() == body, "{length} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a100_a_large_body_is_not_moved_when_more_of_it_arrives() {
        let mut arrived = arrived(&vec![b'x'; PART + 1], 1000);
        let place = arrived.full[0].as_ptr();
        for _ in 0..100 {
            arrived.add(Bytes::from(vec![b'x'; PART / 4]));
            assert_eq!(arrived.full[0].as_ptr(), place);
            assert!(arrived.full.iter().chain([&arrived.last]).all(|part| part.capacity() <= 256 << 10));
        }
    }
}
