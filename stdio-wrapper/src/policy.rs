//! Tool rules: which scopes and groups a `tools/call` needs. Pure.

use serde::Deserialize;

/// A file of tool rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolRules {
    /// Every rule whose pattern matches applies.
    #[serde(default)]
    tool: Vec<ToolRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolRule {
    /// Tool name; `*` stands for any text.
    #[serde(rename = "match")]
    pattern: String,
    /// All of these are needed.
    #[serde(default)]
    scopes: Vec<String>,
    /// One of these is needed; empty: any caller.
    #[serde(default)]
    groups: Vec<String>,
}

/// Whether a call may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allow,
    /// Scopes are missing; every scope that the call needs is named (RFC 6750 §3.1).
    NeedsScopes(Vec<String>),
    /// The caller is in none of the groups.
    WrongGroup,
}

impl ToolRules {
    /// Reads a rule file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rules: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for rule in &rules.tool {
            if rule.pattern.is_empty() {
                return Err("a rule has an empty `match`; write `match = \"*\"` for every tool".to_owned());
            }
            if rule.scopes.is_empty() && rule.groups.is_empty() {
                return Err(format!("the rule for `{}` names neither `scopes` nor `groups`", rule.pattern));
            }
        }
        Ok(rules)
    }

    /// Decides about one call.
    pub fn decide(&self, tool: &str, scopes: &[String], groups: &[String]) -> Decision {
        let matching: Vec<&ToolRule> = self.tool.iter().filter(|rule| matches(&rule.pattern, tool)).collect();
        if matching
            .iter()
            .any(|rule| !rule.groups.is_empty() && !rule.groups.iter().any(|group| groups.contains(group)))
        {
            return Decision::WrongGroup;
        }
        let mut needed: Vec<String> = matching.iter().flat_map(|rule| rule.scopes.iter().cloned()).collect();
        needed.sort_unstable();
        needed.dedup();
        if needed.iter().all(|scope| scopes.contains(scope)) {
            Decision::Allow
        } else {
            Decision::NeedsScopes(needed)
        }
    }
}

/// Glob with `*` only; greedy from the left with one place to fall back to, so the time is bounded by the product of
/// both lengths.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> ToolRules {
        ToolRules::parse(
            "[[tool]]\nmatch = \"delete_*\"\nscopes = [\"mcp:write\"]\n\
             [[tool]]\nmatch = \"*_all\"\nscopes = [\"mcp:admin\"]\ngroups = [\"ops\", \"root\"]\n",
        )
        .unwrap()
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn every_matching_rule_applies() {
        let rules = rules();
        assert_eq!(rules.decide("list", &[], &[]), Decision::Allow);
        assert_eq!(rules.decide("delete_one", &words("mcp:write"), &[]), Decision::Allow);
        assert_eq!(rules.decide("delete_one", &[], &[]), Decision::NeedsScopes(words("mcp:write")));
        assert_eq!(rules.decide("delete_all", &words("mcp:write mcp:admin"), &[]), Decision::WrongGroup);
        assert_eq!(
            rules.decide("delete_all", &words("mcp:write"), &words("ops")),
            Decision::NeedsScopes(words("mcp:admin mcp:write"))
        );
        assert_eq!(
            rules.decide("delete_all", &words("mcp:admin mcp:write"), &words("root")),
            Decision::Allow
        );
    }

    #[test]
    fn patterns_match_whole_names_and_their_letters_case() {
        assert!(matches("*", ""));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(!matches("a*b", "a-b-c"));
        assert!(!matches("delete_*", "Delete_x"));
        assert!(!matches("", "x"));
    }

    #[test]
    fn a_rule_that_asks_for_nothing_is_refused() {
        assert!(ToolRules::parse("[[tool]]\nmatch = \"x\"\n").is_err());
        assert!(ToolRules::parse("[[tool]]\nmatch = \"x\"\nscope = [\"a\"]\n").is_err());
    }
}
