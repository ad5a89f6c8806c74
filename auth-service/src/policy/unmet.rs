//! The rules that a caller does not meet. They are sent to the wrapper, because only the wrapper reads the request
//! body.

use contract::rules::UnmetRule;

use crate::domain::resource::ResourceUri;
use crate::principal::Principal;

use super::Policy;
use super::pattern::Pattern;
use super::service::{Rule, Service, Subject};
use super::who::Person;

/// Maximum length of the list in bytes of JSON. It is sent in a response header, and nginx's default buffer for
/// all response headers is 4 KiB.
pub(super) const MAX_LEN: usize = 1536;

impl Policy {
    /// The rules of the service at `resource` that `principal` does not meet (claim
    /// `tool_rules`). The result depends only on the caller, the resource and the policy's epoch.
    pub fn unmet_rules(&self, principal: &Principal, resource: &ResourceUri) -> Vec<UnmetRule> {
        let Ok(Some(service)) = self.service(resource) else { return Vec::new() };
        let unmet = |rule: &&Rule| {
            let needs = &rule.needs;
            !needs.who.includes(Person::from(principal)) || !principal.scope.covers(&needs.scope)
        };
        service
            .rules
            .iter()
            .filter(unmet)
            .map(|rule| unmet_rule(rule, service, !rule.needs.who.includes(Person::from(principal))))
            .collect()
    }
}

fn unmet_rule(rule: &Rule, service: &Service, denied: bool) -> UnmetRule {
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
        scopes: if denied {
            Vec::new()
        } else {
            scope.tokens().map(|token| token.as_str().to_owned()).collect()
        },
        denied,
    }
}

/// Length of the list in bytes of JSON for a caller that meets no rule.
pub(super) fn longest_list(service: &Service) -> usize {
    let longer = |rule: &Rule| {
        let length = |denied| {
            serde_json::to_string(&unmet_rule(rule, service, denied)).map_or(usize::MAX, |json| json.len())
        };
        length(true).max(length(false))
    };
    service.rules.iter().map(longer).fold(2, |sum, length| sum.saturating_add(length).saturating_add(1))
}
