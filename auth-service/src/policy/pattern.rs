//! Patterns for the names of tools and methods.

use std::fmt;

use memchr::memmem;
use serde::Serialize;

/// A name in which `*` stands for any text, including an empty one. Case matters, as in MCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Pattern(String);

/// Maximum length of a pattern in bytes. Tool names have at most 128 (2025-11-25, "Tool Names").
const LONGEST: usize = 128;

/// The text is not a valid pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pattern is 1 to 128 characters without control characters; * stands for any text")]
pub(super) struct InvalidPattern;

impl Pattern {
    /// Reads a pattern of 1 to 128 bytes without control characters.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let valid = (1..=LONGEST).contains(&text.len()) && !text.chars().any(char::is_control);
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidPattern) }
    }

    /// The pattern as written in the policy file.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern matches the whole of `name`. Anyone can send a name without a token, so the time
    /// grows with the sum of both lengths and not with their product (attack 92).
    pub(super) fn matches(&self, name: &str) -> bool {
        fits(self.0.as_bytes(), name.as_bytes(), memmem::find)
    }
}

/// Matches the parts between stars from left to right, each after the end of the part before. Therefore
/// `find` (text, part to find) never sees a byte of the name twice.
fn fits(pattern: &[u8], name: &[u8], mut find: impl FnMut(&[u8], &[u8]) -> Option<usize>) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    match rest.strip_suffix(last) {
        Some(between) => rest = between,
        None => return false,
    }
    parts.all(|part| {
        let behind = find(rest, part).and_then(|at| rest.get(at + part.len()..));
        rest = behind.unwrap_or_default();
        behind.is_some()
    })
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_pattern_fits_whole_names_in_their_case() {
        assert!(matches("*", "") && matches("delete_*", "delete_") && matches("a*b*c", "a-b-b-c"));
        assert!(
            !matches("delete_*", "undelete_x")
                && !matches("a*b", "a-b-c")
                && !matches("delete_*", "Delete_x")
        );
        for text in ["", "a\nb", &"x".repeat(129)] {
            assert!(Pattern::parse(text).is_err(), "{text:?}");
        }
    }

    /// A slow reference implementation. After each byte of the pattern, it keeps all positions in the name up
    /// to which the pattern can match.
    fn means(pattern: &[u8], name: &[u8]) -> bool {
        let mut places = vec![0];
        for byte in pattern {
            places = match byte {
                b'*' => places.first().map(|first| (*first..=name.len()).collect()).unwrap_or_default(),
                _ => places.iter().filter(|at| name.get(**at) == Some(byte)).map(|at| at + 1).collect(),
            };
        }
        places.contains(&name.len())
    }

    #[test]
    fn a092_a_long_name_costs_its_length_and_no_more() {
        for pattern in ["*a*b*c*", "*aaaaaaab*aaaaaaab*", "a*aa*aaa*b", "**************z", "*"] {
            let name = "a".repeat(45_000);
            let mut searched = 0;
            fits(pattern.as_bytes(), name.as_bytes(), |text, part| {
                let found = memmem::find(text, part);
                searched += found.map_or(text.len(), |at| at + part.len());
                found
            });
            assert!(searched <= name.len(), "{pattern}: {searched} bytes of {}", name.len());
        }
    }

    proptest! {
        #[test]
        fn a_pattern_fits_what_it_means(pattern in "[a-c*]{1,8}", name in "[a-c]{0,12}") {
            prop_assert_eq!(matches(&pattern, &name), means(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn no_byte_of_a_name_is_searched_twice(pattern in "[ab*]{1,16}", name in "[ab]{0,64}") {
            let mut searched = 0;
            fits(pattern.as_bytes(), name.as_bytes(), |text, part| {
                let found = memmem::find(text, part);
                searched += found.map_or(text.len(), |at| at + part.len());
                found
            });
            prop_assert!(searched <= name.len());
        }

        #[test]
        fn a_star_anywhere_fits_more(name in "[a-c]{0,6}", pattern in "[a-c*]{1,6}", at in 0usize..6) {
            let at = at.min(pattern.len());
            let wider = format!("{}*{}", &pattern[..at], &pattern[at..]);
            prop_assert!(!matches(&pattern, &name) || matches(&wider, &name));
        }
    }
}
