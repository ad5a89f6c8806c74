//! Fuzzes the framing of a child's output, which can arrive in pieces of any size. A message must not exceed the
//! limit, and the number of frames must not depend on the pieces.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use stdio_wrapper::child::{Frame, Framing, LineFraming};

const LIMIT: usize = 64;

fn frames(pieces: &[&[u8]]) -> Vec<Frame> {
    let mut decoder = LineFraming.decoder(LIMIT);
    let mut buffer = BytesMut::new();
    let mut out = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(frame) = decoder.decode(&mut buffer) {
            out.push(frame);
        }
        assert!(buffer.len() <= LIMIT + piece.len());
    }
    out.extend(decoder.finish(&mut buffer));
    out
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let pieces: Vec<&[u8]> = bytes.chunks(usize::from(size).max(1)).collect();
    let cut = frames(&pieces);
    assert!(
        cut.iter().all(
            |frame| !matches!(frame, Frame::Message(line) if line.len() > LIMIT || line.contains(&b'\n'))
        )
    );
    // The same output in one piece must result in as many frames, even if its last line exceeds the limit and
    // has no line break.
    let whole = frames(&[bytes]);
    assert_eq!(cut.len(), whole.len());
});
