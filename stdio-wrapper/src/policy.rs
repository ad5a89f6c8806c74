//! Decides whether a caller is allowed to send a message, according to the wrapper's own tool rules and to the
//! rules that the authorization service cannot enforce itself. This module is pure.

mod denied;

use std::sync::Arc;

use contract::pattern::matches;
use contract::rules::UnmetRule;
use contract::scope::includes;
use serde::Deserialize;

pub(crate) use self::denied::Denied;

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
    /// A pattern for tool names. `*` matches any text.
    #[serde(rename = "match")]
    pattern: String,
    /// The caller needs all of these scopes.
    #[serde(default)]
    scopes: Vec<String>,
    /// The caller must be in one of these groups. If the list is empty, no group is required.
    #[serde(default)]
    groups: Vec<String>,
}

/// The rules of the authorization service that this caller does not meet (claim `tool_rules` of the assertion).
/// The authorization service does not see request bodies, so the wrapper applies these rules to the bodies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnmetRules(pub Vec<UnmetRule>);

/// The rules for one caller, which determine the messages that it is allowed to send to a child. Cloning is
/// cheap.
#[derive(Debug, Clone, Default)]
pub struct Gate(Option<Arc<Held>>);

/// The scopes and groups of a caller, and the rules that apply.
#[derive(Debug)]
struct Held {
    unmet: UnmetRules,
    own: Option<Arc<ToolRules>>,
    scopes: Vec<String>,
    groups: Vec<String>,
}

/// The permission to send a message with this method to a child. No request or notification is sent without
/// one. It can be obtained in only two ways: the rules allow a caller's message, or the message comes from the
/// wrapper itself.
#[derive(Debug)]
pub struct Permit<'a> {
    method: &'a str,
    /// The rules for the caller, or `None` for one of the wrapper's own messages.
    gate: Option<Gate>,
}

/// The wrapper's own messages to children, which belong to no caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// `notifications/initialized`, which completes the handshake.
    Initialized,
    /// `notifications/cancelled`, for an abandoned request.
    Cancelled,
    /// `tools/list`, to find out which tool arguments must be repeated in headers.
    ListTools,
}

impl<'a> Permit<'a> {
    /// A permit for one of the wrapper's own messages.
    pub fn ours(own: Own) -> Permit<'static> {
        let method = match own {
            Own::Initialized => "notifications/initialized",
            Own::Cancelled => "notifications/cancelled",
            Own::ListTools => "tools/list",
        };
        Permit { method, gate: None }
    }

    /// The method of the permitted message.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The rules that allowed the message. They also apply to all messages that result from it.
    pub fn gate(&self) -> Gate {
        self.gate.clone().unwrap_or_else(Gate::shut)
    }
}

impl Gate {
    /// The rules for a caller with these scopes and groups.
    pub fn new(
        unmet: &UnmetRules,
        own: Option<&Arc<ToolRules>>,
        scopes: &[String],
        groups: &[String],
    ) -> Self {
        if unmet.is_empty() && own.is_none() {
            return Self::default();
        }
        Self(Some(Arc::new(Held {
            unmet: unmet.clone(),
            own: own.cloned(),
            scopes: scopes.to_vec(),
            groups: groups.to_vec(),
        })))
    }

    /// Rules that deny every message.
    fn shut() -> Self {
        let everything = || vec!["*".to_owned()];
        let rule = UnmetRule { methods: everything(), denied: true, ..UnmetRule::default() };
        Self::new(&UnmetRules(vec![rule]), None, &[], &[])
    }

    /// Whether every message is allowed, so that messages need not be examined.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Returns a permit if the caller is allowed to send a message with this method and, for `tools/call`, with
    /// this tool.
    pub fn pass<'a>(&self, method: &'a str, tool: Option<&str>) -> Result<Permit<'a>, Decision> {
        let permit = Permit { method, gate: Some(self.clone()) };
        let Some(held) = &self.0 else { return Ok(permit) };
        let by_us = match (&held.own, tool) {
            (Some(rules), Some(tool)) => rules.decide(tool, &held.scopes, &held.groups),
            _ => Decision::Allow,
        };
        match held.unmet.decide(RequestedCall { method, tool }).and(by_us) {
            Decision::Allow => Ok(permit),
            refusal => Err(refusal),
        }
    }
}

