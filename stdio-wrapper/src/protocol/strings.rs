//! Handles valid parts of JSON strings that cause problems for some parsers: lone surrogates, and characters
//! that some programs treat as line breaks. Both are replaced with a form that every parser accepts.

use bytes::{BufMut, Bytes, BytesMut};

/// The length of `\uXXXX`, in bytes.
const ESCAPE: usize = 6;

/// Replaces a lone surrogate such as `\ud83d` with `\ufffd`. A lone surrogate is not a character, and parsers
/// that store text as UTF-8 refuse the whole message because of it. `text` must be JSON.
pub fn without_lone_surrogates(text: Bytes) -> Bytes {
    if next_lone(&text, 0).is_none() {
        return text;
    }
    let mut text = BytesMut::from(text);
    mend_surrogates(&mut text);
    text.freeze()
}

/// Like [`without_lone_surrogates`], but in place.
pub(super) fn mend_surrogates(text: &mut [u8]) {
    let mut at = 0;
    while let Some(next) = next_lone(text, at) {
        if let Some(digits) = text.get_mut(next + 2..next + ESCAPE) {
            digits.copy_from_slice(b"fffd");
        }
        at = next + ESCAPE;
    }
}

/// The position of the next escape of a lone surrogate.
fn next_lone(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr::memchr(b'\\', text.get(at..)?)?;
        match unit(text, at) {
            Some(0xD800..=0xDBFF) if matches!(unit(text, at + ESCAPE), Some(0xDC00..=0xDFFF)) => {
                at += 2 * ESCAPE;
            }
            Some(0xD800..=0xDFFF) => return Some(at),
            // An escaped backslash is skipped together with the backslash that escapes it.
            _ => at += 2,
        }
    }
}

/// The code unit of the escape at this position.
fn unit(text: &[u8], at: usize) -> Option<u16> {
    let digits = text.get(at..at + ESCAPE)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Appends JSON text with U+0085, U+2028 and U+2029 escaped. These can occur only in strings, so the meaning
/// stays the same. Python's `splitlines` and Node's `readline`, and the clients that use them, treat these
/// characters as line breaks.
pub(super) fn put_without_separators(out: &mut BytesMut, text: &[u8]) {
    let mut rest = text;
    while let Some((at, length, escape)) = next_separator(rest) {
        out.put_slice(rest.get(..at).unwrap_or_default());
        out.put_slice(escape);
        rest = rest.get(at + length..).unwrap_or_default();
    }
    out.put_slice(rest);
}

/// The position, length and escape sequence of the next character that counts as a line break.
fn next_separator(text: &[u8]) -> Option<(usize, usize, &'static [u8])> {
    memchr::memchr2_iter(0xC2, 0xE2, text).find_map(|at| match text.get(at..)? {
        [0xE2, 0x80, 0xA8, ..] => Some((at, 3, &br"\u2028"[..])),
        [0xE2, 0x80, 0xA9, ..] => Some((at, 3, &br"\u2029"[..])),
        [0xC2, 0x85, ..] => Some((at, 2, &br"\u0085"[..])),
        _ => None,
    })
}

/// Whether the text contains U+0085, U+2028 or U+2029.
pub(super) fn has_separator(text: &[u8]) -> bool {
    next_separator(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_pair_becomes_the_replacement_character_and_whole_pairs_stay() {
        for (text, mended) in [
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\uDE00\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\\ud83d \u0041 \n""#, r#""\\ud83d \u0041 \n""#),
            (r#""\ud83dx\udbff""#, r#""\ufffdx\ufffd""#),
        ] {
            assert_eq!(without_lone_surrogates(Bytes::from_static(text.as_bytes())), mended);
        }
    }

    #[test]
    fn letters_that_end_lines_are_escaped_and_their_neighbours_are_not() {
        let mut out = BytesMut::new();
        let text = "\"a\u{2028}b\u{2029}\u{85}c\u{2027}\u{a0}–é\"";
        put_without_separators(&mut out, text.as_bytes());
        assert_eq!(out, r#""a\u2028b\u2029\u0085c"#.to_owned() + "\u{2027}\u{a0}–é\"");
        let value: String = serde_json::from_slice(&out).unwrap();
        assert_eq!(value, text.trim_matches('"'));
    }
}
