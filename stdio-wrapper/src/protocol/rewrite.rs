//! Rewrites a message with some values replaced. All other bytes stay unchanged.

use bytes::{BufMut, Bytes, BytesMut};

use super::span::Span;
use super::strings::{has_separator, mend_surrogates, put_without_separators};

/// Replaces the text at `span` with `with`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch<'a> {
    /// The position in the original, in bytes.
    pub span: Span,
    /// The new value, as JSON text.
    pub with: &'a [u8],
}

/// Patches that own their values, for another thread.
#[derive(Debug)]
pub struct Patches(Vec<(Span, Box<[u8]>)>);

impl Patches {
    /// Copies these patches.
    pub fn of(patches: &[Patch<'_>]) -> Self {
        Self(patches.iter().map(|Patch { span, with }| (span.clone(), (*with).into())).collect())
    }

    /// Borrows the values.
    pub fn borrowed(&self) -> Vec<Patch<'_>> {
        self.0.iter().map(|(span, with)| Patch { span: span.clone(), with }).collect()
    }
}

/// Returns `text` with `patches` applied (in any order, without overlaps), without raw line breaks, and without
/// a line break at the end.
pub fn rewrite(text: &[u8], patches: &mut [Patch<'_>]) -> Bytes {
    build(text, patches, false).freeze()
}

/// Like [`rewrite`], but as one line for a child: without line breaks except at the end (stdio transport,
/// 2025-11-25), and without characters that would make a child drop or cut the line.
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

/// Replaces raw line breaks with spaces. In JSON, they can only be white space between tokens. A carriage
/// return is also replaced, because it ends a line in SSE.
fn flatten(out: &mut [u8]) {
    let mut from = 0;
    while let Some(at) = memchr::memchr2(b'\n', b'\r', out.get(from..).unwrap_or_default()) {
        if let Some(byte) = out.get_mut(from + at) {
            *byte = b' ';
        }
        from += at + 1;
    }
}