/// The parts of a message that rules apply to.
#[derive(Debug, Clone, Copy)]
struct RequestedCall<'a> {
    method: &'a str,
    /// The name of the tool, if the method is `tools/call`.
    tool: Option<&'a str>,
}

impl UnmetRules {
    /// Whether the caller meets every rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Decides whether the caller can send this message.
    fn decide(&self, asked: RequestedCall<'_>) -> Decision {
        let any = |patterns: &[String], name: &str| patterns.iter().any(|pattern| matches(pattern, name));
        // Some servers ignore the case of method names, and no server has two methods that differ only in case.
        let method = asked.method.to_ascii_lowercase();
        let any_folded = |patterns: &[String]| {
            patterns.iter().any(|pattern| matches(&pattern.to_ascii_lowercase(), &method))
        };
        let matching: Vec<&UnmetRule> = self
            .0
            .iter()
            .filter(|rule| {
                let is_about_tool = |tool| any(&rule.tools, tool) && !any(&rule.except, tool);
                let is_about_method = any_folded(&rule.methods) && !any(&rule.except, asked.method);
                is_about_method || asked.tool.is_some_and(is_about_tool)
            })
            .collect();
        // If an unmet rule requires no scopes, more scopes do not help.
        if matching.iter().any(|rule| rule.denied || rule.scopes.is_empty()) {
            return Decision::WrongGroup;
        }
        match sorted(matching.iter().flat_map(|rule| rule.scopes.iter().cloned())) {
            needed if needed.is_empty() => Decision::Allow,
            needed => Decision::NeedsScopes(needed),
        }
    }
}

/// Whether a call is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The call is allowed.
    Allow,
    /// The caller lacks scopes. The value contains all scopes that the call needs (RFC 6750 §3.1).
    NeedsScopes(Vec<String>),
    /// The caller is in none of the required groups.
    WrongGroup,
}

impl Decision {
    /// Combines two decisions. Both must allow the call, and the needed scopes are the union of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::WrongGroup, _) | (_, Self::WrongGroup) => Self::WrongGroup,
            (Self::NeedsScopes(some), Self::NeedsScopes(more)) => {
                Self::NeedsScopes(sorted(some.into_iter().chain(more)))
            }
            (Self::Allow, decision) | (decision, Self::Allow) => decision,
        }
    }
}

