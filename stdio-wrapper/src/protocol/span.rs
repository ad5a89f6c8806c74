//! Positions in a string.

use std::ops::Range;

/// The position of a value in the text that it was parsed from, in bytes.
pub type Span = Range<usize>;

/// The position of `part`, which must be a slice of `text`, so that the difference of their addresses is the
/// position.
pub fn span_in(text: &str, part: &str) -> Span {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + part.len()
}
