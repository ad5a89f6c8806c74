//! The nesting depth of JSON text, determined without building a tree (attack 109).

/// Maximum nesting depth that is passed on. Most JSON parsers stop at 128 or less, and some overflow their
/// stack instead.
pub const MAX_DEPTH: usize = 100;

/// Whether arrays and objects in `text` are nested deeper than [`MAX_DEPTH`]. `text` must be valid JSON.
pub fn is_too_deep(text: &[u8]) -> bool {
    // Most messages have fewer brackets than this, and counting them is cheaper than finding out which of them are
    // in strings.
    if memchr::memchr2_iter(b'[', b'{', text).take(MAX_DEPTH + 1).count() <= MAX_DEPTH {
        return false;
    }
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'[' | b'{' | b']' | b'}')) {
        let Some((head, tail)) = rest.get(at..).and_then(<[u8]>::split_first) else {
            return false;
        };
        match head {
            b'"' => rest = after_string(tail),
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
                rest = tail;
            }
            _ => {
                depth = depth.saturating_sub(1);
                rest = tail;
            }
        }
    }
    false
}

/// The rest of `text` after the closing quotation mark. `text` must start in a string.
pub(super) fn after_string(text: &[u8]) -> &[u8] {
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        let is_escape = rest.get(at) == Some(&b'\\');
        let skip = if is_escape { at + 2 } else { at + 1 };
        rest = rest.get(skip..).unwrap_or_default();
        if !is_escape {
            return rest;
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a109_nesting_is_counted_outside_strings_only() {
        let deep = format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
        assert!(is_too_deep(deep.as_bytes()));
        let at_limit = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(!is_too_deep(at_limit.as_bytes()));
        let text = format!(r#"{{"a":"{}\"{}"}}"#, "[".repeat(500), "{".repeat(500));
        assert!(!is_too_deep(text.as_bytes()));
        let wide = "[],".repeat(1000);
        assert!(!is_too_deep(format!("[{wide}0]").as_bytes()));
    }
}
