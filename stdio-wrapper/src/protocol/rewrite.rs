//! Writes a message again with some values replaced, everything else byte for byte.

use bytes::{BufMut, Bytes, BytesMut};

use super::envelope::Span;
use super::strings::{has_separator, mend_surrogates, put_without_separators};

/// Replace the text at `span` by `with`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch<'a> {
    /// Where, in bytes of the original.
    pub span: Span,
    /// JSON text.
    pub with: &'a [u8],
}

/// `text` with `patches` applied (any order, not overlapping), without raw line breaks and without a final newline.
pub fn rewrite(text: &[u8], patches: &mut [Patch<'_>]) -> Bytes {
    build(text, patches, false).freeze()
}

/// The same as one line for a child: no line break inside, one at the end (stdio transport, 2025-11-25), and no letter that
/// makes a child's reader drop the line or cut it.
pub fn rewrite_line(text: &[u8], patches: &mut [Patch<'_>]) -> Bytes {
    let mut line = build(text, patches, true);
    mend_surrogates(&mut line);
    if has_separator(&line) {
        let mut out = BytesMut::with_capacity(line.len() + 64);
        put_without_separators(&mut out, &line);
        line = out;
    }
    line.freeze()
}

fn build(text: &[u8], patches: &mut [Patch<'_>], is_line: bool) -> BytesMut {
    patches.sort_unstable_by_key(|patch| patch.span.start);
    let extra: usize = patches.iter().map(|patch| patch.with.len()).sum();
    let mut out = BytesMut::with_capacity(text.len() + extra + 1);
    let mut done = 0;
    for patch in patches.iter() {
        out.put_slice(text.get(done..patch.span.start).unwrap_or_default());
        out.put_slice(patch.with);
        done = patch.span.end;
    }
    out.put_slice(text.get(done..).unwrap_or_default());
    flatten(&mut out);
    if is_line {
        out.put_u8(b'\n');
    }
    out
}

/// In JSON a raw line break can only be space between tokens; a blank is the same. In SSE a carriage return ends a line
/// too, so it goes as well.
fn flatten(out: &mut [u8]) {
    let mut from = 0;
    while let Some(at) = memchr::memchr2(b'\n', b'\r', out.get(from..).unwrap_or_default()) {
        if let Some(byte) = out.get_mut(from + at) {
            *byte = b' ';
        }
        from += at + 1;
    }
}
