//! What a wrapped service is told of the rules that its caller does not meet, since only it sees the body.

use crate::domain::resource::ResourceUri;
use crate::facts::Facts;
use crate::keys::tokens::UnmetRule;

use super::Policy;
use super::pattern::Pattern;
use super::service::{Rule, Service, Subject};
use super::who::Person;

/// Bytes of JSON in the longest list. It travels in a header that nginx, as it comes, reads into 4 KiB with all others.
pub(super) const LONGEST: usize = 1536;

impl Policy {
    /// The rules of the service at `resource` that the bearer of `facts` does not meet (claim `tool_rules`). They depend
    /// on nothing but the facts, the resource and the policy's epoch.
    pub fn unmet_rules(&self, facts: &Facts, resource: &ResourceUri) -> Vec<UnmetRule> {
        let Ok(Some(service)) = self.service(resource) else { return Vec::new() };
        let unmet = |rule: &&Rule| {
            let needs = &rule.needs;
            !needs.who.includes(Person::from(facts)) || !facts.scope.covers(&needs.scope)
        };
        service
            .rules
            .iter()
            .filter(unmet)
            .map(|rule| told(rule, service, !rule.needs.who.includes(Person::from(facts))))
            .collect()
    }
}

fn told(rule: &Rule, service: &Service, denied: bool) -> UnmetRule {
    let texts = |patterns: &[Pattern]| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
    let names: Vec<String> = texts(&rule.patterns);
    let (tools, methods) = match rule.subject {
        Subject::Tool => (names, Vec::new()),
        Subject::Method => (Vec::new(), names),
    };
    let scope = service.needs.scope.union(&rule.needs.scope).minimal();
    UnmetRule {
        tools,
        methods,
        except: texts(&rule.except),
        scopes: if denied { Vec::new() } else { scope.tokens().cloned().collect() },
        denied,
    }
}

/// Bytes of the list for a caller who meets nothing.
pub(super) fn longest_list(service: &Service) -> usize {
    let longer = |rule: &Rule| {
        let length = |denied| {
            serde_json::to_string(&told(rule, service, denied)).map_or(usize::MAX, |json| json.len())
        };
        length(true).max(length(false))
    };
    service.rules.iter().map(longer).fold(2, |sum, length| sum.saturating_add(length).saturating_add(1))
}