fn sorted(scopes: impl Iterator<Item = String>) -> Vec<String> {
    let mut scopes: Vec<String> = scopes.collect();
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

/// The scopes for the challenge: those that the call needs and those that the caller was granted. Clients
/// request exactly the scopes in the challenge and would lose all others (2025-11-25, "Scope Challenge
/// Handling"). Scopes that another scope includes are omitted. `offline_access` is also omitted, because only
/// the client decides whether it needs that scope.
pub fn scopes_to_ask_for(needed: &[String], granted: &[String]) -> Vec<String> {
    let all = sorted(needed.iter().chain(granted).filter(|scope| *scope != "offline_access").cloned());
    let is_spare = |scope: &String| all.iter().any(|other| other != scope && includes(other, scope));
    all.iter().filter(|scope| !is_spare(scope)).cloned().collect()
}

impl ToolRules {
    /// Parses the text of a rule file (TOML). The error describes what is wrong with it.
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

    /// Decides whether a caller with these scopes and groups can call this tool.
    pub fn decide(&self, tool: &str, scopes: &[String], groups: &[String]) -> Decision {
        let matching: Vec<&ToolRule> = self.tool.iter().filter(|rule| matches(&rule.pattern, tool)).collect();
        if matching
            .iter()
            .any(|rule| !rule.groups.is_empty() && !rule.groups.iter().any(|group| groups.contains(group)))
        {
            return Decision::WrongGroup;
        }
        let needed = sorted(matching.iter().flat_map(|rule| rule.scopes.iter().cloned()));
        if needed.iter().all(|needed| scopes.iter().any(|held| includes(held, needed))) {
            Decision::Allow
        } else {
            Decision::NeedsScopes(needed)
        }
    }
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
    fn a_client_is_told_to_ask_for_what_it_needs_and_what_it_has() {
        let asked = |needed, granted| scopes_to_ask_for(&words(needed), &words(granted));
        assert_eq!(asked("mcp:write", "mcp:read offline_access"), words("mcp:read mcp:write"));
        assert_eq!(asked("mcp notes:read", "mcp:read"), words("mcp notes:read"));
        assert_eq!(asked("mcp:write", ""), words("mcp:write"));
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
    fn a_scope_includes_those_below_it_and_not_its_namesakes() {
        let rules = rules();
        assert_eq!(rules.decide("delete_one", &words("mcp"), &[]), Decision::Allow);
        for held in ["mc", "mcp:", "mcp:writer", "mcp:write:all", ""] {
            assert!(rules.decide("delete_one", &words(held), &[]) != Decision::Allow, "{held}");
        }
    }

    fn unmet() -> UnmetRules {
        let rules = serde_json::from_str(
            r#"[{"tools":["delete_*","drop"],"except":["delete_draft"],"scopes":["mcp:read","mcp:write"]},{"tools":["*_all"],"scopes":["mcp:admin"]},
                {"tools":["delete_root"],"denied":true},{"methods":["resources/*"],"scopes":["mcp:files"]},{"tools":["odd"]}]"#,
        );
        UnmetRules(rules.unwrap())
    }

    #[test]
    fn unmet_rules_refuse_what_they_match_and_nothing_else() {
        let tool = |name| unmet().decide(RequestedCall { method: "tools/call", tool: Some(name) });
        assert_eq!(tool("list"), Decision::Allow);
        assert_eq!(tool("delete_draft"), Decision::Allow);
        assert_eq!(tool("drop"), Decision::NeedsScopes(words("mcp:read mcp:write")));
        assert_eq!(tool("delete_all"), Decision::NeedsScopes(words("mcp:admin mcp:read mcp:write")));
        assert_eq!(tool("delete_root"), Decision::WrongGroup);
        assert_eq!(tool("odd"), Decision::WrongGroup, "a rule that no caller can meet is not met");
        let method = |method| unmet().decide(RequestedCall { method, tool: None });
        assert_eq!(method("resources/read"), Decision::NeedsScopes(words("mcp:files")));
        assert_eq!(method("tools/list"), Decision::Allow);
    }

    #[test]
    fn a106_a_method_in_other_letters_is_under_the_same_rules() {
        let method = |method| unmet().decide(RequestedCall { method, tool: None });
        assert_eq!(method("Resources/Read"), Decision::NeedsScopes(words("mcp:files")));
    }

    #[test]
    fn a_gate_lets_pass_what_the_rules_allow_and_what_follows_from_it_is_asked_again() {
        let gate = Gate::new(&unmet(), Some(&Arc::new(rules())), &[], &[]);
        let call = |tool| gate.pass("tools/call", Some(tool));
        assert_eq!(call("delete_draft").unwrap_err(), Decision::NeedsScopes(words("mcp:write")));
        assert_eq!(call("delete_root").unwrap_err(), Decision::WrongGroup);
        let permit = call("list").unwrap();
        assert_eq!(permit.method(), "tools/call");
        for method in ["resources/subscribe", "Resources/Subscribe"] {
            assert!(permit.gate().pass(method, None).is_err(), "{method}");
        }
        let ours = Permit::ours(Own::ListTools);
        assert!(ours.gate().pass("tools/list", None).is_err(), "is nobody's");
        let open = Gate::default();
        assert!(open.is_open() && open.pass("x", None).is_ok());
    }

    #[test]
    fn two_decisions_allow_only_together() {
        let needs = |text| Decision::NeedsScopes(words(text));
        assert_eq!(Decision::Allow.and(Decision::Allow), Decision::Allow);
        assert_eq!(Decision::Allow.and(needs("b")), needs("b"));
        assert_eq!(needs("b").and(needs("a b")), needs("a b"));
        assert_eq!(needs("b").and(Decision::WrongGroup), Decision::WrongGroup);
    }

    #[test]
    fn a_rule_that_asks_for_nothing_is_refused() {
        assert!(ToolRules::parse("[[tool]]\nmatch = \"x\"\n").is_err());
        assert!(ToolRules::parse("[[tool]]\nmatch = \"x\"\nscope = [\"a\"]\n").is_err());
    }
}
