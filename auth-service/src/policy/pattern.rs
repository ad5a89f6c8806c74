//! Patterns of tool and method names.

use std::fmt;

use serde::Serialize;

/// A name with `*` for any text, the empty one too. Letters compare with their case, as MCP compares names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Pattern(String);

/// Bytes in the longest pattern: tool names have 128 at most (2025-11-25, "Tool Names").
const LONGEST: usize = 128;

/// Not a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pattern is 1 to 128 characters without control characters; * stands for any text")]
pub(super) struct InvalidPattern;

impl Pattern {
    /// Reads a pattern.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let valid = (1..=LONGEST).contains(&text.len()) && !text.chars().any(char::is_control);
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidPattern) }
    }

    /// The pattern's text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `name` fits. Greedy from the left with one place to fall back to, so the time is bounded by
    /// the product of both lengths.
    pub(super) fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at_pattern, mut at_name) = (0, 0);
        let mut fallback: Option<(usize, usize)> = None;
        while at_name < name.len() {
            if pattern.get(at_pattern) == Some(&b'*') {
                fallback = Some((at_pattern + 1, at_name));
                at_pattern += 1;
            } else if pattern.get(at_pattern) == name.get(at_name) {
                at_pattern += 1;
                at_name += 1;
            } else if let Some((after_star, from)) = fallback {
                fallback = Some((after_star, from + 1));
                at_pattern = after_star;
                at_name = from + 1;
            } else {
                return false;
            }
        }
        pattern.get(at_pattern..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
    }
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

    proptest! {
        #[test]
        fn a_star_anywhere_fits_more(name in "[a-c]{0,6}", pattern in "[a-c*]{1,6}", at in 0usize..6) {
            let at = at.min(pattern.len());
            let wider = format!("{}*{}", &pattern[..at], &pattern[at..]);
            prop_assert!(!matches(&pattern, &name) || matches(&wider, &name));
        }
    }
}
