//! Scopes (RFC 6749 §3.3) with a hierarchy, as MCP recommends: `mcp` includes `mcp:read`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One scope token: 1 to 128 characters of printable ASCII without a space, `"` or `\`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ScopeToken(String);

impl ScopeToken {
    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this token includes `other` ([`contract::scope`]).
    fn includes(&self, other: &Self) -> bool {
        contract::scope::includes(&self.0, &other.0)
    }
}

impl TryFrom<String> for ScopeToken {
    type Error = InvalidScope;

    fn try_from(text: String) -> Result<Self, InvalidScope> {
        let valid = !text.is_empty()
            && text.len() <= 128
            && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5B | 0x5D..=0x7E));
        if valid { Ok(Self(text)) } else { Err(InvalidScope) }
    }
}

impl From<ScopeToken> for String {
    fn from(token: ScopeToken) -> Self {
        token.0
    }
}

/// A set of scope tokens. Its text form is sorted and separated by single spaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scope(BTreeSet<ScopeToken>);

impl Scope {
    /// Whether the set has no tokens.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tokens in sorted order.
    pub fn tokens(&self) -> impl Iterator<Item = &ScopeToken> {
        self.0.iter()
    }

    /// Whether this scope includes every token in `needed`, according to the hierarchy.
    pub fn covers(&self, needed: &Self) -> bool {
        needed.0.iter().all(|token| self.grants(token))
    }

    /// The tokens of `self` that `limit` includes.
    #[must_use]
    pub fn within(&self, limit: &Self) -> Self {
        Self(self.0.iter().filter(|token| limit.grants(token)).cloned().collect())
    }

    /// The tokens of both scopes.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).cloned().collect())
    }

    /// The tokens that both scopes include. If one token includes another, this is the narrower one.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        self.within(other).union(&other.within(self))
    }

    /// The tokens of `self` that `other` does not include.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        Self(self.0.iter().filter(|token| !other.grants(token)).cloned().collect())
    }

    /// The same scope, without tokens that another of its tokens includes.
    #[must_use]
    pub fn minimal(&self) -> Self {
        let spare = |token: &ScopeToken| self.0.iter().any(|held| held != token && held.includes(token));
        Self(self.0.iter().filter(|token| !spare(token)).cloned().collect())
    }

    fn grants(&self, needed: &ScopeToken) -> bool {
        self.0.iter().any(|held| held.includes(needed))
    }
}

impl FromIterator<ScopeToken> for Scope {
    fn from_iter<T: IntoIterator<Item = ScopeToken>>(tokens: T) -> Self {
        Self(tokens.into_iter().collect())
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        // No catalogue has more than 100 tokens. The limit prevents a request from creating a large set.
        let tokens: Vec<&str> = text.split(' ').filter(|token| !token.is_empty()).collect();
        if tokens.len() > 100 {
            return Err(InvalidScope);
        }
        tokens
            .into_iter()
            .map(|token| ScopeToken::try_from(token.to_owned()))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, token) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(token.as_str())?;
        }
        Ok(())
    }
}

/// The string breaks the grammar of RFC 6749 §3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scope is a list of tokens of printable ASCII without quotes or backslashes, separated by spaces")]
pub struct InvalidScope;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn a_parent_includes_its_children_and_not_its_namesakes() {
        assert!(scope("mcp").covers(&scope("mcp:read mcp:write:all")));
        assert!(!scope("mcp").covers(&scope("mcpx")));
        assert!(!scope("mcp:read").covers(&scope("mcp")));
        assert!(!scope("mcp:read").covers(&scope("mcp:readonly")));
        assert!(Scope::default().covers(&Scope::default()));
    }

    proptest! {
        #[test]
        fn text_form_reads_back(tokens in prop::collection::vec("[!#-\\[\\]-~]{1,20}", 0..8)) {
            let parsed = scope(&tokens.join(" "));
            prop_assert_eq!(scope(&parsed.to_string()), parsed);
        }

        #[test]
        fn what_is_within_a_limit_is_covered_by_it(
            a in prop::collection::vec("[a-c](:[a-c]){0,2}", 0..5),
            b in prop::collection::vec("[a-c](:[a-c]){0,2}", 0..5),
        ) {
            let (a, b) = (scope(&a.join(" ")), scope(&b.join(" ")));
            prop_assert!(b.covers(&a.within(&b)));
            prop_assert!(a.covers(&a.within(&b)));
            prop_assert!(a.covers(&a.meet(&b)) && b.covers(&a.meet(&b)));
            prop_assert_eq!(a.meet(&b), b.meet(&a));
        }

        #[test]
        fn a_minimal_union_grants_what_both_grant_and_no_more(
            a in prop::collection::vec("[a-c](:[a-c]){0,2}", 0..5),
            b in prop::collection::vec("[a-c](:[a-c]){0,2}", 0..5),
        ) {
            let (a, b) = (scope(&a.join(" ")), scope(&b.join(" ")));
            let union = a.union(&b).minimal();
            prop_assert!(union.covers(&a) && union.covers(&b));
            prop_assert!(union.tokens().all(|token| a.grants(token) || b.grants(token)));
        }
    }
}
