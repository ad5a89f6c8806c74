//! A quick look at large messages of a child: where the members of the envelope stand, by brackets and quotes alone. A
//! message of a megabyte is mostly one string, and searching its end is ten times as fast as checking each letter; the
//! client checks it anyway. Whatever looks odd is left to the strict reader.

use super::envelope::{Key, RawEnvelope};

/// Smaller messages are always read strictly.
pub(super) const FROM: usize = 64 << 10;

/// The members of the envelope; `None` if the strict reader has to decide.
pub(super) fn scan(text: &str) -> Option<RawEnvelope<'_>> {
    let mut out = RawEnvelope::default();
    let mut rest = text.trim_ascii().strip_prefix('{')?.trim_ascii_start();
    loop {
        let (key, tail) = split(rest, string_end(rest.as_bytes())?)?;
        let name = key.strip_prefix('"')?.strip_suffix('"')?;
        if name.contains('\\') {
            return None;
        }
        let tail = tail.trim_ascii_start().strip_prefix(':')?.trim_ascii_start();
        let (value, tail) = split(tail, value_end(tail.as_bytes())?)?;
        out.set(Key::of(name).ok()?, value).ok()?;
        let tail = tail.trim_ascii_start();
        if tail == "}" {
            return Some(out);
        }
        rest = tail.strip_prefix(',')?.trim_ascii_start();
    }
}

fn split(text: &str, at: usize) -> Option<(&str, &str)> {
    Some((text.get(..at)?, text.get(at..)?))
}

/// Where the string that starts here ends.
fn string_end(text: &[u8]) -> Option<usize> {
    if text.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        match text.get(at)? {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

/// Where the value that starts here ends.
fn value_end(text: &[u8]) -> Option<usize> {
    match text.first()? {
        b'"' => string_end(text),
        b'{' | b'[' => container_end(text),
        _ => {
            let end =
                text.iter().position(|byte| matches!(byte, b',' | b'}') || byte.is_ascii_whitespace())?;
            serde_json::from_slice::<serde::de::IgnoredAny>(text.get(..end)?).ok().map(|_| end)
        }
    }
}

fn container_end(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        at += text.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']'))?;
        match text.get(at)? {
            b'"' => at += string_end(text.get(at..)?)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            _ => {
                depth -= 1;
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
    }
}
