//! Ids as JSON text: parses the wrapper's numbers, and compares ids.

use std::borrow::Cow;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;

use super::object::string;

/// The largest integer up to which a float can represent every integer.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Parses an id or a token of the wrapper. Some servers write every id as a string, and some write every number
/// as a float (`7.0`, `7e0`), which the official clients accept. The wrapper's ids are always numbers, so this
/// is unambiguous.
pub fn own_number(text: &[u8]) -> Option<u64> {
    let text = text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(text);
    let text = std::str::from_utf8(text)
        .ok()
        .filter(|text| text.starts_with(|first| ('1'..='9').contains(&first)))?;
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let is_tight = !text.ends_with(|last: char| last.is_ascii_whitespace());
    // serde_json checks the syntax. Its value can differ in the last digit.
    serde_json::from_str::<f64>(text).ok().filter(|_| is_tight)?;
    let number: f64 = text.parse().ok()?;
    // For an integer that a float represents exactly, both types are formatted identically.
    (number <= MAX_EXACT && number.fract() == 0.0).then(|| format!("{number}").parse().ok()).flatten()
}

/// Whether two ids have the same value, even if they are escaped differently (`"\u0061"` is `"a"`).
pub fn same_id(one: &str, other: &str) -> bool {
    one == other || (one.contains('\\') || other.contains('\\')) && value(one) == value(other)
}

/// A hash of an id for [`same_id`]. Ids with the same value have the same key, and different ids almost always
/// have different keys. With it, an id can be compared with many others without decoding each of them (attack
/// 100). Keys are different in each process, so that a client cannot create ids with the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdKey(u64);

impl IdKey {
    /// The key of an id, as JSON text.
    pub fn of(id: &str) -> Self {
        static KEYS: OnceLock<RandomState> = OnceLock::new();
        Self(KEYS.get_or_init(RandomState::new).hash_one(value(id)))
    }
}

#[cfg(test)]
thread_local! {
    /// The number of ids that this thread has decoded.
    pub static DECODED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn value(id: &str) -> Cow<'_, str> {
    #[cfg(test)]
    DECODED.set(DECODED.get() + 1);
    match string(id) {
        Some(text) => Cow::Owned(format!("\"{text}")),
        None => Cow::Borrowed(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_that_a_float_represents_is_read_exactly() {
        let mut number: u64 = 7_301_942_316_271_337;
        for _ in 0..2000 {
            assert_eq!(own_number(format!("{number}.0").as_bytes()), Some(number));
            number = number * 3 % (1 << 53) + 1;
        }
    }

    #[test]
    fn an_id_of_ours_is_known_as_a_number_a_string_and_a_float() {
        for text in ["17", "\"17\"", "17.0", "\"17.00\"", "17e0", "1.7E+1", "170e-1"] {
            assert_eq!(own_number(text.as_bytes()), Some(17), "{text}");
        }
        for text in [
            "",
            "017",
            "0",
            "-17",
            "17.5",
            "17.",
            "\"17",
            "1e99",
            "17.0 ",
            "\" 17\"",
            "[17]",
            "99999999999999999999",
        ] {
            assert_eq!(own_number(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn equal_ids_are_equal_in_any_spelling_and_a_number_is_no_string() {
        assert!(same_id(r#""\u00e9\/""#, "\"é/\""));
        assert_eq!(IdKey::of(r#""\u00e9\/""#), IdKey::of("\"é/\""));
        assert_ne!(IdKey::of("1"), IdKey::of("\"1\""));
        assert!(!same_id("1", "\"1\""));
        assert!(!same_id(r#""\u0031""#, "1"));
    }
}
