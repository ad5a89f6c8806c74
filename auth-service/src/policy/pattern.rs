//! Patterns for the names of tools and methods.

use std::fmt;

use serde::Serialize;

/// A name in which `*` stands for any text, including an empty one. It is case-sensitive, as in MCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Pattern(String);

/// Maximum length of a pattern in bytes. Tool names have at most 128 (2025-11-25, "Tool Names").
const MAX_LEN: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pattern must have 1 to 128 characters and no control characters; * stands for any text")]
pub(super) struct InvalidPattern;

impl Pattern {
    /// Reads a pattern of 1 to 128 bytes without control characters.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let valid = (1..=MAX_LEN).contains(&text.len()) && !text.chars().any(char::is_control);
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidPattern) }
    }

    /// The pattern as written in the policy file.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern matches the whole of `name` ([`contract::pattern`]).
    pub(super) fn matches(&self, name: &str) -> bool {
        contract::pattern::matches(&self.0, name)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_1_to_128_characters() {
        assert!(Pattern::parse(&"x".repeat(128)).unwrap().matches(&"x".repeat(128)));
        for text in ["", "a\nb", &"x".repeat(129)] {
            assert!(Pattern::parse(text).is_err(), "{text:?}");
        }
    }
}
