//! May this request pass? A pure function of who is asking, the rules, and what is asked for.

use crate::domain::resource::ResourceUri;
use crate::domain::scope::Scope;
use crate::facts::Facts;

use super::Policy;
use super::operation::Operation;
use super::service::{LegacyTools, Lookalike, Needs, Rule, Service};
use super::who::Person;

/// What the request brought to prove who it is from.
#[derive(Debug, Clone, Copy)]
pub enum Presented<'a> {
    /// No token.
    Nothing,
    /// A token that is not valid, and why.
    InvalidToken(&'static str),
    /// A valid token.
    Token(&'a Facts),
}

/// What the request is for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Where it goes.
    pub resource: &'a ResourceUri,
    /// HTTP method.
    pub http_method: &'a str,
    /// What it is about to do there.
    pub operation: Operation<'a>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may pass.
    Allow,
    /// It may not.
    Deny(Denial),
}

/// Why a request may not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// It has to log in (401, no `error`: RFC 6750 §3.1).
    Unauthenticated {
        /// What to ask for.
        scope: Scope,
    },
    /// Its token does not count here (401 `invalid_token`).
    InvalidToken {
        /// Why, for the client's developer.
        reason: &'static str,
        /// What to ask for.
        scope: Scope,
    },
    /// Its token does not allow this (403 `insufficient_scope`).
    InsufficientScope {
        /// Everything that is needed, and what was granted already: a client that asks for exactly this gets what it
        /// needs and keeps what it has (MCP authorization, "Scope Challenge Handling").
        scope: Scope,
    },
    /// The rules are not for this person, or the service does not take this (403). No challenge: no scope that the client
    /// could ask for would help.
    Forbidden {
        /// Why, for the person.
        reason: &'static str,
    },
}

/// What stands in the way of a person.
pub(super) const LOOKALIKE: &str = "the path differs from that of a rule only in case, or in a dot or blank at the end of a segment; \
                                    write it as the service does";
pub(super) const NOT_FOR_ANYTHING: &str = "this account may not use any service here";
pub(super) const NOT_FOR_SERVICE: &str = "this account may not use this service";
pub(super) const NOT_FOR_OPERATION: &str = "this account may not do this here";
pub(super) const NOT_THIS_METHOD: &str = "this service does not take this HTTP method";

/// Everything that a request must meet.
pub(super) struct Requirements<'p> {
    pub(super) service: Option<&'p Service>,
    base: &'p Scope,
    pub(super) rules: Vec<&'p Rule>,
}

impl<'p> Requirements<'p> {
    pub(super) fn of(policy: &'p Policy, asked: &Asked<'_>) -> Result<Self, Lookalike> {
        let service = policy.service(asked.resource)?;
        let rules = service.map_or_else(Vec::new, |service| applying(service, asked.operation));
        let base = service.map_or(&policy.default_scope, |service| &service.needs.scope);
        Ok(Self { service, base, rules })
    }

    /// All scopes that are needed, in one.
    pub(super) fn scope(&self) -> Scope {
        self.rules.iter().fold(self.base.clone(), |all, rule| all.union(&rule.needs.scope)).minimal()
    }

    fn are_covered_by(&self, granted: &Scope) -> bool {
        granted.covers(self.base) && self.rules.iter().all(|rule| granted.covers(&rule.needs.scope))
    }
}

/// The rules of `service` that decide here about `operation`.
fn applying<'s>(service: &'s Service, operation: Operation<'_>) -> Vec<&'s Rule> {
    if operation == Operation::Unknown && service.legacy == LegacyTools::Wrapper {
        return Vec::new();
    }
    service.rules.iter().filter(|rule| rule.is_about(operation)).collect()
}

/// Decides. Anything not allowed here is denied.
pub fn decide(presented: Presented<'_>, policy: &Policy, asked: &Asked<'_>) -> Decision {
    // Before who it is: no login would help.
    let Ok(needed) = Requirements::of(policy, asked) else {
        return Decision::Deny(Denial::Forbidden { reason: LOOKALIKE });
    };
    let facts = match presented {
        Presented::Nothing => {
            return Decision::Deny(Denial::Unauthenticated { scope: needed.scope() });
        }
        Presented::InvalidToken(reason) => {
            return Decision::Deny(Denial::InvalidToken { reason, scope: needed.scope() });
        }
        Presented::Token(facts) => facts,
    };
    // A token is good only for what it was issued for (RFC 8707 §2.2, MCP "Token Audience Binding").
    if !facts.resources.iter().any(|audience| audience.includes(asked.resource)) {
        let reason = "the access token was issued for another resource";
        return Decision::Deny(Denial::InvalidToken { reason, scope: needed.scope() });
    }
    // Who comes before what: a person who is not let in anyway must not be sent to consent once more.
    if let Some(reason) = obstacle(policy, &needed, Person::from(facts), asked.http_method) {
        return Decision::Deny(Denial::Forbidden { reason });
    }
    if needed.are_covered_by(&facts.scope) {
        return Decision::Allow;
    }
    let granted = facts.scope.within(&policy.catalogue);
    Decision::Deny(Denial::InsufficientScope { scope: needed.scope().union(&granted).minimal() })
}

/// What no scope would mend.
fn obstacle(
    policy: &Policy,
    needed: &Requirements<'_>,
    person: Person<'_>,
    http_method: &str,
) -> Option<&'static str> {
    let lets_in = |needs: &Needs| needs.who.includes(person);
    if !policy.allowed.includes(person) {
        return Some(NOT_FOR_ANYTHING);
    }
    let service = needed.service?;
    if !lets_in(&service.needs) {
        return Some(NOT_FOR_SERVICE);
    }
    let methods = &service.http_methods;
    if !methods.is_empty() && !methods.iter().any(|method| method == http_method) {
        return Some(NOT_THIS_METHOD);
    }
    (!needed.rules.iter().all(|rule| lets_in(&rule.needs))).then_some(NOT_FOR_OPERATION)
}
